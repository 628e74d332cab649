"""What a few real steps take, on the workers that would train the trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray

from pipeline.cluster import Resources
from pipeline.config import Configuration, SearchConfig
from pipeline.datasets import TrainingData
from pipeline.errors import last_line

if TYPE_CHECKING:
    from ray import ObjectRef

# What a process takes of a GPU's memory beside its tensors. Not measured: there was no GPU to measure it on.
_CUDA_CONTEXT = 500_000_000


@dataclass(frozen=True)
class Steps:
    """A configuration's steps, made and timed."""

    seconds: float
    """That an epoch of such steps and of validation takes."""
    gpu_bytes: int
    """Most that its process takes of a GPU's memory, the images included; 0 on a CPU."""
    gpu_total: int
    """That the GPU has."""


def run(
    configurations: Sequence[Configuration], data: TrainingData, search: SearchConfig, resources: Resources
) -> list[Steps | str]:
    """Trains each configuration for a second or two, as many at a time as a sweep would train trials.

    Returns:
        What was seen of each, in order; or why it cannot be trained.
    """
    shared = ray.put(data)
    device, threads = "cuda" if search.gpus_per_trial else "cpu", max(1, int(search.cpus_per_trial))
    task = ray.remote(_make_steps).options(
        num_cpus=search.cpus_per_trial, num_gpus=search.gpus_per_trial, max_retries=0
    )
    answers: list[ObjectRef[Steps]] = []
    pending: list[ObjectRef[Steps]] = []
    for configuration in configurations:
        if len(pending) == resources.concurrency:
            _, pending = ray.wait(pending)
        answers.append(task.remote(configuration.model_dump_json(), shared, device, threads))
        pending.append(answers[-1])
    return [_seen(answer) for answer in answers]


def _seen(answer: "ObjectRef[Steps]") -> Steps | str:
    try:
        return ray.get(answer)
    except ray.exceptions.RayError as error:  # the worker was killed, for memory as a rule, or PyTorch raised
        return last_line(error)


def _make_steps(configuration: str, data: TrainingData, device: str, threads: int) -> Steps:
    import torch

    from pipeline.training import Fit

    torch.set_num_threads(threads)
    on_gpu = device == "cuda"
    if on_gpu:  # the process may have made other steps before
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = Fit(Configuration.model_validate_json(configuration), data, device).seconds_an_epoch()
    if not on_gpu:
        return Steps(seconds, 0, 0)
    taken = torch.cuda.max_memory_reserved() + _CUDA_CONTEXT
    return Steps(seconds, taken, torch.cuda.get_device_properties(0).total_memory)
