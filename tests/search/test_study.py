"""An Optuna study in a real journal: what is told is what is kept, and only what fits is proposed."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as OptunaState

from convene.config.schema import Configuration
from convene.config.search_space import SearchSpace, override, parse
from convene.search.object_journal import ObjectJournal
from convene.search.sampler import any_admissible
from convene.search.study import Study, StudyTrial, known_trials
from convene.search.study_storage import StudyStorage
from convene.search.trial_state import TrialState
from convene.storage import Storage
from convene.training import shapes

SAMPLERS = ["tpe", "random", "gp", "cmaes", "nsga2"]


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


def at(journal: Path) -> StudyStorage:
    return StudyStorage(Storage(str(journal)))


def shape_error(configuration: Configuration) -> str | None:
    return shapes.shape_error(configuration.network, (1, 8, 8))


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
    study.tell(complete, TrialState.COMPLETE, [0.7])
    study.tell(pruned, TrialState.PRUNED, reason="weak at epoch 2")
    study.report(failed, 1, 0.8)
    study.tell(failed, TrialState.FAIL, reason="the training loss is nan in epoch 2")
    return numbers


def test_each_state_is_stored_with_its_values_and_its_reason(tmp_path: Path) -> None:
    study = Study(DEEP, shape_error, at(tmp_path / "journal"))
    assert tell_one_of_each(study) == [0, 1, 2, 3]
    stored = optunas(tmp_path / "journal").trials
    assert [trial.number for trial in stored] == [0, 1, 2, 3]
    assert [trial.state for trial in stored] == [
        OptunaState.COMPLETE,
        OptunaState.PRUNED,
        OptunaState.FAIL,
        OptunaState.RUNNING,
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
    study = Study(DEEP, shape_error, at(tmp_path / "journal"))
    for state in (TrialState.PRUNED, TrialState.FAIL):
        number, _ = study.ask()
        study.tell(number, state, reason="no time was left")
    assert [trial.state for trial in study.trials()] == [TrialState.PRUNED, TrialState.FAIL]
    study.ask()


def test_an_opened_journal_has_the_same_trials_and_goes_on_counting(tmp_path: Path) -> None:
    first = Study(DEEP, shape_error, at(tmp_path / "journal"), name="evening")
    tell_one_of_each(first)
    again = Study(DEEP, shape_error, at(tmp_path / "journal"), name="evening")
    assert again.trials() == first.trials()
    assert [(trial.state, trial.reason) for trial in again.trials()] == [
        (TrialState.COMPLETE, None),
        (TrialState.PRUNED, "weak at epoch 2"),
        (TrialState.FAIL, "the training loss is nan in epoch 2"),
        (TrialState.RUNNING, None),
    ]
    assert again.ask()[0] == 4


def test_entries_that_are_gathered_are_one_request_and_seen_at_once(tmp_path: Path) -> None:
    journal, numbers = ObjectJournal(Storage(str(tmp_path))), list(range(450))
    journal.append_logs([{"n": 0}])
    with journal.batched():
        for number in numbers[1:150]:
            journal.append_logs([{"n": number}])
        assert [entry["n"] for entry in journal.read_logs(0)] == numbers[:150]
        assert len(list(ObjectJournal(Storage(str(tmp_path))).read_logs(0))) == 1
    with journal.batched():
        for number in numbers[150:]:  # in more objects than one
            journal.append_logs([{"n": number}])
    assert [entry["n"] for entry in ObjectJournal(Storage(str(tmp_path))).read_logs(0)] == numbers


@pytest.mark.parametrize("objectives", [["valid_loss"], ["valid_accuracy"], ["parameters", "valid_accuracy"]])
def test_what_is_kept_up_to_date_is_what_the_trials_say(objectives: list[str], tmp_path: Path) -> None:
    space, place = override(DEEP, {"search.objectives": objectives}), at(tmp_path / "journal")
    study, chance = Study(space, shape_error, place), random.Random(0)
    assert (study.ended, study.best) == (Counter(), None)
    for _ in range(20):
        number, _configuration = study.ask()
        state = chance.choice([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
        values = [chance.choice([0.1, 0.2, 0.3]) for _objective in objectives]  # some are equal
        study.tell(number, state, values if state == TrialState.COMPLETE else None)
        assert study.ended == Counter(trial.state for trial in study.trials())
        assert study.best == next(iter(study.ranked()), None)
    study.ask()
    again = Study(space, shape_error, place)
    assert (again.ended, again.best, len(again)) == (study.ended, study.best, 21)


def test_a_trials_parameters_are_those_of_its_configuration(tmp_path: Path) -> None:
    study = Study(DEEP, shape_error, at(tmp_path / "journal"))
    asked = dict(study.ask() for _ in range(5))
    study.tell(0, TrialState.COMPLETE, [0.5])
    trials: list[StudyTrial] = study.trials()
    assert [trial.number for trial in trials] == list(asked) == list(range(5))
    for trial in trials:
        assert set(trial.parameters) == set(DEEP.distributions)
        assert DEEP.configuration(trial.parameters, trial.number) == asked[trial.number]
    assert trials[0].ended is not None
    assert trials[0].ended >= trials[0].started > 0
    assert trials[1].ended is None


@pytest.mark.parametrize(("objective", "best"), [("valid_loss", 1), ("valid_accuracy", 0)])
def test_a_loss_is_made_small_and_an_accuracy_large(objective: str, best: int, tmp_path: Path) -> None:
    study = Study(override(DEEP, {"search.objectives": [objective]}), shape_error, at(tmp_path / "journal"))
    for value in (0.9, 0.2):
        number, _ = study.ask()
        study.tell(number, TrialState.COMPLETE, [value])
    assert optunas(tmp_path / "journal").best_trial.number == best


# --- Only what fits is proposed --------------------------------------------------------------------------


def proposals(space: SearchSpace, count: int) -> list[Configuration]:
    """Trials asked one after another, of which the larger dropout is the better."""
    study = Study(space, shape_error)
    configurations = []
    for expected in range(count):
        number, configuration = study.ask()
        assert number == expected
        configurations.append(configuration)
        study.report(number, 1, 1 - configuration.network.dropout)
        study.tell(number, TrialState.COMPLETE, [1 - configuration.network.dropout])
    return configurations


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_only_networks_that_fit_are_proposed(sampler: str) -> None:
    # Each sampler is past its first ten trials, which it draws at random.
    found = proposals(override(DEEP, {"search.sampler": sampler}), 12 if sampler == "gp" else 40)
    assert not any(map(shape_error, found))
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
    study = Study(override(DEEP, {"search.sampler": sampler}), shape_error)
    asked = [study.ask()[1] for _ in range(4)]
    assert len({c.network.dropout for c in asked}) == 4
    assert [c.training.seed for c in asked] == [0, 1, 2, 3]


def test_trials_asked_for_at_once_differ_when_the_sampler_has_learnt() -> None:
    study = Study(DEEP, shape_error)
    for _ in range(12):
        number, configuration = study.ask()
        study.tell(number, TrialState.COMPLETE, [configuration.network.dropout])
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
    study = Study(parse(f'[network]\n{table}\n[search]\nsampler = "{sampler}"'), shape_error)
    for _ in range(11 if sampler == "gp" else 14):
        number, _ = study.ask()
        study.tell(number, TrialState.COMPLETE, [float(number)])
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
    assert [shape_error(Study(space, shape_error).ask()[1]) for _ in range(3)] == [None] * 3


# --- Whether anything fits ---------------------------------------------------------------------------------

FIELDS = [f"network.{field}" for field in shapes.FIELDS]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("depth = 3", None),
        ("depth = { low = 3, high = 16 }", None),
        ("depth = { low = 1, high = 16, step = 5 }", None),
        ("filters = { choices = [[1, 1, 1, 1], [1]] }", None),
        ("dropout = { low = 0.0, high = 0.5 }", None),
        ('depth = { low = 4, high = 6 }\npooling = { choices = ["max", "none"] }', None),
        ("depth = 4", "block 4: a pooling window of size 2 does not fit a feature map of size 1"),
        (
            "depth = { low = 4, high = 6 }",
            "block 4: a pooling window of size 2 does not fit a feature map of size 1",
        ),
        (
            'padding = "valid"\nkernel_size = { choices = [9, 11] }\ndropout = { low = 0.0, high = 0.5 }',
            "block 1: a kernel of size 11 does not fit a feature map of size 8",
        ),
    ],
)
def test_whether_anything_fits_is_known_with_a_reason(table: str, expected: str | None) -> None:
    assert any_admissible(parse(f"[network]\n{table}"), shape_error, FIELDS) == expected


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("dense = { choices = [3, [1, 2]] }", [3, "[1, 2]"]),
        ("depth = { low = 1, high = 4 }", [1, 2, 3, 4]),
        ("depth = { low = 1, high = 8, step = 3 }", [1, 4, 7]),
        ("depth = { low = 1, high = 3, log = true }", [1, 2, 3]),
        ("dropout = { low = 0, high = 0.5, step = 0.25 }", [0.0, 0.25, 0.5]),
        ("dropout = { low = 0, high = 0.5 }", None),
        ("dropout = { low = 0, high = 0.5, step = 1e-9 }", None),
    ],
)
def test_candidates_are_every_value_there_is(table: str, expected: list[Any] | None) -> None:
    [searched] = parse(f"[network]\n{table}").searched.values()
    assert searched.all_values == expected


def at_rung(values: list[float], objective: str, factor: int, tmp_path: Path) -> list[bool]:
    """Whether each of these trials, one after another, is stopped at the first rung."""
    changes = {"search.objectives": [objective], "search.reduction_factor": factor, "training.epochs": 9}
    study = Study(override(DEEP, changes), shape_error, at(tmp_path / "journal"))
    stopped = []
    for value in values:
        number, _ = study.ask()
        study.report(number, 3, value)  # a third of the epochs
        stopped.append(study.should_prune(number, 3))
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
    study = Study(override(DEEP, changes), shape_error, at(tmp_path / "journal"))
    good, weak = study.ask()[0], study.ask()[0]
    for epoch in range(1, 21):
        study.report(good, epoch, 0.1)
        study.report(weak, epoch, 0.9)
    assert {epoch for epoch in range(1, 21) if study.should_prune(weak, epoch)} == rungs


def test_rungs_outlive_the_process(tmp_path: Path) -> None:
    space = override(DEEP, {"training.epochs": 9})
    before = Study(space, shape_error, at(tmp_path / "journal"))
    before.report(before.ask()[0], 3, 0.1)
    after = Study(space, shape_error, at(tmp_path / "journal"))
    number, _ = after.ask()
    after.report(number, 3, 0.9)
    assert after.should_prune(number, 3)


def test_what_was_running_is_taken_over_with_its_number_parameters_and_values(tmp_path: Path) -> None:
    before = Study(DEEP, shape_error, at(tmp_path / "journal"))
    first, running = before.ask(), before.ask()
    before.tell(first[0], TrialState.COMPLETE, [0.5])
    before.report(running[0], 1, 0.7)
    after = Study(DEEP, shape_error, at(tmp_path / "journal"))
    assert after.reopen() == [running]
    assert after.reopen() == [running]  # until it has ended
    after.report(running[0], 1, 0.6)  # was reported by the other process, and stays as it was
    after.report(running[0], 2, 0.5)
    after.tell(running[0], TrialState.PRUNED, reason="enough")
    [_, trial] = after.trials()
    assert (trial.state, trial.reason) == (TrialState.PRUNED, "enough")
    assert Study(DEEP, shape_error, at(tmp_path / "journal")).reopen() == []


def test_a_resumed_search_proposes_something_new(tmp_path: Path) -> None:
    space = override(DEEP, {"search.sampler": "random"})
    before = [Study(space, shape_error, at(tmp_path / "journal")).ask()[1] for _ in range(1)]
    after = Study(space, shape_error, at(tmp_path / "journal")).ask()[1]
    assert after.network != before[0].network


def test_opening_a_study_writes_nothing(tmp_path: Path) -> None:
    Study(DEEP, shape_error, at(tmp_path / "journal")).ask()
    before = (tmp_path / "journal").read_bytes()
    assert len(Study(DEEP, shape_error, at(tmp_path / "journal"))) == 1
    assert (tmp_path / "journal").read_bytes() == before


def test_the_ranking_is_of_complete_trials_by_the_objective(tmp_path: Path) -> None:
    for objective, order in (("valid_loss", [2, 0]), ("valid_accuracy", [0, 2])):
        study = Study(
            override(DEEP, {"search.objectives": [objective]}), shape_error, at(tmp_path / objective)
        )
        for state, value in (
            (TrialState.COMPLETE, [0.5]),
            (TrialState.PRUNED, None),
            (TrialState.COMPLETE, [0.4]),
            (TrialState.FAIL, None),
        ):
            study.tell(study.ask()[0], state, value)
        assert [number for number, _ in study.ranked()] == order


# --- No configuration twice ------------------------------------------------------------------------------

SMALL = parse("""
[network]
depth = { low = 1, high = 2 }
width = { choices = [4, 8] }
dropout = { low = 0.0, high = 0.5, step = 0.25 }
dense = { choices = [0, 16] }
dense_dropout = { choices = [0.0, 0.5], when = { dense = 16 } }
""")  # 2 · 2 · 3 · (1 + 2) = 36 configurations


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("told", [True, False])
def test_all_of_a_small_space_is_tried_before_anything_twice(sampler: str, told: bool) -> None:
    study = Study(override(SMALL, {"search.sampler": sampler}), fits)
    found = []
    for _ in range(36):
        number, configuration = study.ask()
        found.append(configuration.network)
        if told:
            study.tell(number, TrialState.COMPLETE, [configuration.network.dropout])
    assert len(set(found)) == 36
    number, again = study.ask()  # then other seeds make other networks
    assert again.network in found
    assert again.training.seed == number


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_can_never_apply_does_not_make_a_space_without_end(sampler: str) -> None:
    space = parse("""
