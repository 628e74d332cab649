"""Training on real digits: reproducible from a seed, effective, and measured correctly."""

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from convene.config.schema import Configuration, DataConfig, flatten
from convene.config.validation import validate
from convene.datasets import Images, TrainingData, load
from convene.training import metrics
from convene.training.fit import DivergenceError, Fit, logits
from convene.training.metrics import Epoch


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Use one thread, as a trial does, so that sums have one order and timings depend less on other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


DIGITS = load(DataConfig()).training_data


def digits(train: int, valid: int = 40) -> TrainingData:
    return replace(
        DIGITS, train=DIGITS.train.take(np.arange(train)), valid=DIGITS.valid.take(np.arange(valid))
    )


def configuration(network: dict[str, Any] | None = None, **training: Any) -> Configuration:
    return validate(
        {
            "network": {"width": 8, "depth": 1} | (network or {}),
            "training": {"epochs": 2, "batch_size": 32, "shift": 1, "seed": 7} | training,
        }
    )


def curve(rows: list[Epoch]) -> list[dict[str, float]]:
    """The metrics that a seed determines."""
    return [{k: v for k, v in row.metrics().items() if k != "images_per_second"} for row in rows]


# --- Reproducibility -----------------------------------------------------------------------------------

ALL_RANDOM = configuration(
    {"dropout": 0.3, "dense": 16, "dense_dropout": 0.3}, shift=2, rotation=10, flip=True, ema=0.5
)


def disturb() -> None:
    torch.manual_seed(999)
    torch.rand(1000)
    np.random.seed(5)


def test_the_same_seed_gives_the_same_curve_whatever_else_runs() -> None:
    data = digits(200)
    alone = Fit(ALL_RANDOM, data)
    expected = curve(list(alone))

    disturb()
    list(Fit(configuration(), data))
    again, other = Fit(ALL_RANDOM, data), Fit(configuration(seed=8), data)
    rows = []
    for row in again:
        rows.append(row)
        other.run_epoch()
        disturb()
    assert curve(rows) == expected
    np.testing.assert_array_equal(again.valid_logits, alone.valid_logits)
    for name, value in alone.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name


# A second value for each field.
OTHER_VALUES: dict[str, Any] = {
    "network.kernel_size": 5,
    "network.depth": 2,
    "network.width": 9,
    "network.growth": 1.5,
    "network.filters": [4, 4],
    "network.stride": 2,
    "network.padding": "valid",
    "network.pooling": "average",
    "network.pool_size": 3,
    "network.pool_stride": 1,
    "network.pool_padding": "same",
    "network.batch_norm": False,
    "network.activation": "tanh",
    "network.dropout": 0.5,
    "network.dense": 16,
    "network.dense_dropout": 0.5,
    "network.initialization": "xavier",
    "training.epochs": 3,
    "training.batch_size": 16,
    "training.optimizer": "adam",
    "training.learning_rate": 0.003,
    "training.schedule": "cosine",
    "training.weight_decay": 0.5,
    "training.label_smoothing": 0.3,
    "training.shift": 0,
    "training.rotation": 20.0,
    "training.flip": True,
    "training.ema": 0.9,
    "training.seed": 8,
}
MACHINE_FIELDS = {"training.precision", "training.channels_last"}  # for speed


def test_each_field_has_a_second_value() -> None:
    assert set(flatten(Configuration(), "network", "training")) == set(OTHER_VALUES) | MACHINE_FIELDS


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_each_field_has_an_effect(name: str) -> None:
    depth = 2 if name == "network.growth" else 1  # two blocks do not fit with some of the others
    pool_size = 3 if name == "network.pool_padding" else 2  # eight pixels are not a multiple of three
    network = {"depth": depth, "dense": [8], "pool_size": pool_size}
    changes: dict[str, dict[str, Any]] = {"network": network, "training": {}}
    expected = curve(list(Fit(configuration(changes["network"]), digits(100))))
    section, field = name.split(".")
    changes[section][field] = OTHER_VALUES[name]
    found = curve(list(Fit(configuration(changes["network"], **changes["training"]), digits(100))))
    assert found != expected


