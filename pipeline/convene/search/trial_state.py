"""The states of a trial, everywhere in Convene and in every file that it records."""

from enum import StrEnum


class TrialState(StrEnum):
    """Optuna's names; COMPLETE, PRUNED and FAIL are final."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"


ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
"""The final states."""

CANDIDATES = (TrialState.COMPLETE, TrialState.PRUNED)
"""Members of an ensemble come from the first of these states in which a trial has a network."""
