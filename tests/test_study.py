"""An Optuna study in a real journal: what is told is what is kept, and only what fits is proposed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from pipeline import geometry
from pipeline.config import Configuration
from pipeline.search_space import SearchSpace, override, parse
from pipeline.study import StudiedTrial, Study, any_admissible, candidates

SAMPLERS = ["tpe", "random", "gp", "cmaes"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The GP sampler's small matrices take several times as long on two threads that others use too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# On 8×8 images two in three of these networks are too deep.
DEEP = parse("""
[network]
depth = { low = 1, high = 6 }
kernel_size = { choices = [2, 3, 5] }
padding = { choices = ["same", "valid"] }
dropout = { low = 0.0, high = 0.5 }

[training]
learning_rate = { low = 1e-4, high = 1e-1, log = true }
""")


def misfit(configuration: Configuration) -> str | None:
    return geometry.misfit(configuration.network, (1, 8, 8))


def fits(configuration: Configuration) -> None:
    """As where every network fits."""


def optunas(journal: Path, name: str = "study") -> optuna.Study:
    """The journal as optuna-dashboard opens it."""
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(journal))))


# --- What is told is what is kept -----------------------------------------------------------------------


def tell_one_of_each(study: Study) -> list[int]:
    numbers = [study.ask()[0] for _ in range(4)]
    complete, pruned, failed, _running = numbers
    for epoch, value in ((1, 0.9), (2, 0.7)):
        study.report(complete, epoch, value)
        study.report(pruned, epoch, value + 1)
    study.tell(complete, "COMPLETE", 0.7)
    study.tell(pruned, "PRUNED", reason="weak at epoch 2")
    study.report(failed, 1, 0.8)
    study.tell(failed, "FAIL", reason="the training loss is nan in epoch 2")
    return numbers


def test_each_state_is_stored_with_its_values_and_its_reason(tmp_path: Path) -> None:
    study = Study(DEEP, misfit, tmp_path / "journal")
    assert tell_one_of_each(study) == [0, 1, 2, 3]
    stored = optunas(tmp_path / "journal").trials
    assert [trial.number for trial in stored] == [0, 1, 2, 3]
    assert [trial.state for trial in stored] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.RUNNING,
    ]
    assert stored[0].value == 0.7
    assert stored[0].intermediate_values == {1: 0.9, 2: 0.7}
    assert stored[1].intermediate_values == {1: 1.9, 2: 1.7}  # what the sampler learns from
    assert stored[2].intermediate_values == {1: 0.8}
    assert [trial.user_attrs for trial in stored] == [
        {},
        {"reason": "weak at epoch 2"},
        {"reason": "the training loss is nan in epoch 2"},
        {},
    ]


def test_a_trial_can_end_before_its_first_epoch(tmp_path: Path) -> None:
    study = Study(DEEP, misfit, tmp_path / "journal")
    for state in ("PRUNED", "FAIL"):
        number, _ = study.ask()
        study.tell(number, state, reason="no time was left")
    assert [trial.state for trial in study.trials()] == ["PRUNED", "FAIL"]
    study.ask()


def test_an_opened_journal_has_the_same_trials_and_goes_on_counting(tmp_path: Path) -> None:
    first = Study(DEEP, misfit, tmp_path / "journal", name="evening")
    tell_one_of_each(first)
    again = Study(DEEP, misfit, tmp_path / "journal", name="evening")
    assert again.trials() == first.trials()
    assert [(trial.state, trial.reason) for trial in again.trials()] == [
        ("COMPLETE", None),
        ("PRUNED", "weak at epoch 2"),
        ("FAIL", "the training loss is nan in epoch 2"),
        ("RUNNING", None),
    ]
    assert again.ask()[0] == 4


def test_a_trials_parameters_are_those_of_its_configuration(tmp_path: Path) -> None:
    study = Study(DEEP, misfit, tmp_path / "journal")
    asked = dict(study.ask() for _ in range(5))
    study.tell(0, "COMPLETE", 0.5)
    trials: list[StudiedTrial] = study.trials()
    assert [trial.number for trial in trials] == list(asked) == list(range(5))
    for trial in trials:
        assert set(trial.parameters) == set(DEEP.distributions)
        assert DEEP.configuration(trial.parameters, trial.number) == asked[trial.number]
    assert trials[0].ended is not None
    assert trials[0].ended >= trials[0].started > 0
    assert trials[1].ended is None


@pytest.mark.parametrize(("objective", "best"), [("valid_loss", 1), ("valid_accuracy", 0)])
def test_a_loss_is_made_small_and_an_accuracy_large(objective: str, best: int, tmp_path: Path) -> None:
    study = Study(override(DEEP, {"search.objective": objective}), misfit, tmp_path / "journal")
    for value in (0.9, 0.2):
        number, _ = study.ask()
        study.tell(number, "COMPLETE", value)
    assert optunas(tmp_path / "journal").best_trial.number == best


# --- Only what fits is proposed --------------------------------------------------------------------------


def proposals(space: SearchSpace, count: int) -> list[Configuration]:
    """Trials asked one after another, of which the larger dropout is the better."""
    study = Study(space, misfit)
    configurations = []
    for expected in range(count):
        number, configuration = study.ask()
        assert number == expected
        configurations.append(configuration)
        study.report(number, 1, 1 - configuration.network.dropout)
        study.tell(number, "COMPLETE", 1 - configuration.network.dropout)
    return configurations


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_only_networks_that_fit_are_proposed(sampler: str) -> None:
    # Each sampler is past its first ten trials, which it draws at random.
    found = proposals(override(DEEP, {"search.sampler": sampler}), 12 if sampler == "gp" else 40)
    assert not any(map(misfit, found))
    assert len({c.network.depth for c in found}) > 1
    assert len({(c.network, c.training.learning_rate) for c in found}) == len(found)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_proposes_the_same_and_another_seed_another(sampler: str) -> None:
    def dropouts(seed: int) -> list[tuple[int, float]]:
        space = override(DEEP, {"search.sampler": sampler, "search.seed": seed})
        return [(c.network.depth, c.network.dropout) for c in proposals(space, 11)]

    assert dropouts(1) == dropouts(1) != dropouts(2)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trials_asked_for_at_once_differ(sampler: str) -> None:
    study = Study(override(DEEP, {"search.sampler": sampler}), misfit)
    asked = [study.ask()[1] for _ in range(4)]
    assert len({c.network.dropout for c in asked}) == 4
    assert [c.training.seed for c in asked] == [0, 1, 2, 3]


def test_trials_asked_for_at_once_differ_when_the_sampler_has_learnt() -> None:
    study = Study(DEEP, misfit)
    for _ in range(12):
        number, configuration = study.ask()
        study.tell(number, "COMPLETE", configuration.network.dropout)
    assert len({study.ask()[1].network.dropout for _ in range(4)}) == 4


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "table",
    [
        "depth = { choices = [1, 2] }",  # nothing to go along
        "depth = { low = 1, high = 3 }",  # one line, where CMA-ES wants a plane
        "dropout = { low = 0.0, high = 0.5, step = 0.1 }",
        "dense = { choices = [0, 8, [8, 8]] }",
        "depth = 2",  # nothing at all
    ],
)
def test_each_sampler_takes_each_kind_of_space(sampler: str, table: str) -> None:
    """More trials than there are values: a sampler may repeat itself, but not stop or warn."""
    study = Study(parse(f'[network]\n{table}\n[search]\nsampler = "{sampler}"'), misfit)
    for _ in range(11 if sampler == "gp" else 14):
        number, _ = study.ask()
        study.tell(number, "COMPLETE", float(number))
    assert len(study.trials()) == (11 if sampler == "gp" else 14)


def test_a_rare_fit_is_found() -> None:
    space = parse("""