def test_each_epoch_has_its_own_order() -> None:
    """A rate near zero keeps the weights, so that losses differ only by the order and the shifts."""
    fit = Fit(configuration(shift=2, learning_rate=1e-12, weight_decay=0, epochs=3), digits(200))
    assert len({row.train_loss for row in fit}) == 3


# --- Learning -----------------------------------------------------------------------------------------


def test_three_epochs_learn_the_digits() -> None:
    fit = Fit(configuration({"width": 16, "depth": 2}, epochs=3), DIGITS)
    rows = list(fit)
    assert [row.epoch for row in rows] == [1, 2, 3]
    # Chance is 0.10 with a deviation of sqrt(0.1 × 0.9 / 144) = 0.025; training reaches 0.95 to 0.99.
    assert rows[-1].valid_accuracy > 0.8
    assert rows[-1].valid_loss < rows[0].valid_loss < np.log(10) * 1.5
    assert all(row.images_per_second > 0 for row in rows)
    assert list(fit) == []


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
@pytest.mark.parametrize("train", [20, 128])  # one step an epoch, and four
def test_each_optimizer_learns_with_each_schedule(optimizer: str, schedule: str, train: int) -> None:
    rate = 0.05 if optimizer == "sgd" else 0.01
    chosen = configuration(optimizer=optimizer, schedule=schedule, learning_rate=rate, epochs=6, shift=0)
    rows = list(Fit(chosen, digits(train)))
    assert len(rows) == 6
    assert rows[-1].train_loss < rows[0].train_loss


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_a_schedule_ends_with_small_steps(schedule: str) -> None:
    fit = Fit(configuration(schedule=schedule, epochs=8, batch_size=256), digits(100))
    weights = [fit.network.state_dict()["head.1.weight"].clone()]
    for _ in fit:
        weights.append(fit.network.state_dict()["head.1.weight"].clone())
    steps = [float((b - a).abs().mean()) for a, b in pairwise(weights)]
    assert steps[-1] < max(steps) / 4


@pytest.mark.parametrize(
    ("images", "batch_size"),
    [(33, 32), (33, 16), (20, 64), (65, 64), (3, 2), (2, 2)],
)
def test_any_number_of_images_can_be_batched(images: int, batch_size: int) -> None:
    """A batch of one image would have no variance for batch norm: its map here is one pixel."""
    fit = Fit(configuration({"pool_size": 8}, batch_size=batch_size), digits(images, valid=1))
    assert len(list(fit)) == 2
    assert fit.valid_logits.shape == (1, 10)


@pytest.mark.parametrize(
    "change", [{"channels_last": False}, {"precision": "bfloat16"}, {"label_smoothing": 0.0}], ids=str
)
def test_each_setting_of_the_machine_trains(change: dict[str, Any]) -> None:
    assert len(list(Fit(configuration(**change), digits(100)))) == 2


def test_precision_has_no_effect_on_a_cpu() -> None:
    data = digits(100)
    rows = [list(Fit(configuration(precision=precision), data)) for precision in ("float32", "bfloat16")]
    assert curve(rows[0]) == curve(rows[1])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("batch_size", [16, 256])  # many steps an epoch, and one
def test_a_diverging_loss_is_reported_with_its_epoch(batch_size: int, seed: int) -> None:
    # Each step subtracts ten times the weights, so that they grow ninefold: beyond float32 after 40 steps.
    wild = configuration(
        {"batch_norm": False},
        optimizer="sgd",
        learning_rate=10.0,
        weight_decay=1.0,
        schedule="constant",
        batch_size=batch_size,
        epochs=50,
        seed=seed,
    )
    fit = Fit(wild, digits(100))
    with pytest.raises(
        DivergenceError, match=r"^the (training|validation) loss is (nan|inf) in epoch \d+$"
    ) as e:
        list(fit)
    assert str(e.value).endswith(f" {fit.epoch}")


# --- Correct metrics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{}, {"label_smoothing": 0.5}, {"ema": 0.9}, {"flip": True}], ids=str)
def test_validation_uses_the_saved_network_and_unchanged_images_and_labels(change: dict[str, Any]) -> None:
    data = digits(200)
    fit = Fit(configuration({"dropout": 0.5}, **change), data)
    for row in fit:
        expected = logits(fit.network, torch.from_numpy(data.valid.pixels))
        np.testing.assert_array_equal(fit.valid_logits, expected)
        assert row.valid_loss == metrics.cross_entropy(expected, data.valid.labels)
        assert row.valid_accuracy == metrics.accuracy(expected, data.valid.labels)


