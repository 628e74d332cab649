"""The message from a worker to the driver after each step of a trial."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from convene.search.time_budget import TrialPace
from convene.training.metrics import METRICS, Epoch


class StepOutcome(StrEnum):
    """The ways in which a step ends."""

    TRAINED = "trained"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out of memory"
    STORAGE_FAILURE = "storage failure"


@dataclass(frozen=True)
class StepReport:
    """One step of one trial: an epoch, or the reason why there was none."""

    number: int
    outcome: StepOutcome
    reason: str = ""
    """The error, in one line; empty for a trained step."""
    errno: int | None = None
    """Error number of a storage failure on a disk; None in an object store."""
    epoch: Epoch | None = None
    """The last epoch, of a trained step."""
    epochs: int = 0
    """Epochs that the trial is to have."""
    seconds: float = 0.0
    """Time for training and validation, over all epochs."""
    parameters: int = 0
    latency_ms: float | None = None

    @property
    def is_last(self) -> bool:
        """Return whether the trial has had all its epochs."""
        return self.epoch is not None and self.epoch.epoch == self.epochs

    @property
    def pace(self) -> TrialPace:
        """The speed of a trained step's trial."""
        assert self.epoch, "only a trained step has a pace"
        return TrialPace(self.epoch.epoch, self.epochs, self.seconds, self.epoch.images_per_second)

    def value(self, objective: str) -> float:
        """Return the value of an objective of `search.objectives` after a trained step."""
        found: float = getattr(self.epoch if objective in METRICS else self, objective)
        return found

    def to_result(self) -> dict[str, Any]:
        """Return the result that Tune passes from the worker to the driver."""
        return {"report": self, "done": self.is_last or self.outcome is not StepOutcome.TRAINED}

    @staticmethod
    def from_result(result: dict[str, Any]) -> "StepReport | None":
        """Return the report in one of Tune's results; None if Tune made the result itself."""
        report: StepReport | None = result.get("report")
        return report