[network]
kernel_size = { low = 1, high = 31 }
depth = { low = 1, high = 16 }
pool_size = { low = 2, high = 8 }
stride = { low = 1, high = 8 }
padding = "valid"
""")
    assert [misfit(Study(space, misfit).ask()[1]) for _ in range(3)] == [None] * 3


# --- Whether anything fits ---------------------------------------------------------------------------------

FIELDS = [f"network.{field}" for field in geometry.FIELDS]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("depth = 3", None),
        ("depth = { low = 3, high = 16 }", None),
        ("depth = { low = 1, high = 16, step = 5 }", None),
        ("filters = { choices = [[1, 1, 1, 1], [1]] }", None),
        ("dropout = { low = 0.0, high = 0.5 }", None),
        ('depth = { low = 4, high = 6 }\npooling = { choices = ["max", "none"] }', None),
        ("depth = 4", "block 4: pooling 2 pixels on 1 leaves none"),
        ("depth = { low = 4, high = 6 }", "block 4: pooling 2 pixels on 1 leaves none"),
        (
            'padding = "valid"\nkernel_size = { choices = [9, 11] }\ndropout = { low = 0.0, high = 0.5 }',
            "block 1: a kernel of 11 pixels on 8 leaves none",
        ),
    ],
)
def test_whether_anything_fits_is_known_with_a_reason(table: str, expected: str | None) -> None:
    assert any_admissible(parse(f"[network]\n{table}"), misfit, FIELDS) == expected


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (CategoricalDistribution((3, "[1]", True)), [3, "[1]", True]),
        (IntDistribution(1, 4), [1, 2, 3, 4]),
        (IntDistribution(1, 7, step=3), [1, 4, 7]),
        (IntDistribution(1, 3, log=True), [1, 2, 3]),
        (FloatDistribution(0, 1), []),
    ],
)
def test_candidates_are_every_value_there_is(distribution: Any, expected: list[Any]) -> None:
    assert list(candidates(distribution)) == expected


def at_rung(values: list[float], objective: str, factor: int, tmp_path: Path) -> list[bool]:
    """Whether each of these trials, one after another, is stopped at the first rung."""
    changes = {"search.objective": objective, "search.reduction_factor": factor, "training.epochs": 9}
    study = Study(override(DEEP, changes), misfit, tmp_path / "journal")
    stopped = []
    for value in values:
        number, _ = study.ask()
        study.report(number, 3, value)  # a third of the epochs
        stopped.append(study.is_weak(number, 3))
    return stopped


@pytest.mark.parametrize(
    ("values", "objective", "factor", "stopped"),
    [
        ([0.5], "valid_loss", 2, [False]),  # the first has nothing to be compared with
        ([0.5, 0.4, 0.45, 0.46], "valid_loss", 2, [False, False, False, True]),
        ([0.5, 0.6], "valid_loss", 2, [False, True]),
        ([0.5, 0.6], "valid_accuracy", 2, [False, False]),
        ([0.5, 0.4], "valid_accuracy", 2, [False, True]),
        ([0.1, 0.2, 0.3, 0.14], "valid_loss", 2, [False, True, True, False]),
        ([0.1, 0.2, 0.3, 0.15], "valid_loss", 4, [False, True, True, False]),
        ([0.1, 0.2, 0.3, 0.16], "valid_loss", 4, [False, True, True, True]),
        ([0.5, 0.5], "valid_loss", 2, [False, False]),
    ],
)
def test_halving_lets_the_best_part_go_on(
    values: list[float], objective: str, factor: int, stopped: list[bool], tmp_path: Path
) -> None:
    assert at_rung(values, objective, factor, tmp_path) == stopped


@pytest.mark.parametrize(
    ("changes", "rungs"),
    [
        ({"training.epochs": 9}, {3}),
        ({"training.epochs": 20}, {7}),
        ({"training.epochs": 20, "search.grace_epochs": 2}, {2, 4, 8}),
        ({"training.epochs": 20, "search.grace_epochs": 2, "search.reduction_factor": 3}, {2, 6}),
        ({"training.epochs": 20, "search.grace_epochs": 15}, {15}),
        ({"training.epochs": 20, "search.scheduler": "none"}, set()),
        ({"training.epochs": 1}, set()),
        ({"training.epochs": 4, "search.grace_epochs": 4}, set()),
        ({"training.epochs": {"low": 3, "high": 16}}, {6}),
    ],
)
def test_rungs_are_where_the_configuration_says(
    changes: dict[str, object], rungs: set[int], tmp_path: Path
) -> None:
    study = Study(override(DEEP, changes), misfit, tmp_path / "journal")
    good, weak = study.ask()[0], study.ask()[0]
    for epoch in range(1, 21):
        study.report(good, epoch, 0.1)
        study.report(weak, epoch, 0.9)
    assert {epoch for epoch in range(1, 21) if study.is_weak(weak, epoch)} == rungs


def test_rungs_outlive_the_process(tmp_path: Path) -> None:
    space = override(DEEP, {"training.epochs": 9})
    before = Study(space, misfit, tmp_path / "journal")
    before.report(before.ask()[0], 3, 0.1)
    after = Study(space, misfit, tmp_path / "journal")
    number, _ = after.ask()
    after.report(number, 3, 0.9)
    assert after.is_weak(number, 3)


def test_what_was_running_is_taken_over_with_its_number_parameters_and_values(tmp_path: Path) -> None:
    before = Study(DEEP, misfit, tmp_path / "journal")
    first, running = before.ask(), before.ask()
    before.tell(first[0], "COMPLETE", 0.5)
    before.report(running[0], 1, 0.7)
    after = Study(DEEP, misfit, tmp_path / "journal")
    assert after.reopen() == [running]
    assert after.reopen() == []
    after.report(running[0], 1, 0.6)  # was reported by the other process, and stays as it was
    after.report(running[0], 2, 0.5)
    after.tell(running[0], "PRUNED", reason="enough")
    [_, trial] = after.trials()
    assert (trial.state, trial.reason) == ("PRUNED", "enough")
    assert Study(DEEP, misfit, tmp_path / "journal").reopen() == []


def test_a_resumed_search_proposes_something_new(tmp_path: Path) -> None:
    space = override(DEEP, {"search.sampler": "random"})
    before = [Study(space, misfit, tmp_path / "journal").ask()[1] for _ in range(1)]
    after = Study(space, misfit, tmp_path / "journal").ask()[1]
    assert after.network != before[0].network


def test_opening_a_study_writes_nothing(tmp_path: Path) -> None:
    Study(DEEP, misfit, tmp_path / "journal").ask()
    before = (tmp_path / "journal").read_bytes()
    assert len(Study(DEEP, misfit, tmp_path / "journal")) == 1
    assert (tmp_path / "journal").read_bytes() == before


def test_the_ranking_is_of_complete_trials_by_the_objective(tmp_path: Path) -> None:
    for objective, order in (("valid_loss", [2, 0]), ("valid_accuracy", [0, 2])):
        study = Study(override(DEEP, {"search.objective": objective}), misfit, tmp_path / objective)
        for state, value in (("COMPLETE", 0.5), ("PRUNED", None), ("COMPLETE", 0.4), ("FAIL", None)):
            study.tell(study.ask()[0], state, value)  # type: ignore[arg-type]
        assert [trial.number for trial in study.ranked()] == order