def test_label_smoothing_affects_training_only() -> None:
    """At a rate near zero both runs have the same weights, so their validation losses are equal."""
    still: dict[str, Any] = {"learning_rate": 1e-12, "weight_decay": 0.0, "epochs": 1}
    (plain,), (smooth,) = (
        list(Fit(configuration(**still, label_smoothing=share), digits(100))) for share in (0.0, 0.9)
    )
    assert plain.valid_loss == pytest.approx(smooth.valid_loss, rel=1e-6)  # steps of 1e-12 a weight
    assert plain.train_loss != pytest.approx(smooth.train_loss, rel=1e-3)


def test_weights_are_averaged_after_each_step() -> None:
    """One step per epoch, so that the weights of each step can be averaged by hand."""
    data = digits(32)
    one_step: dict[str, Any] = {"batch_size": 32, "epochs": 4, "learning_rate": 0.01}
    plain, averaged = Fit(configuration(**one_step), data), Fit(configuration(**one_step, ema=0.75), data)
    expected: dict[str, Tensor] = {}
    for _ in zip(plain, averaged, strict=True):
        for name, value in plain.network.state_dict().items():
            if value.is_floating_point():
                before = expected.get(name, value)  # the first step sets the average
                expected[name] = 0.75 * before + 0.25 * value
    found = averaged.network.state_dict()
    for name, value in expected.items():
        # Three steps in float32, each exact to about 1e-7 for values up to about 10.
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5, msg=name)
    assert not torch.equal(found["head.1.weight"], plain.network.state_dict()["head.1.weight"])


@pytest.mark.parametrize("count", [1, 512, 513, 1025])
def test_logits_of_many_images_are_in_order(count: int) -> None:
    fit = Fit(configuration(), digits(32))
    pixels = torch.from_numpy(DIGITS.train.pixels[:count])
    found = logits(fit.network.train(), pixels)
    assert found.dtype == np.float32
    with torch.inference_mode():
        expected = fit.network.eval()(pixels).numpy()
    # Batches of other sizes sum in another order; float32 has 7 digits.
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_shared_data_is_never_written() -> None:
    def read_only(images: Images) -> Images:
        copy = Images(images.pixels.copy(), images.labels.copy())
        copy.pixels.flags.writeable = copy.labels.flags.writeable = False
        return copy

    data = digits(100)
    shared = replace(data, train=read_only(data.train), valid=read_only(data.valid))
    assert curve(list(Fit(ALL_RANDOM, shared))) == curve(list(Fit(ALL_RANDOM, data)))
    assert (shared.train.sha256, shared.valid.sha256) == (data.train.sha256, data.valid.sha256)


def test_latency_is_measured_without_side_effects() -> None:
    fit, same = Fit(configuration(), digits(100)), Fit(configuration(), digits(100))
    fit.run_epoch()
    same.run_epoch()
    assert 0 < fit.latency_ms() < 10_000  # a few thousand parameters, even on a busy machine
    assert fit.run_epoch().valid_loss == same.run_epoch().valid_loss


# --- Duration of an epoch --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "training"),
    [
        (200, {}),
        (200, {"schedule": "constant", "ema": 0.5}),
        (20, {"epochs": 1}),  # a single step, and a one-cycle schedule allows no more
    ],
)
def test_the_duration_of_an_epoch_is_estimated(train: int, training: dict[str, Any]) -> None:
    data, config = digits(train), configuration(**training)
    estimate = Fit(config, data).seconds_per_epoch()
    fit = Fit(config, data)
    seconds = []
    for _ in range(config.training.epochs):
        start = time.perf_counter()
        fit.run_epoch()
        seconds.append(time.perf_counter() - start)
    # Other work may slow either down; an estimate of one step or of all epochs would be off by six times.
    assert estimate < 5 * max(seconds)
    if train == 200:  # a single step has no warm-up before it
        assert estimate > min(seconds) / 5
