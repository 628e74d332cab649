"""The optimizers and schedules that a configuration can name."""

from typing import Any, get_args

import pytest
from torch import nn

from convene.config.schema import TrainingConfig
from convene.training.optimization import OPTIMIZERS, SCHEDULES, build_optimizer, build_schedule


def allowed(field: str) -> tuple[Any, ...]:
    """The values that the configuration allows for a field."""
    return get_args(TrainingConfig.model_fields[field].annotation)


def test_the_tables_have_the_names_that_a_configuration_allows() -> None:
    assert tuple(OPTIMIZERS) == allowed("optimizer")
    assert tuple(SCHEDULES) == allowed("schedule")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_gets_the_configured_rate_and_decay(optimizer: Any) -> None:
    config = TrainingConfig(optimizer=optimizer, learning_rate=0.03, weight_decay=0.2)
    network = nn.Linear(3, 2)
    (group,) = build_optimizer(network, config).param_groups
    assert (group["lr"], group["weight_decay"], group["fused"]) == (0.03, 0.2, True)
    assert group["params"] == list(network.parameters())
    assert group.get("momentum", 0) == (0.9 if optimizer == "sgd" else 0)


@pytest.mark.parametrize(
    ("schedule", "highest", "last"),
    [("one-cycle", 0.03, 0.0), ("cosine", 0.03, 0.0), ("constant", 0.03, 0.03)],
)
def test_a_schedule_runs_over_all_steps(schedule: Any, highest: float, last: float) -> None:
    config = TrainingConfig(schedule=schedule, learning_rate=0.03)
    optimizer = build_optimizer(nn.Linear(3, 2), config)
    steps = 20
    over_time = build_schedule(optimizer, config, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        over_time.step()
    # The peak of a one-cycle schedule lies between two steps.
    assert max(rates) == pytest.approx(highest, rel=0.01)
    # The schedule ends after the last step: one-cycle at 1/10,000 of its first rate, cosine at 0.
    assert optimizer.param_groups[0]["lr"] == pytest.approx(last, abs=1e-6)
