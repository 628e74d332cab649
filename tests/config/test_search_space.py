"""Search-space files: they survive a round trip, bound the samples, and report errors as InputError."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from convene.config.parameter import SEARCHABLE
from convene.config.schema import SECTIONS, Configuration, flatten
from convene.config.search_space import SearchSpace, build, override, parse, parse_override, read
from convene.errors import InputError
from convene.search.study import Study
from tests.config.test_schema import tables, values

# --- Arbitrary spaces -----------------------------------------------------------------------------


def value(choice: Any) -> Any:
    """The choice as a hashable value."""
    return tuple(choice) if isinstance(choice, list) else choice


@st.composite
def searched(draw: st.DrawFn, section: str, field: str) -> dict[str, Any]:
    """The table of a field: choices, or a range if the field is a number."""
    drawn = draw(st.lists(values(section, field), min_size=1, max_size=4, unique_by=value))
    number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in drawn) and field != "dense"
    if not number or len(drawn) == 1 or draw(st.booleans()):
        return {"choices": drawn}
    low, high = min(drawn), max(drawn)
    form = draw(st.sampled_from(["plain", "log", "step"]))
    if form == "log" and low > 0:
        return {"low": low, "high": high, "log": True}
    if form == "step" and isinstance(low, int) and isinstance(high, int):
        return {"low": low, "high": high, "step": draw(st.integers(1, high - low))}
    if form == "step" and (high - low) / 7 > 1e-6:
        return {"low": low, "high": high, "step": (high - low) / 7}
    return {"low": low, "high": high}


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Spaces with some searched fields."""
    drawn = draw(tables())
    for section in SEARCHABLE:
        fields = draw(st.lists(st.sampled_from(sorted(SECTIONS[section].model_fields)), unique=True))
        drawn[section] |= {field: draw(searched(section, field)) for field in fields}
    space = build(drawn)
    return draw(st.sampled_from([space, with_conditions(space), with_first_trials(space)]))


def with_conditions(space: SearchSpace) -> SearchSpace:
    """The space with each parameter conditional on the previous one, if its values can be listed."""
    changes: dict[str, Any] = {}
    for before, name in pairwise(space.searched):
        spec, other = space.searched[name].spec, space.searched[before]
        if other.all_values:
            changes[name] = {**spec, "when": {before: [other.choices_or_bounds[0]]}}
    return override(space, changes)


def with_first_trials(space: SearchSpace) -> SearchSpace:
    """The space with a complete first trial, and a second one that sets a single parameter."""
    study = Study(override(space, {"search.sampler": "random"}), shape_check=lambda configuration: None)
    first: list[dict[str, dict[str, Any]]] = []
    for most in (None, 1):
        number, _ = study.ask()
        settings = study.settings(number)
        entry: dict[str, dict[str, Any]] = {}
        for name in list(space.searched)[:most]:
            section, field = name.split(".")
            entry.setdefault(section, {})[field] = settings[name]
        first.append(entry)
    return override(space, {"search.try_first": first})


@settings(deadline=None, max_examples=80)
@given(spaces())
@example(build({"data": {"source": 'a"b\\c\n\r\t\0\x7f\x85\u2028\U0001f600\'"""#'}}))
@example(build({"training": {"learning_rate": 1e-300, "weight_decay": 1, "seed": 2**53 - 1}}))
def test_a_written_space_is_read_back(space: SearchSpace) -> None:
    assert parse(space.to_toml()) == space


def inside(sampled: Any, table: dict[str, Any]) -> bool:
    if "choices" in table:
        layers = [(c,) if isinstance(sampled, tuple) and isinstance(c, int) else c for c in table["choices"]]
        return sampled in [() if layer == (0,) else value(layer) for layer in layers]
    return bool(table["low"] <= sampled <= table["high"])


@settings(deadline=None, max_examples=80)
@given(spaces())
def test_samples_lie_in_the_space_and_other_fields_are_fixed(space: SearchSpace) -> None:
    space = override(space, {"search.sampler": "random"})
    study = Study(space, shape_check=lambda configuration: None)
    for expected in range(3):
        number, configuration = study.ask()
        assert number == expected
        sections = configuration.model_dump()
        for name in study.trials()[number].parameters:
            section, field = name.split(".")
            assert inside(sections[section][field], space.tables[section][field]), name
        free = {*space.distributions, "training.seed"}
        fixed = {name: v for name, v in flatten(configuration).items() if name not in free}
        assert fixed == {name: v for name, v in flatten(space.base).items() if name not in free}


