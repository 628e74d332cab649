"""An upper bound of the disk space of a sweep, computed before it begins, without PyTorch."""

import shutil
from dataclasses import dataclass

from convene.config.search_space import SearchSpace
from convene.datasets import Dataset
from convene.formatting import byte_size
from convene.search.pruning import most_epochs
from convene.storage import Storage
from convene.training.size import largest_configuration, network_bytes, state_bytes

# Measured on sweeps of 6 to 32 trials and up to 640 epochs, and rounded up. Beside its networks and logits, a
# trial takes 4 KB for its configuration, about 10 KB in MLflow's database, 4 KB in the study, a row in
# `trials.parquet` and its two copies, and up to 4 KB of unused block space for each of four files and a
# folder.
_TRIAL = 48_000
_EPOCH = 2_500  # of which MLflow takes 1,200 for four metrics and their indices, the record and study 300
_SWEEP = 4_000_000  # 1 MB for MLflow's empty tables, as much for a transaction on them; tables and cards
# report.html and its copy in MLflow: 2.2 MB each for a thousand trials, with up to 80 pictures.
_PAGES = 10_000_000
_MEMBER = 64_000  # the graph of a member in an exported file, beside its weights

_EXPORTED = 5
"""Files with the ensemble's weights: ONNX and pt2, their copies as artifacts, and MLflow's ONNX model."""


@dataclass(frozen=True)
class DiskUsage:
    """The disk space that a sweep can take, and the free space."""

    at_most: int
    """Bytes; see `disk_bound`."""
    free: int | None
    """Bytes; None in an object store, which has no limit."""
    root: str
    """The storage root."""

    def __str__(self) -> str:
        free = "" if self.free is None else f", of {byte_size(self.free)} free"
        return f"at most {byte_size(self.at_most)} under {self.root}{free}"

    @property
    def is_enough(self) -> bool:
        """Return whether this sweep cannot fill the disk."""
        return self.free is None or self.at_most <= self.free


def disk_usage(space: SearchSpace, dataset: Dataset, concurrency: int, storage: Storage) -> DiskUsage:
    """Return the sweep's bound, and the free space where the storage root is or will be."""
    at_most = disk_bound(space, dataset, concurrency)
    if not storage.is_local:
        return DiskUsage(at_most, None, storage.root)
    place = storage.local()
    while not place.exists():
        place = place.parent
    return DiskUsage(at_most, shutil.disk_usage(place).free, storage.root)


def disk_bound(space: SearchSpace, dataset: Dataset, concurrency: int) -> int:
    """Return the most bytes that a sweep adds to its storage root at any moment until it is finished.

    Counted are the logits and records of all trials; the networks of the best by loss and by accuracy; for
    each running trial its network, its checkpoint, and the largest of its files once more, because a file is
    written beside the one that it replaces; the export; the report; and the members' predictions on the test
    images. The incomplete files of a killed worker, which exist until its trial ends, are not counted.
    """
    trials, keep = space.base.search.trials, space.base.ensemble.saved_networks
    configuration = largest_configuration(space, dataset.image_shape, len(dataset.classes))
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
