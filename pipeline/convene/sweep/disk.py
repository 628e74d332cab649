"""The most disk that a sweep can take, known before it begins: arithmetic alone, without PyTorch."""

import shutil
from dataclasses import dataclass

from convene.config.search_space import SearchSpace
from convene.datasets import Dataset
from convene.formatting import byte_size
from convene.search.pruning import most_epochs
from convene.storage import Storage
from convene.training.size import largest, network_bytes, state_bytes

# Measured on sweeps of 6 to 32 trials and up to 640 epochs, and rounded up. Beside its networks and logits
# a trial leaves 4 KB of configuration, some 10 KB in MLflow's database, 4 KB in the study, a row in
# `trials.parquet`, three times with its copies, and rounds four files and a folder up to blocks of 4 KB.
_TRIAL = 48_000
_EPOCH = 2_500  # of which MLflow takes 1,200 for four metrics and their indices, the record and study 300
_SWEEP = 4_000_000  # 1 MB for MLflow's empty tables, as much for a transaction on them; tables and cards
# report.html and its copy with MLflow: 2.2 MB each of a thousand trials, and at most 80 pictures.
_PAGES = 10_000_000
_MEMBER = 64_000  # the graph of a member in an exported file, beside its weights

_EXPORTED = 5
"""Files with the ensemble's weights: ONNX and pt2, both again as MLflow's artifacts, ONNX as its model."""


@dataclass(frozen=True)
class DiskUsage:
    """What a sweep can take of a disk, and what there is."""

    at_most: int
    """Bytes; see `most_bytes`."""
    free: int | None
    """Bytes; None where there is no end of them: in an object store."""
    root: str
    """The storage root."""

    def __str__(self) -> str:
        free = "" if self.free is None else f", of {byte_size(self.free)} free"
        return f"at most {byte_size(self.at_most)} under {self.root}{free}"

    @property
    def is_enough(self) -> bool:
        """Whether the disk cannot become full of this sweep."""
        return self.free is None or self.at_most <= self.free


def disk_usage(space: SearchSpace, dataset: Dataset, concurrency: int, storage: Storage) -> DiskUsage:
    """What the sweep can take, and what there is where the storage root is or will be."""
    at_most = disk_bound(space, dataset, concurrency)
    if not storage.is_local:
        return DiskUsage(at_most, None, storage.root)
    place = storage.local()
    while not place.exists():
        place = place.parent
    return DiskUsage(at_most, shutil.disk_usage(place).free, storage.root)


def disk_bound(space: SearchSpace, dataset: Dataset, concurrency: int) -> int:
    """At most so many bytes does a sweep add to its storage root, at any moment until it is finished.

    Its trials' logits and records; the networks of the best by loss and by accuracy; of each running trial
    its network, the state to go on from, and the largest of its files once more, because each is written
    beside the one that it replaces; the export; the report, and the members' answers to the test images. What
    a worker that is killed leaves unfinished, until its trial ends, is not counted.
    """
    trials, keep = space.base.search.trials, space.base.ensemble.networks
    configuration = largest(space, dataset.image_shape, len(dataset.classes))
    network = network_bytes(configuration.network, dataset.image_shape, len(dataset.classes))
    state = state_bytes(configuration, dataset.image_shape, len(dataset.classes))
    logits = 4 * len(dataset.valid) * len(dataset.classes)
    record = _EPOCH * most_epochs(space)
    members = min(space.base.ensemble.size, trials)
    answers = len(dataset.test) * (8 + 4 * members * len(dataset.classes))
    return (
        _SWEEP
        + _PAGES
        + answers
        + trials * (_TRIAL + logits + record)
        + min(2 * keep, trials) * network
        + min(concurrency, trials) * (network + state + max(state, logits, record))
        + _EXPORTED * members * (network + _MEMBER)
    )