def test_a_seed_defaults_to_the_search_seed_plus_the_trial_number() -> None:
    space = parse("[search]\nseed = 100")
    assert [space.configuration({}, number).training.seed for number in (0, 7)] == [100, 107]
    assert override(space, {"training.seed": 3}).configuration({}, 7).training.seed == 3


@pytest.mark.parametrize(
    ("name", "table", "distribution"),
    [
        ("network.depth", "{ low = 1, high = 3 }", IntDistribution(1, 3)),
        ("network.width", "{ low = 8, high = 64, log = true }", IntDistribution(8, 64, log=True)),
        ("network.width", "{ low = 8, high = 32, step = 8 }", IntDistribution(8, 32, step=8)),
        # If the last step ends before `high`, so does the range.
        ("network.width", "{ low = 8, high = 30, step = 8 }", IntDistribution(8, 24, step=8)),
        ("network.dropout", "{ low = 0, high = 0.5 }", FloatDistribution(0.0, 0.5)),
        ("network.dropout", "{ low = 0, high = 0.5, step = 0.1 }", FloatDistribution(0.0, 0.5, step=0.1)),
        ("network.growth", "{ low = 1, high = 2 }", FloatDistribution(1.0, 2.0)),
        ("training.seed", "{ low = 0, high = 9 }", IntDistribution(0, 9)),
        ("training.learning_rate", "{ low = 1, high = 2 }", FloatDistribution(1.0, 2.0)),
        (
            "training.learning_rate",
            "{ low = 1e-4, high = 0.1, log = true }",
            FloatDistribution(1e-4, 0.1, log=True),
        ),
        ("network.depth", "{ choices = [1, 3] }", CategoricalDistribution((1, 3))),
        ("network.batch_norm", "{ choices = [true, false] }", CategoricalDistribution((True, False))),
        ("network.dense", "{ choices = [0, 32, [64, 32]] }", CategoricalDistribution((0, 32, "[64, 32]"))),
    ],
)
def test_the_type_of_the_field_determines_the_distribution(name: str, table: str, distribution: Any) -> None:
    section, field = name.split(".")
    assert parse(f"[{section}]\n{field} = {table}").distributions == {name: distribution}


def test_whole_number_choices_of_a_float_field_are_floats() -> None:
    _, configuration = Study(parse("[network]\ngrowth = { choices = [1, 2] }"), lambda c: None).ask()
    assert isinstance(configuration.network.growth, float)


@pytest.mark.parametrize(
    ("field", "choices", "expected"),
    [
        ("dense", "[0, 32, [64, 32], []]", {(), (32,), (64, 32)}),
        ("filters", "[[8], [8, 16], [4, 4, 4]]", {(8,), (8, 16), (4, 4, 4)}),
    ],
)
def test_choices_can_be_lists(field: str, choices: str, expected: set[tuple[int, ...]]) -> None:
    space = parse(f'[network]\n{field} = {{ choices = {choices} }}\n[search]\nsampler = "random"')
    study = Study(space, shape_check=lambda configuration: None)
    # 60 draws miss one of at most 4 choices with probability 4 (3/4)^60 < 1e-6; the seed is fixed.
    assert {getattr(study.ask()[1].network, field) for _ in range(60)} == expected


# --- Overrides --------------------------------------------------------------------------------------


