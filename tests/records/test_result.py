"""A recorded result comes back as it was, also from releases that recorded less."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from convene.records.result import SweepResult

RECORDED = Path(__file__).parents[1] / "integration/recorded/runs.tar.xz"


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    with tarfile.open(RECORDED) as archive:
        member = archive.extractfile("runs/sweeps/finished/result.json")
        assert member
        content: dict[str, Any] = json.load(member)
        return content


def test_a_result_comes_back_as_it_was(recorded: dict[str, Any]) -> None:
    result = SweepResult.from_json(json.dumps(recorded).encode())
    assert json.dumps(result.to_json()) == json.dumps(recorded)
    assert result.ensemble.trials == tuple(member["trial"] for member in recorded["ensemble"]["members"])


def test_numbers_of_trials_on_the_front_stay_whole(recorded: dict[str, Any]) -> None:
    front = recorded | {"pareto": [{"trial": 3, "valid_loss": 1.0, "parameters": 512}]}
    result = SweepResult.from_json(json.dumps(front).encode())
    assert json.dumps(result.to_json()["pareto"]) == json.dumps(front["pareto"])


def test_a_result_without_the_choice_of_members_is_read(recorded: dict[str, Any]) -> None:
    """The first sweeps of 0.1.0 did not record it."""
    older = recorded | {"chosen": {}}
    assert SweepResult.from_json(json.dumps(older).encode()).to_json() == older
    del older["chosen"]
    assert SweepResult.from_json(json.dumps(older).encode()).chosen is None


@pytest.mark.parametrize("change", [{"unknown": 1}, {"trials": "many"}, {"ensemble": {}}])
def test_another_object_is_refused(recorded: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        SweepResult.from_json(json.dumps(recorded | change).encode())
