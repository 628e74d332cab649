"""The networks that tutorials build, as search spaces: what they describe, and that they train."""

import os
from pathlib import Path

import numpy as np
import pytest

from convene.config import search_space
from tests.conftest import Services

FOLDER = Path(__file__).parents[2] / "search_spaces/classics"
MNIST = Path(os.environ.get("CONVENE_MNIST") or Path(__file__).parents[3] / "shared" / "data" / "mnist")

# Weights and biases layer by layer, and the steps of an epoch of 55,000 images.
CLASSICS = {
    "two-conv": (9 * 32 + 32 + 32 * 9 * 64 + 64 + 7 * 7 * 64 * 10 + 10, 15 * 550),
    "three-conv": (
        9 * 32 + 32 + 32 * 9 * 64 + 64 + 64 * 9 * 128 + 128 + 4 * 4 * 128 * 625 + 625 + 625 * 10 + 10,
        15 * 550,
    ),
    "wide-dense": (
        9 * 32 + 32 + 32 * 9 * 64 + 64 + 7 * 7 * 64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10,
        50 * 550,
    ),
    "layers-api": (
        25 * 16 + 16 + 16 * 25 * 36 + 36 + 7 * 7 * 36 * 128 + 128 + 128 * 10 + 10,
        12 * 859,
    ),
    "valid-padding": (
        25 * 32 + 32 + 32 * 25 * 64 + 64 + 4 * 4 * 64 * 1024 + 1024 + 1024 * 10 + 10,
        20 * 859,
    ),
}
CLASSICS["ensemble"] = CLASSICS["layers-class"] = CLASSICS["three-conv"]


def test_each_classic_is_described() -> None:
    assert {path.stem for path in FOLDER.glob("*")} == set(CLASSICS)


@pytest.mark.parametrize("name", CLASSICS)
def test_a_classic_is_the_network_and_recipe_of_its_source(name: str) -> None:
    from convene.training.network import ConvNet, parameter_count

    space = search_space.read(FOLDER / f"{name}.toml")
    network, training = space.base.network, space.base.training
    parameters, steps = CLASSICS[name]
    statistics = np.ones((1, 1, 1), np.float32)
    assert parameter_count(ConvNet(network, (1, 28, 28), 10, statistics, statistics)) == parameters
    assert training.epochs * (55_000 // training.batch_size) == steps
    # Nothing is searched, nothing stopped, and nothing of our own recipe is left.
    assert not space.searched
    assert space.base.search.scheduler == "none"
    assert space.base.search.trials == space.base.ensemble.size == (2 if name == "ensemble" else 1)
    assert (training.optimizer, training.schedule) == ("adam", "constant")
    for field in ("weight_decay", "label_smoothing", "shift", "rotation", "flip", "ema"):
        assert not getattr(training, field), field


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSICS)
def test_a_classic_learns(name: str, services: Services, tmp_path: Path) -> None:
    data = MNIST if MNIST.is_dir() else "digits"
    ended = services.convene(
        *("sweep", FOLDER / f"{name}.toml", "--data", data, "--json"),
        *("--set", "data.image_size=28", "--set", "data.train_limit=2000", "--set", "training.epochs=2"),
        folder=tmp_path,
    )
    assert ended.code == 0, ended.err
    assert ended.json["states"]["COMPLETE"] == len(ended.json["ensemble"]["members"]) == ended.json["trials"]
    # Forty steps at a rate of 1e-4 are enough for half of the digits; chance is a tenth.
    assert ended.json["ensemble"]["test_accuracy"] > 0.5
