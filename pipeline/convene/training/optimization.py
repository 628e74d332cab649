"""Optimizers and learning-rate schedules, by the names that a configuration uses."""

from collections.abc import Callable

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from convene.config.schema import TrainingConfig


def _adamw(network: nn.Module, config: TrainingConfig) -> Optimizer:
    return AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def _adam(network: nn.Module, config: TrainingConfig) -> Optimizer:
    return Adam(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def _sgd(network: nn.Module, config: TrainingConfig) -> Optimizer:
    return SGD(
        network.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        momentum=0.9,
        nesterov=True,
        fused=True,
    )


OPTIMIZERS: dict[str, Callable[[nn.Module, TrainingConfig], Optimizer]] = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
}
"""Functions that make the optimizer of a network's parameters; the keys are `training.optimizer`."""


def _one_cycle(optimizer: Optimizer, config: TrainingConfig, steps: int) -> LRScheduler:
    return OneCycleLR(optimizer, config.learning_rate, total_steps=steps + 1)


def _cosine(optimizer: Optimizer, config: TrainingConfig, steps: int) -> LRScheduler:
    return CosineAnnealingLR(optimizer, steps)


def _constant(optimizer: Optimizer, config: TrainingConfig, steps: int) -> LRScheduler:
    return ConstantLR(optimizer, factor=1.0)


SCHEDULES: dict[str, Callable[[Optimizer, TrainingConfig, int], LRScheduler]] = {
    "one-cycle": _one_cycle,
    "cosine": _cosine,
    "constant": _constant,
}
"""Functions that make the schedule of an optimizer over all steps; the keys are `training.schedule`."""


def build_optimizer(network: nn.Module, config: TrainingConfig) -> Optimizer:
    """Return the optimizer that `training.optimizer` names, over all parameters of the network."""
    return OPTIMIZERS[config.optimizer](network, config)


def build_schedule(optimizer: Optimizer, config: TrainingConfig, steps: int) -> LRScheduler:
    """Return the schedule that `training.schedule` names, over all `steps` of the training."""
    return SCHEDULES[config.schedule](optimizer, config, steps)
