"""The bound is above what real files and a real sweep take, and not far above."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from convene.config import search_space
from convene.config.schema import Configuration
from convene.config.search_space import SearchSpace
from convene.config.validation import validate
from convene.datasets import load
from convene.formatting import byte_size
from convene.sweep.disk import DiskUsage, disk_bound
from convene.training import shapes, size
from convene.training.fit import Fit
from convene.training.size import largest_configuration, network_bytes
from tests.conftest import CLEAN
from tests.training.test_fit import digits


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Two threads would wait for one another, where the machine has other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SHAPE, CLASSES = (1, 8, 8), 10
DATA = digits(train=40)

networks = st.fixed_dictionaries(
    {
        "kernel_size": st.integers(1, 4),
        "filters": st.lists(st.integers(1, 20), min_size=1, max_size=3),
        "dense": st.lists(st.integers(1, 40), max_size=2),
        "batch_norm": st.booleans(),
    }
)


def bytes_of(fit: Fit) -> tuple[int, int]:
    """Of the network's file and of the state's."""
    files = (fit.network.state_dict(), fit.state_tensors())
    network, state = (len(save({name: tensor.contiguous() for name, tensor in f.items()})) for f in files)
    return network, state


@settings(deadline=None, max_examples=30)
@given(networks, st.sampled_from(["adamw", "sgd"]), st.sampled_from([0.0, 0.9]))
@example({"kernel_size": 1, "filters": [500], "dense": [], "batch_norm": True}, "adamw", 0.9)
def test_files_are_no_larger_than_is_said(network: dict[str, Any], optimizer: str, ema: float) -> None:
    training = {"optimizer": optimizer, "ema": ema, "epochs": 1, "batch_size": 20}
    config = validate({"network": network, "training": training})
    fit = Fit(config, DATA)
    fit.run_epoch()
    at_most = network_bytes(config.network, SHAPE, CLASSES)
    weights, state = bytes_of(fit)
    # Names and places of tensors are most of a small file, and counted generously.
    assert weights <= at_most <= 1.1 * weights + 3000
    assert (
        state
        <= size.state_bytes(config, SHAPE, CLASSES)
        <= (2.2 if optimizer == "sgd" else 1.1) * state + 9000
    )


# Some or all values of each field, in any order.
FIELDS: dict[str, list[Any]] = {
    "kernel_size": [1, 2, 3, 5],
    "depth": [1, 2, 3],
    "width": [1, 4, 6],
    "growth": [0.5, 1.0, 2.0],
    "filters": [[], [3], [2, 8]],
    "stride": [1, 2],
    "padding": ["same", "valid"],
    "pooling": ["max", "average", "none"],
    "pool_size": [2, 3],
    "batch_norm": [True, False],
    "dense": [[], [4], [30, 2]],
}
spaces = st.fixed_dictionaries(
    {},
    optional={
        field: st.lists(st.sampled_from(range(len(values))), min_size=1, max_size=3, unique=True).map(
            lambda chosen, values=values: [values[index] for index in chosen]  # type: ignore[misc]
        )
        for field, values in FIELDS.items()
    },
).filter(lambda space: len(space) <= 6)


def every(space: SearchSpace) -> list[Configuration]:
    options = {name: searched.all_values or [] for name, searched in space.searched.items()}
    combined = itertools.product(*options.values())
    return [space.configuration(dict(zip(options, values, strict=True)), number=0) for values in combined]


@settings(deadline=None, max_examples=100)
@given(spaces, st.sampled_from([(1, 8, 8), (3, 9, 12)]))
def test_no_configuration_is_larger_than_the_largest(
    choices: dict[str, list[Any]], shape: tuple[int, int, int]
) -> None:
    space = search_space.build({"network": {field: {"choices": values} for field, values in choices.items()}})
    fitting = [each for each in every(space) if shapes.shape_error(each.network, shape) is None]
    if fitting:
        sizes = [network_bytes(each.network, shape, CLASSES) for each in fitting]
        assert network_bytes(largest_configuration(space, shape, CLASSES).network, shape, CLASSES) == max(
            sizes
        )


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ({"width": {"low": 4, "high": 30}}, {"width": 30}),
        ({"growth": {"low": 0.5, "high": 1.7}}, {"growth": 1.7}),
        # Without pooling between, fewer blocks would leave larger maps; the wider block outweighs them.
        ({"depth": {"low": 1, "high": 3}, "growth": 2.0}, {"depth": 3}),
        ({"depth": {"low": 1, "high": 3}, "growth": 0.25, "width": 16}, {"depth": 1}),
        # The larger kernel has more numbers, but leaves fewer pixels to a wide layer after it.
        (
            {
                "kernel_size": {"choices": [3, 7]},
                "padding": "valid",
                "depth": 1,
                "pooling": "none",
                "dense": 99,
            },
            {"kernel_size": 3},
        ),
        # Where its condition does not hold, the width is its default, 16.
        (
            {"dense": {"choices": [0, 8]}, "width": {"low": 2, "high": 9, "when": {"dense": 8}}},
            {"width": 16},
        ),
        # A kernel of nine does not fit.
        ({"kernel_size": {"choices": [3, 7, 9]}, "padding": "valid", "depth": 1, "pooling": "none"}, {}),
        (
            {"stride": {"low": 1, "high": 3}, "batch_norm": {"choices": [False, True]}},
            {"stride": 1, "batch_norm": True},
        ),
    ],
)
def test_the_largest_of_a_space(network: dict[str, Any], expected: dict[str, Any]) -> None:
    found = largest_configuration(search_space.build({"network": network}), SHAPE, CLASSES).network
    assert found == found.model_copy(update=expected)
    assert shapes.shape_error(found, SHAPE) is None


DIGITS = load(Configuration().data)


@pytest.mark.parametrize(
    "more",
    [
        {"search.trials": 64},
        {"ensemble.keep": 21},
        {"training.ema": 0.9},
        {"training.epochs": 11},
        {"network.width": {"choices": [4, 8]}},
        {"ensemble.size": 6},
    ],
)
def test_more_of_anything_takes_more(more: dict[str, Any]) -> None:
    space = search_space.build({"network": {"width": 4}, "search": {"trials": 50}})
    assert disk_bound(search_space.override(space, more), DIGITS, 2) > disk_bound(space, DIGITS, 2)
    assert disk_bound(space, DIGITS, 3) > disk_bound(space, DIGITS, 2)


def test_no_more_networks_are_kept_than_there_are_trials() -> None:
    spaces = [search_space.build({"search": {"trials": 3}, "ensemble": {"keep": keep}}) for keep in (3, 99)]
    assert disk_bound(spaces[0], DIGITS, 1) == disk_bound(spaces[1], DIGITS, 1)


def test_room_is_enough_or_not() -> None:
    assert str(DiskUsage(34_000_000, 120_000_000_000, "/x")) == "at most 34 MB under /x, of 120 GB free"
    assert DiskUsage(5, 5, "/x").is_enough
    assert not DiskUsage(6, 5, "/x").is_enough


# --- A real sweep ----------------------------------------------------------------------------------------

# Networks of 2 MB, all of one size: 16 of them would be more than the bound, which has room for two, for what
# a running trial writes, and for five files of an export.
SWEEP = """
[network]
depth = 2
width = 24
dense = 2048
[training]
epochs = 4
batch_size = 128
ema = 0.9
learning_rate = { low = 1e-5, high = 1e-2, log = true }
[search]
trials = 16
concurrency = 1
grace_epochs = 1
[ensemble]
size = 1
keep = 1
"""


def taken(root: Path) -> int:
    """Bytes of the blocks of everything under a folder, as `du` counts them."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in (*names, "."):
            try:
                total += Path(folder, name).stat().st_blocks * 512
            except FileNotFoundError:  # renamed or removed by now
                continue
    return total


@pytest.mark.slow
def test_a_sweep_never_takes_more_than_was_said(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SWEEP)
    root = tmp_path / "mlruns"
    bound = disk_bound(search_space.parse(SWEEP), DIGITS, concurrency=1)
    process = subprocess.Popen(
        [sys.executable, "-m", "convene.cli", "sweep", "s.toml", "--json"],
        cwd=tmp_path,
        env=CLEAN,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    most = 0
    while process.poll() is None:
        most = max(most, taken(root))
        time.sleep(0.01)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["states"]["PRUNED"] > 2
    assert err.startswith(f"disk: at most {byte_size(bound)} under {root}, of ")
    assert "disk" not in out
    # The state is counted with two moments and the average, and each file as if all were written at once.
    assert most <= bound <= 3 * most
