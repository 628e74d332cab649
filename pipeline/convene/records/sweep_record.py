"""The record of a sweep: one folder with its search space, its study, its trials and its result."""

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, final

from convene.config import search_space
from convene.config.search_space import SearchSpace
from convene.config.validation import suggestion
from convene.environment import DEFAULT_STORAGE, utc_now
from convene.errors import InputError
from convene.records import lock
from convene.records.result import SweepResult
from convene.records.sweep_name import as_name, check_name, numbered
from convene.storage import Storage

if TYPE_CHECKING:
    import pandas as pd

_FOLDER = "sweeps"
JOURNAL = "study.journal"
"""The Optuna study in the sweep's folder: a file, or a folder of objects in a bucket."""
EXPORT = "exports/ensemble"
"""The exported ensemble, in the sweep's folder."""
_SPACE, _ABOUT, _READS = "search_space.toml", "sweep.json", "test_reads.json"
_TRIALS, _RESULT = "trials.parquet", "result.json"
_REPORT = "report.html"


@dataclass(frozen=True)
class SweepMetadata:
    """A sweep's description, as recorded before its first trial."""

    name: str
    id: str
    """Unique, unlike the name, over all storage roots."""
    created: str
    """UTC, ISO 8601."""
    dataset: str
    classes: int
    train: int
    """Training images."""
    fingerprint: str
    """SHA-256 of the data set."""
    test_sha256: str
    versions: dict[str, str]
    """Versions of Python and of the libraries that the result depends on."""
    study: str = ""
    """URL of the study's database, without its password; empty if the study is in the sweep's folder."""


@dataclass(frozen=True)
class TestRead:
    """One opening of the test set."""

    time: str
    """UTC, ISO 8601."""
    sha256: str
    """SHA-256 of the test images and labels."""
    members: list[int]
    """Trials that were scored as an ensemble."""


@final
class SweepRecord:
    """The folder `sweeps/NAME` under a storage root."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.name = name
        self.storage = storage
        self.files = storage / f"{_FOLDER}/{name}"

    @classmethod
    def create(cls, storage: Storage, name: str, space: SearchSpace, about: SweepMetadata) -> "SweepRecord":
        """Create the folder. Raise InputError if the name is taken."""
        check_free(storage, name)
        record = cls(storage, name)
        # An object store cannot rename a folder; there the second file makes the sweep.
        draft = storage / f"{_FOLDER}/.{name}-{about.id}" if storage.is_local else record.files
        draft.write(_SPACE, space.to_toml().encode())
        draft.write(_ABOUT, json.dumps(asdict(about), indent=1).encode())
        if storage.is_local:
            try:
                draft.local().rename(record.files.local())
            except OSError:
                shutil.rmtree(draft.local())
                check_free(storage, name)
                raise
        return record

    @classmethod
    def open(cls, storage: Storage, name: str) -> "SweepRecord":
        """Open a recorded sweep. Raise InputError with the nearest names if there is none."""
        if name not in names(storage):
            hint = suggestion(name, names(storage))
            raise InputError(f"sweep {name!r}: not found under {storage.root}{hint}")
        return cls(storage, name)

    def command(self, name: str) -> str:
        """Return the command line that runs a command on this sweep."""
        at = "" if self.storage.root == str(Path(DEFAULT_STORAGE).absolute()) else self.storage.root
        return f"convene {name} {self.name}" + (f" --storage {shlex.quote(at)}" if at else "")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the sweep for this process alone, until the context or the process ends, however it ends.

        Raises:
            InputError: if another process holds it.
        """
        with lock.hold(self.files, self.name):
            if self.files.is_local:
                _repair(self.files.local(JOURNAL))
            yield

    @property
    def is_busy(self) -> bool:
        """Return whether a process holds the sweep."""
        return lock.is_held(self.files)

    @property
    def space(self) -> SearchSpace:
        """The search space as resolved when the sweep began."""
        return search_space.parse(self.files.read(_SPACE).decode(), source=self.files.uri(_SPACE))

    def write_space(self, space: SearchSpace) -> None:
        """Replace the search space: a sweep may be enlarged."""
        self.files.write(_SPACE, space.to_toml().encode())

    @property
    def about(self) -> SweepMetadata:
        """The description recorded before the first trial."""
        return SweepMetadata(**json.loads(self.files.read(_ABOUT)))

    @property
    def export(self) -> str:
        """Address of the exported ensemble."""
        return self.files.uri(EXPORT)

    @property
    def test_reads(self) -> list[TestRead]:
        """Every opening of the test set, in order."""
        if not self.files.exists(_READS):
            return []
        return [TestRead(**row) for row in json.loads(self.files.read(_READS))]

    def add_test_read(self, sha256: str, members: list[int]) -> None:
        """Record an opening, before the images are read, so that a crash hides none."""
        rows = [asdict(read) for read in (*self.test_reads, TestRead(utc_now(), sha256, members))]
        self.files.write(_READS, json.dumps(rows, indent=1).encode())

    @property
    def result(self) -> SweepResult | None:
        """The result of the last final stage, or None before the first."""
        return SweepResult.from_json(self.files.read(_RESULT)) if self.files.exists(_RESULT) else None

    def write_result(self, result: SweepResult) -> None:
        """Replace the result."""
        self.files.write(_RESULT, json.dumps(result.to_json(), indent=1).encode())

    @property
    def trials_table(self) -> "pd.DataFrame":
        """`trials.parquet`, one row for each trial."""
        import pandas as pd

        return pd.read_parquet(BytesIO(self.files.read(_TRIALS)))

    def write_trials(self, table: "pd.DataFrame") -> None:
        """Replace `trials.parquet`."""
        buffer = BytesIO()
        table.to_parquet(buffer, index=False)
        self.files.write(_TRIALS, buffer.getvalue())

    @property
    def report(self) -> str:
        """Address of the report."""
        return self.files.uri(_REPORT)

    def write_report(self, page: str) -> None:
        """Replace `report.html`."""
        self.files.write(_REPORT, page.encode())

    @property
    def artifacts(self) -> list[str]:
        """The existing files that belong to the sweep's MLflow run, as paths in `files`."""
        return [file for file in (_REPORT, _TRIALS, _SPACE) if self.files.exists(file)]


def _repair(journal: Path) -> None:
    """Cut off a line that a full disk left incomplete: anything appended to it could not be read."""
    if journal.exists():
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(journal, whole)


def names(storage: Storage) -> list[str]:
    """Return the names of the sweeps under a storage root."""
    return [name for name in storage.names(_FOLDER) if storage.exists(f"{_FOLDER}/{name}/{_ABOUT}")]


def check_free(storage: Storage, name: str) -> None:
    """Raise InputError if a name is taken or cannot be a sweep's."""
    check_name(name)
    if storage.exists(f"{_FOLDER}/{name}"):
        raise InputError(
            f"--name {name}: a sweep of this name exists under {storage.root}; choose another --name, "
            f"or resume it: {SweepRecord(storage, name).command('resume')}"
        )


def free_name(storage: Storage, stem: str) -> str:
    """Return a name made from `stem`, numbered if it is taken."""
    return numbered(as_name(stem), lambda name: storage.exists(f"{_FOLDER}/{name}"))
