"""Time and GPU memory of a few real training steps, measured on the workers that would train the trials."""

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

# Fraction of GPU memory kept free for fragmentation: a long run has more of it than this short one.
_RESERVED_FRACTION = 0.05


@dataclass(frozen=True)
class StepProfile:
    """Time and memory of a configuration's training steps."""

    epoch_seconds: float
    """Estimated seconds of an epoch, validation included."""
    gpu_bytes: int
    """Peak GPU memory of the process, images included; 0 on a CPU. An overestimate if other processes use the
    GPU, because their memory is counted too."""
    gpu_total_bytes: int
    """Total memory of the GPU; 0 on a CPU."""


@dataclass(frozen=True)
class GpuMemory:
    """GPU memory of the largest trial, as measured."""

    trial_bytes: int
    total_bytes: int

    @property
    def max_trials(self) -> int:
        """Return how many of the largest trial fit on one GPU; at least 1, since one was trained."""
        return max(1, int(self.total_bytes * (1 - _RESERVED_FRACTION)) // self.trial_bytes)


def profile_steps(
    configurations: Sequence[Configuration], data: TrainingData, search: SearchConfig, resources: Resources
) -> list[StepProfile | str]:
    """Train each configuration for a second or two, with the concurrency of the sweep.

    Returns:
        The profile of each configuration, in order; or the reason why it cannot be trained.
    """
    shared = ray.put(data)
    answers: list[ObjectRef[StepProfile]] = []
    pending: list[ObjectRef[StepProfile]] = []
    for configuration in configurations:
        if len(pending) == resources.concurrency:
            _, pending = ray.wait(pending)
        answers.append(_start(configuration, shared, search, resources.gpus_per_trial))
        pending.append(answers[-1])
    return [_result(answer) for answer in answers]


def measure_gpu_memory(
    configuration: Configuration, data: TrainingData, search: SearchConfig, nodes: Sequence[Node]
) -> GpuMemory | str:
    """Return the memory that a configuration takes on a whole GPU, or why it cannot be trained there.

    With several types of GPU, return the measurement of the one that holds the fewest trials. Each of `nodes`
    must have a GPU and the CPUs of a trial, or the measurement would wait forever.
    """
    shared = ray.put(data)
    gpu_types = sorted({node.gpu_type for node in nodes})
    answers = [_start(configuration, shared, search, 1.0, gpu_type) for gpu_type in gpu_types]
    measured = []
    for answer in answers:
        profile = _result(answer)
        if isinstance(profile, str):
            return profile
        measured.append(GpuMemory(profile.gpu_bytes, profile.gpu_total_bytes))
    return min(measured, key=lambda memory: memory.max_trials)


def _start(
    configuration: Configuration,
    shared: "ObjectRef[TrainingData]",
    search: SearchConfig,
    gpus: float,
    gpu_type: str = "",
) -> "ObjectRef[StepProfile]":
    device, threads = "cuda" if gpus else "cpu", max(1, int(search.cpus_per_trial))
    task = ray.remote(_run_steps).options(
        num_cpus=search.cpus_per_trial, num_gpus=gpus, accelerator_type=gpu_type or None, max_retries=0
    )
    answer: ObjectRef[StepProfile] = task.remote(configuration.model_dump_json(), shared, device, threads)
    return answer


def _result(answer: "ObjectRef[StepProfile]") -> StepProfile | str:
    try:
        return ray.get(answer)
    except ray.exceptions.RayError as error:
        # PyTorch raised, or the worker was killed, usually out of memory.
        return last_line(error)


def _run_steps(configuration: str, data: TrainingData, device: str, threads: int) -> StepProfile:
    import torch

    from convene.training.fit import Fit

    torch.set_num_threads(threads)
    on_gpu = device == "cuda"
    if on_gpu:  # Ray may reuse a process that has profiled another configuration
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = Fit(Configuration.model_validate_json(configuration), data, device).seconds_per_epoch()
    if not on_gpu:
        return StepProfile(seconds, 0, 0)
    free, total = torch.cuda.mem_get_info()
    # Memory outside PyTorch's allocator: the CUDA context and kernels.
    overhead = total - free - torch.cuda.memory_reserved()
    return StepProfile(seconds, torch.cuda.max_memory_reserved() + overhead, total)
