"""The final stage of a sweep that has nothing to choose from says why."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from convene.config import search_space
from convene.errors import WorkError
from convene.records.sweep_record import SweepRecord
from convene.search.study import Study
from convene.search.time_budget import TimeBudget
from convene.search.trial_state import TrialState
from convene.storage import Storage
from convene.sweep import final_stage

SPACE = {"network": {"width": {"choices": [4, 8]}}, "search": {"trials": 6, "time_budget": 60}}


@pytest.mark.parametrize(
    ("ends", "search_ended", "lacked_time"),
    [
        ([(TrialState.PRUNED, TimeBudget.REASON)], True, True),
        ([(TrialState.FAIL, "the loss is nan"), (TrialState.PRUNED, TimeBudget.REASON)], True, True),
        ([], True, True),  # no trial could start
        ([], False, False),  # the process was killed before the first trial
        ([(TrialState.FAIL, "the loss is nan")], True, False),
    ],
)
def test_without_a_network_the_message_has_the_reason(
    ends: list[tuple[TrialState, str]], search_ended: bool, lacked_time: bool, tmp_path: Path
) -> None:
    space = search_space.build(SPACE)
    study = Study(space, lambda configuration: None)
    for state, reason in ends:
        number, _ = study.ask()
        study.tell(number, state, reason=reason)
    study.end_search(search_ended)
    record: Any = SweepRecord(Storage(str(tmp_path)), "slow")
    record.files.write("search_space.toml", space.to_toml().encode())
    sweep: Any = SimpleNamespace(record=record, space=space, study=study)
    with pytest.raises(WorkError) as raised:
        final_stage.finish(sweep, tracker=SimpleNamespace(), started=0.0)  # type: ignore[arg-type]
    first, *reasons = str(raised.value).splitlines()
    command = f"continue with: convene sweep slow --storage {tmp_path} --trials +6 --time-budget LONGER"
    assert first.startswith("sweep slow: no trial finished an epoch")
    assert (command in first) == ("before search.time_budget was over" in first) == lacked_time
    assert [line.partition(": ")[2] for line in reasons] == [f"{state} {reason}" for state, reason in ends]
