"""The result of a sweep: its scores, its members and where to find them. `--json` prints it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter

from convene.search.trial_state import TrialState


@dataclass(frozen=True)
class ScoredMember:
    """A member's weight and scores."""

    trial: int
    weight: float
    valid_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class BestSingle:
    """The first trial of the validation ranking, alone; `test_interval` is Wilson's at 95 %."""

    trial: int
    valid_accuracy: float
    test_accuracy: float
    test_interval: tuple[float, float]


@dataclass(frozen=True)
class ScoredEnsemble:
    """The chosen ensemble and its scores; `test_interval` is Wilson's at 95 %."""

    members: tuple[ScoredMember, ...]
    valid_loss: float
    valid_accuracy: float
    test_loss: float
    test_accuracy: float
    test_interval: tuple[float, float]

    @property
    def trials(self) -> tuple[int, ...]:
        """Return the members' trials, best first."""
        return tuple(member.trial for member in self.members)


@dataclass(frozen=True)
class Scores:
    """The outcome of one opening of the test set."""

    ensemble: ScoredEnsemble
    best_single: BestSingle
    test_reads: int
    """Openings of the test set for this sweep so far."""


@dataclass(frozen=True)
class MlflowRun:
    """The sweep's run in MLflow."""

    tracking_uri: str
    experiment: str
    run_id: str | None
    waiting: int
    """Records that MLflow still lacks; `convene sync` writes them."""


@dataclass(frozen=True)
class EnsembleChoice:
    """The settings that the members were chosen with, which may differ from the sweep's own."""

    __pydantic_config__ = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    size: Annotated[int, Field(alias="ensemble.size")]
    rank_by: Annotated[str, Field(alias="ensemble.rank_by")]

    @property
    def overrides(self) -> dict[str, Any]:
        """Return the settings by dotted name, to lay over a search space."""
        return {"ensemble.size": self.size, "ensemble.rank_by": self.rank_by}


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The result of a sweep or of a later final stage."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    trials: int
    states: Mapping[TrialState, int]
    """Trials by final state."""
    wall_seconds: float
    """Duration of the command."""
    images_trained: int
    """Training images seen, over all epochs of all trials."""
    best_single: BestSingle
    ensemble: ScoredEnsemble
    test_reads: int
    """Openings of the test set for this sweep."""
    mlflow: MlflowRun
    export: str
    """Folder of the exported ensemble."""
    storage: str
    """The storage root."""
    taken: int = 0
    """Trials of an earlier sweep that the search knew from the start."""
    ended: bool = True
    """False if trials were still to follow when the ensemble was made."""
    pareto: tuple[Mapping[str, int | float], ...] = field(default=())
    """With several objectives: the trials on the Pareto front, each with its objectives."""
    chosen: Annotated[EnsembleChoice | None, BeforeValidator(lambda value: value or None)] = None
    """None in results of the first releases, which did not record it."""

    @property
    def scores(self) -> Scores:
        """Return the scores alone."""
        return Scores(self.ensemble, self.best_single, self.test_reads)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        content: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return content | {"chosen": content["chosen"] or {}}

    @classmethod
    def from_json(cls, content: bytes) -> "SweepResult":
        """Read a recorded result.

        Raises:
            ValueError: if the content is not a result.
        """
        return _adapter().validate_json(content)


@cache
def _adapter() -> TypeAdapter[SweepResult]:
    return TypeAdapter(SweepResult)