[network]
depth = { choices = [1, 2] }
dense = 0
dense_dropout = { low = 0.0, high = 0.5, step = 0.25, when = { dense = [128, 625] } }
dropout = { low = 0.0, high = 0.5, when = { dense_dropout = [0.25] } }
""")
    study = Study(override(space, {"search.sampler": sampler}), fits)
    assert sorted(study.ask()[1].network.depth for _ in range(4)) == [1, 1, 2, 2]


def test_a_trial_that_failed_is_not_tried_again(tmp_path: Path) -> None:
    space = parse("[network]\ndepth = { choices = [1, 2] }")
    study = Study(space, fits, at(tmp_path / "journal"))
    number, first = study.ask()
    study.tell(number, TrialState.FAIL, reason="its worker died")
    _, second = Study(space, fits, at(tmp_path / "journal")).ask()
    assert first.network.depth + second.network.depth == 3


# --- Conditions -------------------------------------------------------------------------------------------

CONDITIONAL = parse("""
[network]
depth = { low = 1, high = 6 }
dense = { choices = [0, 16, [16, 8]] }
dense_dropout = { low = 0.1, high = 0.5, when = { dense = [16, [16, 8]] } }

[training]
optimizer = { choices = ["adamw", "sgd"] }
weight_decay = { low = 1e-4, high = 1e-1, log = true, when = { optimizer = "adamw", network.depth = [1, 2] } }
""")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_parameter_is_there_where_its_condition_holds_and_nowhere_else(
    sampler: str, tmp_path: Path
) -> None:
    study = Study(override(CONDITIONAL, {"search.sampler": sampler}), shape_error, at(tmp_path / "journal"))
    seen = set()
    for _ in range(14 if sampler == "gp" else 40):
        number, c = study.ask()
        settings = study.settings(number)
        study.report(number, 1, c.network.dense_dropout)
        study.tell(number, TrialState.COMPLETE, [c.network.dense_dropout + c.training.weight_decay])
        dense, decays = c.network.dense != (), c.training.optimizer == "adamw" and c.network.depth <= 2
        seen.add((dense, decays))
        parameters = optunas(tmp_path / "journal").trials[number].params
        assert ("network.dense_dropout" in parameters, "training.weight_decay" in parameters) == (
            dense,
            decays,
        )
        assert ("network.dense_dropout" in settings, "training.weight_decay" in settings) == (dense, decays)
        assert dense == (c.network.dense_dropout != 0.0)  # else the default
        assert decays or c.training.weight_decay == 0.01
    assert len(seen) == 4 or sampler == "gp"


# --- What is to be tried first ----------------------------------------------------------------------------


def test_first_trials_are_those_listed_and_the_rest_of_them_is_drawn(tmp_path: Path) -> None:
    first = [
        {"network": {"depth": 2, "dense": [16, 8], "dense_dropout": 0.2}},
        {"training": {"optimizer": "sgd"}, "network": {"depth": 3, "dense": 0}},
        {"network": {"depth": 3}},
    ]
    space = override(CONDITIONAL, {"search.try_first": first})
    study = Study(space, shape_error, at(tmp_path / "journal"))
    a, b = study.ask()[1], study.ask()[1]
    assert (a.network.depth, a.network.dense, a.network.dense_dropout) == (2, (16, 8), 0.2)
    assert (b.training.optimizer, b.network.depth, b.network.dense) == ("sgd", 3, ())
    c = Study(space, shape_error, at(tmp_path / "journal")).ask()[1]  # after a crash the next, not the first
    assert c.network.depth == 3
    assert (c.network.depth, c.network.dense, c.training.optimizer) != (3, (), "sgd")


# --- Several objectives -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "nsga2"])
def test_of_several_objectives_the_front_is_known(sampler: str, tmp_path: Path) -> None:
    changes = {"search.objectives": ["parameters", "valid_accuracy"], "search.sampler": sampler}
    space = override(DEEP, {**changes, "training.epochs": 9})
    study = Study(space, shape_error, at(tmp_path / "journal"))
    values = [(100, 0.9), (50, 0.8), (100, 0.8), (40, 0.8), (200, 0.95), None, (200, 0.94)]
    for pair in values:
        number, _ = study.ask()
        study.report(number, 3, pair[1] if pair else 0.1)
        weak = study.should_prune(number, 3)
        assert weak == (pair is None or number in (1, 2, 3, 6)) or number in (3, 6)
        study.tell(number, TrialState.COMPLETE if pair else TrialState.PRUNED, pair)
    assert study.pareto() == [0, 3, 4]
    assert [number for number, _ in study.ranked()] == [4, 6, 0, 1, 2, 3]  # by the one of validation
    for _ in range(5):  # and the sampler goes on, its stopped trial included
        number, _ = study.ask()
        study.tell(number, TrialState.COMPLETE, (300, 0.5))
    again = Study(space, shape_error, at(tmp_path / "journal"))
    assert again.pareto() == [0, 3, 4]
    assert again.trials()[3].values == (40, 0.8)


# --- Starting from an earlier study ---------------------------------------------------------------------


def test_known_trials_are_those_that_lie_in_the_space_and_count_for_nothing_else(tmp_path: Path) -> None:
    then = parse(
        "[network]\ndepth = { low = 1, high = 6 }\nwidth = { choices = [4, 8] }\n[training]\nepochs = 9"
    )
    earlier = Study(then, fits, at(tmp_path / "then"), "then")
    for _ in range(12):  # all that there are
        number, c = earlier.ask()
        earlier.report(number, 3, c.network.depth / 10)
        earlier.tell(
            number,
            *(
                (TrialState.PRUNED,)
                if c.network.depth == 2
                else (TrialState.COMPLETE, [c.network.depth / 10])
            ),
        )
    now = override(then, {"network.depth": {"low": 2, "high": 5}, "network.width": 8})
    known = known_trials(at(tmp_path / "then"), "then", then, now)
    assert sorted(k.parameters["network.depth"] for k in known) == [2, 3, 4, 5]
    assert {k.state for k in known if k.parameters["network.depth"] == 2} == {TrialState.PRUNED}

    study = Study(now, fits, at(tmp_path / "now"), "now")
    study.add_known("then", known)
    assert (len(study), study.known, study.trials(), study.ranked(), study.pareto()) == (0, 4, [], [], [])
    number, _ = study.ask()
    assert number == 4  # its number is its place in the study, where the earlier ones are
    study.report(number, 3, 0.45)
    assert study.should_prune(number, 3)  # beside 0.2, 0.3, 0.4 and 0.5
    again = Study(now, fits, at(tmp_path / "now"), "now")
    assert (len(again), again.known, len(again.trials())) == (1, 4, 1)


def test_a_value_that_now_applies_elsewhere_alone_is_not_known(tmp_path: Path) -> None:
    then = parse("[network]\ndepth = 2\nwidth = { choices = [16, 32] }")
    earlier = Study(then, fits, at(tmp_path / "then"), "then")
    for _ in range(2):
        earlier.tell(earlier.ask()[0], TrialState.COMPLETE, [0.1])
    now = parse(
        "[network]\ndepth = { choices = [2, 3] }\nwidth = { choices = [32, 64], when = { depth = 3 } }"
    )
    [known] = known_trials(at(tmp_path / "then"), "then", then, now)  # that of width 16, the default
    assert known.parameters == {"network.depth": 2}


def test_an_earlier_sweep_that_was_taken_in_part_is_taken_whole(tmp_path: Path) -> None:
    then = parse("[network]\ndepth = { low = 1, high = 6 }")
    earlier = Study(then, fits, at(tmp_path / "then"), "then")
    for _ in range(6):
        number, configuration = earlier.ask()
        earlier.tell(number, TrialState.COMPLETE, [configuration.network.depth / 10])
    known = known_trials(at(tmp_path / "then"), "then", then, then)
    Study(then, fits, at(tmp_path / "now"), "now").add_known("then", known[:2])
    study = Study(then, fits, at(tmp_path / "now"), "now")
    study.add_known("then", known)
    assert study.known == 6
    assert {trial.params["network.depth"] for trial in study.optuna_study.trials} == set(range(1, 7))


def test_nothing_is_known_of_a_study_that_was_never_begun(tmp_path: Path) -> None:
    space = parse("[network]\ndepth = { low = 1, high = 6 }")
    assert known_trials(at(tmp_path / "none"), "none", space, space) == []
    assert not (tmp_path / "none").exists()


def test_nothing_is_known_where_a_fixed_value_is_another(tmp_path: Path) -> None:
    then = parse("[network]\ndepth = { low = 1, high = 6 }\n[training]\nepochs = 9")
    earlier = Study(then, fits, at(tmp_path / "then"), "then")
    earlier.tell(earlier.ask()[0], TrialState.COMPLETE, [0.1])
    now = override(then, {"training.epochs": 10})
    assert known_trials(at(tmp_path / "then"), "then", then, now) == []
    assert len(known_trials(at(tmp_path / "then"), "then", then, override(then, {"training.seed": 7}))) == 1


# --- A database ------------------------------------------------------------------------------------------


def test_a_study_in_a_database_is_the_same_study(tmp_path: Path) -> None:
    place = StudyStorage(url=f"sqlite:///{tmp_path}/study.db")
    tell_one_of_each(Study(DEEP, shape_error, place))
    again = Study(DEEP, shape_error, place)
    assert [trial.state for trial in again.trials()] == [
        "COMPLETE",
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.RUNNING,
    ]
    [(number, _)] = again.reopen()
    again.tell(number, TrialState.COMPLETE, [0.1])
    assert [number for number, _ in again.ranked()] == [3, 0]


@pytest.mark.parametrize("objectives", [["valid_loss"], ["valid_accuracy"], ["valid_loss", "parameters"]])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optunas_dashboard_finds_the_names_of_the_objectives(objectives: list[str], tmp_path: Path) -> None:
    space = override(DEEP, {"search.objectives": objectives})
    study = Study(space, fits, at(tmp_path / "journal"))
    assert study.optuna_study.metric_names == objectives


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_study_of_an_earlier_version_gets_the_names_with_its_next_write(tmp_path: Path) -> None:
    optuna.create_study(study_name="study", storage=at(tmp_path / "journal").storage())
    study = Study(DEEP, fits, at(tmp_path / "journal"))
    assert study.optuna_study.metric_names is None  # opening a study only reads it
    study.end_search()
    assert study.optuna_study.metric_names == ["valid_loss"]