def test_overrides_replace_fixed_and_searched_values(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text("[network]\nwidth = 8\ndepth = { low = 1, high = 3 }")
    space = read(
        path,
        {
            "network.width": {"choices": [4, 8]},
            "network.depth": 2,
            "search.trials": 5,
            "data.source": "mnist",
        },
    )
    assert space.distributions == {"network.width": CategoricalDistribution((4, 8))}
    assert (space.base.network.depth, space.base.search.trials, space.base.data.source) == (2, 5, "mnist")
    assert parse(space.to_toml()) == space
    assert read(path).distributions == {"network.depth": IntDistribution(1, 3)}


def test_an_override_does_not_change_the_original_space() -> None:
    space = parse("[network]\nwidth = 8")
    assert override(space, {"network.width": 4}).base.network.width == 4
    assert space == parse("[network]\nwidth = 8")
    assert override(space, {}) == space


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("network.kernal_size", "did you mean kernel_size"),
        ("netwrok.width", "did you mean network"),
        ("network.width.low", "network.width.low: no such key"),
        ("width", "[width]: no such section"),
    ],
)
def test_an_override_of_an_unknown_key_suggests_similar_ones(name: str, part: str) -> None:
    with pytest.raises(InputError, match=re.escape(part)):
        parse("[network]\nwidth = 8", {name: 1})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("network.width=16", ("network.width", 16)),
        (" network.width = 16 ", ("network.width", 16)),
        ("training.learning_rate=1e-3", ("training.learning_rate", 0.001)),
        ("training.flip=true", ("training.flip", True)),
        ("network.dense=[32, 16]", ("network.dense", [32, 16])),
        ("network.depth={ low = 1, high = 3 }", ("network.depth", {"low": 1, "high": 3})),
        ("network.depth={ choices = [1, 3] }", ("network.depth", {"choices": [1, 3]})),
        ("data.source=mnist", ("data.source", "mnist")),
        ('data.source="5"', ("data.source", "5")),
        ("data.source=/a b/c=d.npz", ("data.source", "/a b/c=d.npz")),
        (r"data.source=C:\new\table.npz", ("data.source", r"C:\new\table.npz")),
        ("data.source=", ("data.source", "")),
        ("search.time_budget=30m", ("search.time_budget", "30m")),
        ("network.dense=[32", ("network.dense", "[32")),
        (f"training.seed={'1' * 5000}", ("training.seed", "1" * 5000)),
        (f"network.dense={'[' * 5000}", ("network.dense", "[" * 5000)),
    ],
    ids=lambda case: case[:40] if isinstance(case, str) else "",
)
def test_the_value_of_an_override_is_toml_or_text(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["", "network.width", "width=3", "=3", "network.=3", "network"])
def test_a_malformed_override_is_rejected(text: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"--set {text}: must be SECTION.KEY=VALUE")):
        parse_override(text)


# --- Damaged files --------------------------------------------------------------------------------

