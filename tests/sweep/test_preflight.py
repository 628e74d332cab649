"""What is said of a sweep before it runs: by the real command on a real cluster of this machine."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convene.cli.preflight import summary_lines
from convene.sweep.disk import DiskUsage
from convene.sweep.forecast import Forecast
from convene.sweep.preflight import DataSummary, GpuUsage, LargestTrial, Preflight
from tests.conftest import Services, convene

# 4 × 2 × 2 networks, of which those with three blocks do not fit where the images are not padded.
SPACE = """
[network]
kernel_size = { choices = [3, 5] }
depth = { low = 1, high = 3 }
padding = { choices = ["same", "valid"] }
width = 4
pooling = "none"
[training]
epochs = 6
batch_size = 32
[search]
trials = 3
concurrency = 1
gpus_per_trial = "auto"
[ensemble]
size = 4
"""


def test_a_sweep_is_looked_at_and_nothing_is_left_behind(services: Services, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SPACE)
    arguments = ("preflight", "s.toml", "--time-budget", "16s", "--json")
    ended = convene(*arguments, folder=tmp_path, **services.address)
    assert ended.code == 1, ended.err
    seen = ended.json
    data = {"name": "digits", "train": 1294, "valid": 144, "test": 359, "shape": [1, 8, 8], "classes": 10}
    assert seen["data"] == data
    assert seen["searched"]["network.depth"] == {"low": 1, "high": 3}
    # 5 × 5 kernels leave 4 × 4 pixels of 8 × 8, then none: a second block fits only the smaller ones.
    assert seen["configurations"] == 6 + 3 + 1
    assert (seen["trials"], seen["concurrency"]) == (3, 1)
    seconds = seen["seconds"]
    assert 0 < seconds["least"] <= seconds["trial"] <= seconds["most"] < 60
    assert seconds["sweep"] == [16, 16]
    assert seconds["budget_trials"] == [0, 0]
    # Three blocks of 5 × 5: 8 × 8 × 16 values to 10 classes are most of it.
    assert seen["largest"]["parameters"] == 4 * 25 + 8 * 4 * 25 + 16 * 8 * 25 + 2 * (4 + 8 + 16) + 10 * 1025
    assert seen["disk"]["at_most"] < seen["disk"]["free"]
    assert seen["gpu"] is None
    budget, size = sorted(seen["problems"], reverse=True)
    assert budget.startswith("search.time_budget = 16 s: leaves 0 s to train, but the fastest trial")
    assert budget.endswith('s; room for 3 trials: search.time_budget = "1m"')
    assert size == "ensemble.size = 4: larger than search.trials = 3"
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]


@pytest.mark.parametrize(
    ("setting", "environment", "says"),
    [
        ("search.start_from=nosuch", {}, "sweep 'nosuch': not found"),
        ("search.trials=3", {"OPTUNA_STORAGE": "postgresql+psycopg2://127.0.0.1:1/optuna"}, "OPTUNA_STORAGE"),
    ],
)
def test_what_a_sweep_refuses_is_refused(
    setting: str, environment: dict[str, str], says: str, tmp_path: Path
) -> None:
    (tmp_path / "s.toml").write_text(SPACE)
    ended = convene("preflight", "s.toml", "--set", setting, folder=tmp_path, **environment)
    assert ended.code == 2
    assert says in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]


def test_what_the_cluster_lacks_is_said_beside_the_rest(services: Services, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SPACE)
    arguments = ("preflight", "s.toml", "--trials", "4", "--set", "search.gpus_per_trial=64")
    ended = convene(*arguments, folder=tmp_path, **services.address)
    assert ended.code == 1, ended.err
    assert "64 GPUs, but the cluster has" in ended.out
    assert "1,294 training" in ended.out
    assert "disk        at most" in ended.out
    assert "on average" not in ended.out


def test_a_default_is_no_problem(services: Services, tmp_path: Path) -> None:
    """Two trials are fewer than the default ensemble has members, which nobody asked for."""
    (tmp_path / "s.toml").write_text(SPACE.replace("[ensemble]\nsize = 4\n", ""))
    ended = convene("preflight", "s.toml", "--trials", "2", folder=tmp_path, **services.address)
    assert ended.code == 0, ended.err
    assert "problem     none" in ended.out


@pytest.mark.slow
def test_where_nothing_stands_in_the_way_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SPACE)
    ended = convene("preflight", "s.toml", "--trials", "4", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert "problem     none" in ended.out


SEEN = Preflight(
    data=DataSummary("cats", 1200, 100, 200, (3, 32, 64), 2),
    searched={"network.depth": {"low": 1, "high": 3}, "training.ema": {"choices": [0, 0.9]}},
    configurations=1024,
    trials=40,
    concurrency=4,
    seconds=Forecast(12.34, 1.2345, 100.0, (100.0, 200.0), 1000.0, (30, 40)),
    largest=LargestTrial(123456, 99.94),
    disk=DiskUsage(34_000_000, 120_000_000_000, "mlruns"),
    gpu=GpuUsage(2_000_000_000, 80_000_000_000, 40),
    problems=("too little of this", "too much of that"),
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            [
                "data: cats: 3x32x64, 2 classes",
                "images: 1,200 training, 100 validation, 200 test",
                "searched: network.depth, training.ema; 1,024 configurations fit",
                "trial: 12.3 s on average, 1.23 s to 100 s",
                "largest: 123,456 parameters, 99.9 s",
                "sweep: 40 trials, 4 at a time: 1:40 to 3:20",
                "time budget: 16:40 for training: 30 to 40 trials",
                "disk: at most 34 MB under mlruns, of 120 GB free",
                "GPU: fits 40 trials of the largest network: 2 GB each, of 80 GB",
                "problem: too little of this",
                "problem: too much of that",
            ],
        ),
        (
            {"seconds": None, "gpu": None, "problems": (), "configurations": None, "searched": {}},
            [
                "data: cats: 3x32x64, 2 classes",
                "images: 1,200 training, 100 validation, 200 test",
                "searched: nothing",
                "largest: 123,456 parameters, 99.9 s",
                "disk: at most 34 MB under mlruns, of 120 GB free",
                "problem: none",
            ],
        ),
    ],
)
def test_lines_for_people(changes: dict[str, Any], expected: list[str]) -> None:
    assert [": ".join(line) for line in summary_lines(replace(SEEN, **changes))] == expected
