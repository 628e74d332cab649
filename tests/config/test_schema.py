"""Fields of a configuration: allowed values are read back, and wrong ones are reported."""

import re
import typing
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from convene.config import search_space
from convene.config.schema import SECTIONS, Configuration, Duration, flatten
from convene.config.validation import validate
from convene.errors import InputError

SPACES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.toml"))

# --- Allowed values of each field, from its own annotations --------------------------------------


def bounds(rules: list[Any]) -> dict[str, Any]:
    """Keywords of `st.floats` for the limits of a field."""
    limits: dict[str, Any] = {"allow_nan": False, "allow_infinity": False}
    for rule in rules:
        match rule:
            case Ge(ge=low):
                limits["min_value"] = low
            case Gt(gt=low):
                limits |= {"min_value": low, "exclude_min": True}
            case Le(le=high):
                limits["max_value"] = high
            case Lt(lt=high):
                limits |= {"max_value": high, "exclude_max": True}
    return limits


def whole(rules: list[Any]) -> st.SearchStrategy[int]:
    limits = bounds(rules)
    low, high = limits.get("min_value"), limits.get("max_value")
    return st.integers(low, limits["max_value"] - 1 if limits.get("exclude_max") else high)


def allowed(annotation: Any, rules: list[Any]) -> st.SearchStrategy[Any]:
    """TOML values of a type with constraints; TOML has no None."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        metadata = [m for a in arguments[1:] for m in (a.metadata if isinstance(a, FieldInfo) else [a])]
        return allowed(arguments[0], metadata)
    if origin in (typing.Union, UnionType):
        return st.one_of(*(allowed(option, rules) for option in arguments if option is not type(None)))
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(allowed(arguments[0], []), max_size=3)
    strategies: dict[Any, Callable[[], st.SearchStrategy[Any]]] = {
        bool: st.booleans,
        str: st.text,
        int: lambda: whole(rules),
        float: lambda: st.floats(**bounds(rules)),
    }
    return strategies[annotation]()


# Fields with constraints beyond their types; `try_first` depends on the searched parameters.
VALIDATED: dict[str, list[Any]] = {
    "gpus_per_trial": [0, 0.25, 0.5, 1, 2.0, "auto"],
    "objectives": [["valid_loss"], ["valid_accuracy", "parameters"], ["latency_ms", "valid_loss", "seconds"]],
    "try_first": [[]],
}


def values(section: str, field: str) -> st.SearchStrategy[Any]:
    """Allowed TOML values of a field."""
    if field in VALIDATED:
        return st.sampled_from(VALIDATED[field])
    info = SECTIONS[section].model_fields[field]
    return allowed(info.annotation, info.metadata)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """The tables of a file with fixed values for some of the keys."""
    drawn: dict[str, dict[str, Any]] = {}
    for section, model in SECTIONS.items():
        fields = draw(st.lists(st.sampled_from(sorted(model.model_fields)), unique=True, max_size=5))
        drawn[section] = {field: draw(values(section, field)) for field in fields}
    if drawn["search"].get("sampler") == "cmaes":
        drawn["search"].pop("objectives", None)
    return drawn


# --- Valid configurations --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(tables())
def test_a_configuration_survives_json_and_flattening(written: dict[str, Any]) -> None:
    configuration = validate(written)
    assert Configuration.model_validate_json(configuration.model_dump_json()) == configuration
    nested: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in flatten(configuration).items():
        section, field = name.split(".")
        if value is not None:
            nested[section][field] = value
    assert validate(nested) == configuration
    for section, table in written.items():
        for field, value in table.items():
            assert flatten(configuration, section)[f"{section}.{field}"] == value


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_each_search_space_of_the_project_is_valid(path: Path) -> None:
    space = search_space.read(path)
    assert space.distributions
    assert search_space.parse(space.to_toml()) == space


def test_the_project_has_search_spaces() -> None:
    assert {"digits", "mnist"} <= {path.stem for path in SPACES}


def test_an_empty_file_has_all_defaults() -> None:
    assert search_space.parse("").base == Configuration()


@pytest.mark.parametrize(("dense", "layers"), [("0", ()), ("32", (32,)), ("[32, 16]", (32, 16)), ("[]", ())])
def test_dense_layers_are_a_number_or_a_list(dense: str, layers: tuple[int, ...]) -> None:
    assert search_space.parse(f"[network]\ndense = {dense}").base.network.dense == layers


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("300s", 300),
        ("30m", 1800),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2d", 172_800),
        ("1h1m1s", 3661),
        (90, 90),
        (0.5, 0.5),
    ],
)
def test_a_duration_is_a_number_of_seconds_or_a_sum_with_units(written: Any, seconds: float) -> None:
    assert TypeAdapter(Duration).validate_python(written) == seconds


@pytest.mark.parametrize(
    "written", ['"30"', '"3w"', '"m30"', '"1h 30m"', '" 30m"', '"-5m"', '""', '"1.h"', '"∞s"', '"30M"']
)
def test_the_error_for_a_duration_shows_valid_ones(written: str) -> None:
    with pytest.raises(InputError) as raised:
        search_space.parse(f"[search]\ntime_budget = {written}")
    assert str(raised.value).startswith("search.time_budget = ")
    assert '"300s", "30m" or "1h30m"' in str(raised.value)


# --- Invalid files, and the parts of the error message -----------------------------

WRONG = {
    # Names.
    "[network]\nkernal_size = 3": ["network.kernal_size: no such key", "did you mean kernel_size"],
    "[network]\nfoo = 3": ["network.foo: no such key", "known names: kernel_size, depth"],
    "[network]\nlearning_rate = 0.1": ["network.learning_rate", "did you mean training.learning_rate?"],
    "[training]\ndropout = 0.1": ["training.dropout", "did you mean network.dropout?"],
    "[search]\nbatch_size = 64": ["search.batch_size", "did you mean training.batch_size?"],
    "[netwrok]\ndepth = 3": ["[netwrok]: no such section", "did you mean network?"],
    "[xyz]\ndepth = 3": ["[xyz]: no such section", "data, network, training, search, ensemble"],
    "depth = 3": ["[depth]: no such section"],
    "network = 3": ["network: must be a table", "3"],
    "[[network]]\ndepth = 3": ["network: must be a table"],
    # Values: type, bounds and choices.
    '[network]\nwidth = "16"': ["network.width = '16'", "valid integer"],
    "[network]\nwidth = 16.0": ["network.width = 16.0", "valid integer"],
    "[network]\nwidth = true": ["network.width = True", "valid integer"],
    "[network]\nwidth = 2020-01-01": ["network.width = ", "valid integer"],
    "[network]\nbatch_norm = 1": ["network.batch_norm = 1", "valid boolean"],
    "[network]\nfilters = 8": ["network.filters = 8", "a list"],
    "[network]\nfilters = [8, 0]": ["network.filters = 0", "greater than or equal to 1"],
    "[network]\ndense = true": ["network.dense = True"],
    "[data]\nsource = 5": ["data.source = 5", "valid string"],
    '[training]\nlearning_rate = "1e-3"': ["training.learning_rate = '1e-3'", "valid number"],
    "[network]\ndepth = 0": ["network.depth = 0", "greater than or equal to 1"],
    "[network]\nkernel_size = 32": ["network.kernel_size = 32", "less than or equal to 31"],
    "[network]\ndropout = 1.0": ["network.dropout = 1.0", "less than 1"],
    "[training]\nlearning_rate = 0": ["training.learning_rate = 0", "greater than 0"],
    "[training]\nlearning_rate = nan": ["training.learning_rate = nan"],
    "[training]\nlearning_rate = inf": ["training.learning_rate = inf"],
    "[training]\nweight_decay = nan": ["training.weight_decay = nan", "finite"],
    "[training]\nbatch_size = 1": ["training.batch_size = 1", "greater than or equal to 2"],
    "[search]\ntime_budget = 0": ["search.time_budget = 0", "greater than 0"],
    "[search]\ntime_budget = true": ["search.time_budget = True"],
    "[search]\ncpus_per_trial = inf": ["search.cpus_per_trial = inf", "finite"],
    '[search]\ngpus_per_trial = "avto"': ["search.gpus_per_trial = 'avto'", 'must be a number, or "auto"'],
    "[search]\ngpus_per_trial = 1.5": ["search.gpus_per_trial = 1.5", "a whole number"],
    # NumPy's generators, which the samplers use, accept no larger seed.
    "[search]\nseed = 4294967296": ["search.seed = 4294967296", "less than 4294967296"],
    '[network]\nactivation = "swish"': ["network.activation = 'swish'", "'relu'", "'silu'"],
    '[training]\noptimizer = "Adam"': ["training.optimizer = 'Adam'", "'adamw', 'adam' or 'sgd'"],
    '[search]\nobjectives = ["test_accuracy"]': ["search.objectives", "'valid_loss', 'valid_accuracy'"],
    '[search]\nobjectives = ["parameters"]': [
        "search.objectives",
        "must include valid_loss or valid_accuracy",
    ],
    "[search]\nobjectives = []": ["search.objectives", "at least 1"],
    '[search]\nobjectives = ["valid_loss", "valid_loss"]': ["search.objectives", "duplicate"],
    '[search]\nobjectives = ["valid_loss", "seconds"]\nsampler = "cmaes"': [
        "search.sampler",
        "one objective",
    ],
    # Several wrong fields.
    "[network]\ndepth = 0\n[training]\nepochs = 0": ["network.depth = 0", "training.epochs = 0"],
    # Ranges.
    "[network]\ndepth = { low = 3, high = 1 }": ["network.depth", "low = 3", "less than high = 1"],
    "[network]\ndepth = { low = 3, high = 3 }": ["network.depth", "low = 3", "less than high = 3"],
    "[network]\ndepth = { low = 1, high = 99 }": ["network.depth = 99", "less than or equal to 16"],
    "[network]\ndepth = { low = 0, high = 3 }": ["network.depth = 0", "greater than or equal to 1"],
    "[network]\ndepth = { low = 1 }": ["network.depth", "needs high"],
    "[network]\ndepth = {}": ["network.depth", "needs low and high, or choices"],
    "[network]\ndepth = { low = 1.0, high = 3 }": ["network.depth.low = 1.0", "a whole number"],
    '[network]\ndepth = { low = "1", high = 3 }': ["network.depth.low = '1'", "a whole number"],
    "[network]\ndepth = { low = true, high = 3 }": ["network.depth.low = True", "a whole number"],
    "[network]\ndepth = { low = 1, high = 3, step = 0.5 }": ["network.depth.step = 0.5", "a whole number"],
    "[network]\ndepth = { low = 1, high = 3, step = 0 }": ["network.depth.step = 0", "more than 0"],
    "[network]\ndropout = { low = 0.0, high = nan }": ["network.dropout", "less than high = nan"],
    "[network]\ndropout = { low = -inf, high = 0.5 }": ["network.dropout = -inf"],
    "[network]\ndropout = { low = 0.0, high = 0.5, step = nan }": ["network.dropout.step = nan"],
    "[network]\ndropout = { low = 0.0, high = 0.5, step = inf }": ["network.dropout.step = inf"],
    "[network]\ndropout = { low = 0.0, high = 0.5, step = 1e-300 }": ["network.dropout", "too far apart"],
    "[network]\ndropout = { low = 0.0, high = 0.5, log = true }": ["network.dropout", "low = 0.0", "log"],
    "[network]\ndropout = { low = 0.1, high = 0.5, log = 1 }": ["network.dropout.log = 1", "true or false"],
    "[training]\nlearning_rate = { low = 1e-4, high = 0.1, log = true, step = 1e-4 }": ["step", "log = true"],
    f"[training]\nlearning_rate = {{ low = 1e-4, high = 1{'0' * 400} }}": ["training.learning_rate"],
    "[network]\ndepth = { low = 1, high = 3, lgo = true }": ["network.depth.lgo", "did you mean low or log"],
    "[network]\nbatch_norm = { low = 0, high = 1 }": ["network.batch_norm", "choices"],
    "[network]\nactivation = { low = 1, high = 2 }": ["network.activation", "choices"],
    # Choices.
    "[network]\ndepth = { choices = [] }": ["network.depth.choices = []", "at least one"],
    "[network]\ndepth = { choices = 3 }": ["network.depth.choices = 3", "a list"],
    "[network]\ndepth = { choices = [1, 2, 1] }": ["network.depth.choices", "[1, 2, 1]", "duplicate"],
    "[network]\ndropout = { choices = [0, 0.0] }": ["network.dropout.choices", "duplicate"],
    "[network]\ndense = { choices = [[8], [8]] }": ["network.dense.choices", "duplicate"],
    "[network]\ndepth = { choices = [1, 99] }": ["network.depth = 99", "less than or equal to 16"],
    '[network]\ndepth = { choices = [1, "2"] }': ["network.depth = '2'", "valid integer"],
    "[network]\ndropout = { choices = [0.1, nan] }": ["network.dropout = nan"],
    "[network]\ndepth = { choices = [1, 2], log = true }": [
        "network.depth",
        "choices cannot be combined with log",
    ],
    "[network]\ndepth = { choices = [{ low = 1, high = 2 }] }": ["network.depth", "cannot be a table"],
    "[network.depth.choices]\na = 1": ["network.depth.choices", "a list"],
    # Sections that are the same for all trials.
    '[data]\nsource = { choices = ["digits", "mnist"] }': ["data.source", "[network] and [training]"],
    "[search]\nseed = { low = 0, high = 9 }": ["search.seed", "only [network] and [training]"],
    "[ensemble]\nsize = { choices = [3, 5] }": ["ensemble.size", "only [network] and [training]"],
    # Invalid TOML.
    "[network]\ndepth = \nwidth = 8": ["not valid TOML", "line 2, column"],
    "[network]\ndepth = 1\ndepth = 2\n": ["not valid TOML", "line 3, column"],
    "[network\ndepth = 1": ["not valid TOML", "line 1, column"],
    "[network]\nactivation = relu": ["not valid TOML", "line 2, column"],
    f"[training]\nseed = {'1' * 5000}": ["not valid TOML", "4300 digits"],
    f"[network]\ndense = {'[' * 5000}{']' * 5000}": ["not valid TOML"],
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: re.sub(r"\s+", " ", text)[:60])
def test_an_error_names_the_field_and_what_is_allowed(text: str) -> None:
    with pytest.raises(InputError) as raised:
        search_space.parse(text)
    for part in WRONG[text]:
        assert part in str(raised.value)
    # Users write TOML, which has no tuples.
    assert "tuple" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["No such file"]),
        (b"[network]\nwidth = \xff", ["utf-8"]),
        (b"[network]\nwidth = \n", ["not valid TOML", "line 2"]),
    ],
)
def test_an_unreadable_file_is_named(content: bytes | None, parts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        search_space.read(path)
    for part in [str(path), *parts]:
        assert part in str(raised.value)


def test_a_folder_is_not_a_search_space(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Is a directory"):
        search_space.read(tmp_path)


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_bytes(b"\xef\xbb\xbf[network]\r\nwidth = 4\r\n")
    assert search_space.read(tmp_path / "space.toml").base.network.width == 4