VALID = """
[data]
source = "digits"
valid_fraction = 0.1

[network]
kernel_size = { choices = [3, 5] }
depth = { low = 1, high = 3 }
filters = { choices = [[8, 16], [32]] }
dense = [32]
batch_norm = { choices = [true, false] }
dropout = { low = 0.0, high = 0.3, step = 0.1 }
dense_dropout = { low = 0.0, high = 0.3, when = { depth = [2, 3], batch_norm = true } }

[training]
learning_rate = { low = 2e-3, high = 3e-2, log = true }
seed = 3

[search]
time_budget = "30m"
seed = 0
objectives = ["valid_loss", "parameters"]

[[search.try_first]]
network.depth = 2
network.filters = [32]

[ensemble]
size = 5
"""
TOKENS = re.findall(r"\s+|[\w.+-]+|.", VALID)
ODD = [
    *("1979-05-27", "1979-05-27T07:32:00Z", "07:32:00", "9" * 30, "9" * 400, "-9" + "0" * 30, "-0.0", "-1"),
    *("0", "1", "1.5", "1e-320", "1e308", "nan", "-inf", "true", "false", '""', '"3"', "''", "[]", "{}"),
    *("{ low = 1, high = 2 }", "{ choices = [1] }", "{ a = { b = 1 } }", "[[1]]", "[1, [2]]", "[nan]"),
    *("[", "]", "{", "}", "=", ",", ".", '"', "'", '"""', "#", "\n", "\r", "\0", "\\", "é", "\u202e"),
    *(
        "low",
        "high",
        "step",
        "log",
        "choices",
        "when",
        "network",
        "training",
        "search",
        "seed",
        "dense",
        "filters",
    ),
    *("0x1F", "0b1", "1_000", "a.b", '"a b"', "[network]", "[[training]]", "[network.depth]"),
]
edits = st.lists(
    st.tuples(
        st.integers(0, len(TOKENS) - 1),
        st.integers(0, 3),
        st.one_of(st.just(""), st.sampled_from(ODD), st.text(max_size=5)),
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=300)
@given(edits)
def test_a_damaged_file_is_rejected_or_is_a_space(changes: list[tuple[int, int, str]]) -> None:
    tokens = list(TOKENS)
    for place, count, replacement in changes:
        tokens[place : place + count] = [replacement]
    try:
        space = parse("".join(tokens))
    except InputError as error:
        assert str(error)
        return
    assert parse(space.to_toml()) == space
    _, configuration = Study(space, shape_check=lambda configuration: None).ask()
    assert isinstance(configuration, Configuration)


def test_the_undamaged_file_is_a_space() -> None:
    assert len(parse(VALID).distributions) == 7


# --- Conditions and first trials ---------------------------------------------------------

CONDITIONAL = """
[network]
dense = { choices = [0, 128, [256, 64]] }
dense_dropout = { low = 0, high = 0.5, when = { dense = [128, [256, 64]] } }
[training]
optimizer = { choices = ["adamw", "sgd"] }
ema = { choices = [0.9, 0.99], when = { training.optimizer = "sgd" } }
weight_decay = { low = 0, high = 0.1, when = { ema = 0.99 } }
"""


@pytest.mark.parametrize(
    ("parameters", "active"),
    [
        ({"network.dense": 0, "network.dense_dropout": 0.1}, {"network.dense"}),
        (
            {"network.dense": "[256, 64]", "network.dense_dropout": 0.1},
            {"network.dense", "network.dense_dropout"},
        ),
        ({"network.dense_dropout": 0.1}, set()),
        # A parameter that depends on an inactive one is inactive.
        (
            {"training.optimizer": "adamw", "training.ema": 0.99, "training.weight_decay": 0.1},
            {"training.optimizer"},
        ),
        (
            {"training.optimizer": "sgd", "training.ema": 0.99, "training.weight_decay": 0.1},
            {"training.optimizer", "training.ema", "training.weight_decay"},
        ),
        (
            {"training.optimizer": "sgd", "training.ema": 0.9, "training.weight_decay": 0.1},
            {"training.optimizer", "training.ema"},
        ),
    ],
)
def test_a_parameter_is_active_if_its_condition_is_met(parameters: dict[str, Any], active: set[str]) -> None:
    assert set(parse(CONDITIONAL).active_parameters(parameters)) == active


def test_a_condition_on_a_fixed_value_is_decided_by_it() -> None:
    without = parse(CONDITIONAL, {"network.dense": 0})
    assert set(without.active_parameters({"network.dense_dropout": 0.1})) == set()
    assert without.configuration({}, 0).network.dense_dropout == 0.0
    always = parse(CONDITIONAL, {"network.dense": 128})
    assert set(always.active_parameters({"network.dense_dropout": 0.1})) == {"network.dense_dropout"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("dropout = { low = 0, high = 0.5, when = 3 }", ["network.dropout.when = 3", "must be a table"]),
        ("dropout = { low = 0, high = 0.5, when = { dens = 3 } }", ["network.dens", "network.dense"]),
        ("dropout = { low = 0, high = 0.5, when = { data.source = 3 } }", ["data.source: no such key"]),
        ("dropout = { low = 0, high = 0.5, when = { depth = [] } }", ["network.depth = []", "at least one"]),
        ("dropout = { low = 0, high = 0.5, when = { depth = 'x' } }", ["network.depth", "'x'"]),
        (
            "depth = { low = 1, high = 3 }\ndropout = { low = 0, high = 0.5, when = { depth = [3, 4] } }",
            ["network.dropout.when: network.depth = 4 is not in", "'high': 3"],
        ),
        (
            "growth = { low = 1, high = 3 }\ndropout = { low = 0, high = 0.5, when = { growth = 2 } }",
            ["network.growth has too many values"],
        ),
        (
            "depth = { low = 1, high = 3, when = { width = 8 } }\n"
            "width = { choices = [4, 8], when = { depth = 1 } }",
            ["cycle", "network.depth", "network.width"],
        ),
        ("depth = { low = 1, high = 3, when = { depth = 1 } }", ["cycle", "network.depth"]),
        ("depth = { low = 1, high = 3, wenn = { width = 1 } }", ["network.depth.wenn", "did you mean when"]),
    ],
)
def test_an_impossible_condition_is_rejected(text: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as raised:
        parse(f"[network]\n{text}")
    assert [part for part in parts if part not in str(raised.value)] == []


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ("network.dense = 64", ["search.try_first[0]: network.dense = 64: must be in", "[256, 64]"]),
        ("network.width = 64", ["search.try_first[0]: network.width is not searched", "network.dense"]),
        ("network.dens = 64", ["search.try_first[0]: network.dens: no such key", "dense"]),
        ("netwrk.dense = 64", ["search.try_first[0]: [netwrk]: no such section"]),
        ("network.dense_dropout = 0.7\nnetwork.dense = 128", ["network.dense_dropout = 0.7: must be in"]),
        (
            "network.dense_dropout = 0.2",
            ["network.dense_dropout applies only when { dense = [128, [256, 64]] }"],
        ),
        ("network.dense_dropout = 0.2\nnetwork.dense = 0", ["network.dense_dropout applies only when"]),
        ("network.dense = 'x'", ["network.dense", "'x'"]),
    ],
)
def test_a_first_trial_outside_the_space_is_rejected(entry: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as raised:
        parse(f"{CONDITIONAL}[[search.try_first]]\n{entry}")
    assert [part for part in parts if part not in str(raised.value)] == []
