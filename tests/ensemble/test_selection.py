"""Selection of the ensemble: by hand, and independent of the order of the trials."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convene.config.search_space import override
from convene.ensemble.selection import Member, average, rank, scores_by_size, top_k
from convene.errors import InputError
from convene.sweep.final_stage import finish
from convene.training.checkpoint import folder
from convene.training.metrics import accuracy, cross_entropy
from tests.support.synthetic import record_sweep

LABELS = np.array([0, 0, 1, 1])


def margins(*values: float) -> NDArray[np.float32]:
    """Return logits of two classes with a margin for each example; a negative margin is an error."""
    logits = np.zeros((4, 2), np.float32)
    logits[np.arange(4), LABELS] = values
    return logits


# Trials by number, with margins that make accuracy and loss easy to see.
TRIALS = {
    3: margins(9, 9, 9, -9),  # accuracy 0.75, loss 2.25: confident, with one error
    7: margins(1, 1, -0.1, -0.1),  # 0.50, 0.53: not confident
    8: margins(2, 2, 2, -1),  # 0.75, 0.42
    5: margins(-1, -1, -1, -1),  # 0.00, 1.31
}


@pytest.mark.parametrize(
    ("rank_by", "expected"), [("valid_loss", [8, 7, 5, 3]), ("valid_accuracy", [8, 3, 7, 5])]
)
def test_trials_are_ranked_by_loss_or_accuracy(rank_by: str, expected: list[int]) -> None:
    ranked = rank(TRIALS, LABELS, rank_by)
    assert [row.trial for row in ranked] == expected
    for row in ranked:
        assert row.valid_loss == cross_entropy(TRIALS[row.trial], LABELS)
        assert row.valid_accuracy == accuracy(TRIALS[row.trial], LABELS)


@pytest.mark.parametrize(
    ("rank_by", "size", "expected"),
    [
        ("valid_loss", 1, [8]),
        ("valid_loss", 2, [8, 7]),
        ("valid_accuracy", 2, [8, 3]),
        ("valid_loss", 4, [8, 7, 5, 3]),
        ("valid_loss", 99, [8, 7, 5, 3]),
    ],
)
def test_the_best_have_equal_weights(rank_by: str, size: int, expected: list[int]) -> None:
    selection = top_k(TRIALS, LABELS, size=size, rank_by=rank_by)
    assert selection.members == tuple(Member(trial, 1 / len(expected)) for trial in expected)
    averaged = np.mean([TRIALS[trial] for trial in expected], axis=0)
    # float32 logits, averaged in float32 or float64
    assert selection.valid_loss == pytest.approx(cross_entropy(averaged, LABELS), rel=1e-6)
    assert selection.valid_accuracy == accuracy(averaged, LABELS)


@pytest.mark.parametrize("rank_by", ["valid_loss", "valid_accuracy"])
def test_ties_are_broken_by_the_other_score_and_then_by_number(rank_by: str) -> None:
    same = margins(1, 1, 1, -1)
    assert [row.trial for row in rank({9: same, 2: same, 4: same}, LABELS, rank_by)] == [2, 4, 9]
    # A margin that vanishes in the float64 loss and still decides which logit is largest.
    zero, tiny = margins(0, 0, 0, 0), margins(0, 0, 1e-30, 1e-30)
    ranked = rank({1: zero, 2: tiny}, LABELS, rank_by)
    assert ranked[0].valid_loss == ranked[1].valid_loss
    assert [(row.trial, row.valid_accuracy) for row in ranked] == [(2, 1.0), (1, 0.5)]


@st.composite
def trial_logits(draw: st.DrawFn) -> dict[int, NDArray[np.float32]]:
    """Return logits of some trials, drawn from few values to cause ties."""
    numbers = draw(st.lists(st.integers(0, 99), unique=True, min_size=1, max_size=6))
    value = st.sampled_from([-2.0, -0.5, 0.0, 0.5, 2.0])
    return {
        number: np.array(draw(st.lists(value, min_size=8, max_size=8)), np.float32).reshape(4, 2)
        for number in numbers
    }


@settings(deadline=None)
@given(st.data(), trial_logits(), st.integers(1, 7), st.sampled_from(["valid_loss", "valid_accuracy"]))
def test_the_order_of_the_trials_does_not_matter(
    data: Any, trials: dict[int, NDArray[np.float32]], size: int, rank_by: str
) -> None:
    selection = top_k(trials, LABELS, size=size, rank_by=rank_by)
    shuffled = {number: trials[number] for number in data.draw(st.permutations(sorted(trials)))}
    assert top_k(shuffled, LABELS, size=size, rank_by=rank_by) == selection
    assert len(selection.members) == min(size, len(trials))
    assert sum(member.weight for member in selection.members) == pytest.approx(1, abs=1e-12)
    # No member ranks below a trial that was left out.
    ranked = [row.trial for row in rank(trials, LABELS, rank_by)]
    assert [member.trial for member in selection.members] == ranked[:size]


@settings(deadline=None)
@given(trial_logits())
def test_the_average_is_the_mean_of_the_logits(trials: dict[int, NDArray[np.float32]]) -> None:
    equal = tuple(Member(number, 1 / len(trials)) for number in trials)
    np.testing.assert_allclose(
        average(trials, equal), np.mean(list(trials.values()), axis=0), atol=1e-6
    )  # float32


def test_the_average_is_weighted() -> None:
    members = (Member(8, 0.75), Member(7, 0.25))
    np.testing.assert_allclose(average(TRIALS, members), 0.75 * TRIALS[8] + 0.25 * TRIALS[7], atol=1e-6)


def test_an_ensemble_can_be_correct_on_examples_that_a_member_gets_wrong() -> None:
    """Each member is wrong on a different example."""
    trials = {n: margins(*(-1 if n == example else 3 for example in range(4))) for n in range(4)}
    selection = top_k(trials, LABELS, size=4, rank_by="valid_loss")
    assert {accuracy(logits, LABELS) for logits in trials.values()} == {0.75}
    assert selection.valid_accuracy == 1.0


@pytest.mark.parametrize("rank_by", ["valid_loss", "valid_accuracy"])
def test_scores_by_size_match_top_k(rank_by: str) -> None:
    scores = scores_by_size(TRIALS, LABELS, largest=3, rank_by=rank_by)
    assert [each.size for each in scores] == [1, 2, 3]
    for each in scores:
        selection = top_k(TRIALS, LABELS, size=each.size, rank_by=rank_by)
        assert each.valid_accuracy == selection.valid_accuracy
        # The same mean, but divided once instead of term by term.
        assert each.valid_loss == pytest.approx(selection.valid_loss, rel=1e-6)
    assert len(scores_by_size(TRIALS, LABELS, largest=99, rank_by=rank_by)) == len(TRIALS)


def test_an_ensemble_larger_than_the_kept_networks_is_rejected(tmp_path: Path) -> None:
    sweep = record_sweep(tmp_path, trials=80)
    complete = [number for number, _ in sweep.study.ranked()]
    assert len(complete) > 26
    for worst in complete[-6:]:  # such as networks kept for their accuracy
        (sweep.record.files / folder(worst)).write("weights.safetensors", b"")
    larger = replace(sweep, space=override(sweep.space, {"ensemble.size": 25}))
    with pytest.raises(InputError, match=r"ensemble\.size = 25: only the 20 best networks were kept"):
        finish(larger, None, 0.0)  # type: ignore[arg-type]  # fails before it needs a tracker
