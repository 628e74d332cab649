"""What a few real steps take, on the workers that would train the trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray

from convene.cluster.capacity import Node, Resources
from convene.config.schema import Configuration, SearchConfig
from convene.datasets import TrainingData
from convene.errors import last_line

if TYPE_CHECKING:
    from ray import ObjectRef

# Of a GPU's memory, for what its allocator cannot give again: a short run shows less of it than a long one.
_SPARE = 0.05


@dataclass(frozen=True)
class Steps:
    """A configuration's steps, made and timed."""

    seconds: float
    """That an epoch of such steps and of validation takes."""
    gpu_bytes: int
    """Most that its process takes of a GPU's memory, the images included; 0 on a CPU. What other processes
    take of it counts too: with them it is too much."""
    gpu_total: int
    """That the GPU has."""


@dataclass(frozen=True)
class GpuMemory:
    """What was measured of a GPU, in bytes."""

    trial: int
    """That the largest trial takes."""
    total: int

    @property
    def trials(self) -> int:
        """How many of the largest trial it holds; one at least, for one was trained."""
        return max(1, int(self.total * (1 - _SPARE)) // self.trial)


def run(
    configurations: Sequence[Configuration], data: TrainingData, search: SearchConfig, resources: Resources
) -> list[Steps | str]:
    """Trains each configuration for a second or two, as many at a time as a sweep would train trials.

    Returns:
        What was seen of each, in order; or why it cannot be trained.
    """
    shared = ray.put(data)
    answers: list[ObjectRef[Steps]] = []
    pending: list[ObjectRef[Steps]] = []
    for configuration in configurations:
        if len(pending) == resources.concurrency:
            _, pending = ray.wait(pending)
        answers.append(_begin(configuration, shared, search, resources.gpus_per_trial))
        pending.append(answers[-1])
    return [_seen(answer) for answer in answers]


def gpu_memory(
    configuration: Configuration, data: TrainingData, search: SearchConfig, nodes: Sequence[Node]
) -> GpuMemory | str:
    """What a configuration takes of a whole GPU; of several kinds, on that which holds it the fewest times.

    `nodes` have a GPU each, and the processors of a trial: others would be waited for without end.

    Returns:
        What was measured, or why it cannot be trained there.
    """
    shared = ray.put(data)
    kinds = sorted({node.gpu_kind for node in nodes})
    answers = [_begin(configuration, shared, search, 1.0, kind) for kind in kinds]
    measured = []
    for answer in answers:
        steps = _seen(answer)
        if isinstance(steps, str):
            return steps
        measured.append(GpuMemory(steps.gpu_bytes, steps.gpu_total))
    return min(measured, key=lambda memory: memory.trials)


def _begin(
    configuration: Configuration,
    shared: "ObjectRef[TrainingData]",
    search: SearchConfig,
    gpus: float,
    kind: str = "",
) -> "ObjectRef[Steps]":
    device, threads = "cuda" if gpus else "cpu", max(1, int(search.cpus_per_trial))
    task = ray.remote(_make_steps).options(
        num_cpus=search.cpus_per_trial, num_gpus=gpus, accelerator_type=kind or None, max_retries=0
    )
    begun: ObjectRef[Steps] = task.remote(configuration.model_dump_json(), shared, device, threads)
    return begun


def _seen(answer: "ObjectRef[Steps]") -> Steps | str:
    try:
        return ray.get(answer)
    except ray.exceptions.RayError as error:  # the worker was killed, for memory as a rule, or PyTorch raised
        return last_line(error)


def _make_steps(configuration: str, data: TrainingData, device: str, threads: int) -> Steps:
    import torch

    from convene.training.fit import Fit

    torch.set_num_threads(threads)
    on_gpu = device == "cuda"
    if on_gpu:  # the process may have made other steps before
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = Fit(Configuration.model_validate_json(configuration), data, device).seconds_an_epoch()
    if not on_gpu:
        return Steps(seconds, 0, 0)
    free, total = torch.cuda.mem_get_info()
    # What is taken beside the tensors is the process's own context and its kernels.
    beside = total - free - torch.cuda.memory_reserved()
    return Steps(seconds, torch.cuda.max_memory_reserved() + beside, total)
