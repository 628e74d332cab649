"""The training of one network, epoch by epoch, independent of search and tracking."""

import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from convene.config.schema import Configuration
from convene.datasets import TrainingData
from convene.training import metrics
from convene.training.augmentation import augment
from convene.training.metrics import Epoch
from convene.training.network import ConvNet, parameter_count
from convene.training.optimization import build_optimizer, build_schedule

_LATENCY_IMAGES = 11  # images timed for `latency_ms`
_TIMING_SECONDS = 0.7  # limit of each measurement for `seconds_per_epoch`
_VALIDATION_BATCHES = 6  # validation batches timed for `seconds_per_epoch`
_WARM_UP_CALLS = 3
_EVALUATION_BATCH = 512  # images; larger batches fall out of a CPU's cache and are slower


class DivergenceError(FloatingPointError):
    """The loss is no longer a finite number."""


@final
class Fit:
    """The training of one network. Iterating runs epochs and yields their metrics.

    All randomness of an epoch follows from `training.seed` and the epoch's number. The same configuration
    therefore gives the same learning curve on the same machine, whatever ran before in the process.
    """

    def __init__(self, configuration: Configuration, data: TrainingData, device: str = "cpu") -> None:
        self.config = configuration.training
        self.device = torch.device(device)
        self.epoch = 0
        self.valid_logits: NDArray[np.float32] = np.empty((0, len(data.classes)), np.float32)
        self._seed(epoch=0)
        self._memory_format = torch.channels_last if self.config.channels_last else torch.contiguous_format
        self._train = _to_tensor(data.train.pixels, self.device), _to_tensor(data.train.labels, self.device)
        self._valid = _to_tensor(data.valid.pixels, self.device)
        self._valid_labels = data.valid.labels
        network = ConvNet(
            configuration.network,
            image_shape=tuple(self._train[0].shape[1:]),  # type: ignore[arg-type]  # always three sides
            classes=len(data.classes),
            mean=data.statistics.mean,
            deviation=data.statistics.deviation,
        )
        # PyTorch documents this form of `to` for memory formats, but its type annotations lack it.
        self._network: ConvNet = network.to(self.device, memory_format=self._memory_format)  # type: ignore[call-overload]
        self._average = _averaged_model(self._network, self.config.ema)
        self._optimizer = build_optimizer(self._network, self.config)
        self._steps_per_epoch = max(1, len(data.train) // self.config.batch_size)
        self._steps = self.config.epochs * self._steps_per_epoch
        self._schedule = build_schedule(self._optimizer, self.config, self._steps)
        self._loss = nn.CrossEntropyLoss(label_smoothing=self.config.label_smoothing)

    @property
    def network(self) -> ConvNet:
        """The network that is validated and saved: the averaged one if `ema` is on."""
        if self._average is None:
            return self._network
        averaged = self._average.module
        assert isinstance(averaged, ConvNet)
        return averaged

    @property
    def parameter_count(self) -> int:
        """Number of trainable parameters."""
        return parameter_count(self._network)

    def __iter__(self) -> Iterator[Epoch]:
        while self.epoch < self.config.epochs:
            yield self.run_epoch()

    def run_epoch(self) -> Epoch:
        """Train for one more epoch, validate, and set `valid_logits` [example, class].

        Raises:
            DivergenceError: if a loss is not finite.
        """
        self.epoch += 1
        self._seed(self.epoch)
        start = time.perf_counter()
        train_loss, images = self._train_epoch()
        images_per_second = images / (time.perf_counter() - start)
        self._check_finite("training", train_loss)
        self.valid_logits = logits(self.network, self._valid, self._autocast())
        valid_loss = metrics.cross_entropy(self.valid_logits, self._valid_labels)
        self._check_finite("validation", valid_loss)
        return Epoch(
            self.epoch,
            train_loss,
            valid_loss,
            metrics.accuracy(self.valid_logits, self._valid_labels),
            images_per_second,
        )

    def latency_ms(self) -> float:
        """Return the network's milliseconds for one image on the trial's device: the median of eleven."""
        image = self._valid[:1]
        logits(self.network, image, self._autocast())  # the first call also selects kernels
        times = []
        for _ in range(_LATENCY_IMAGES):
            start = time.perf_counter()
            logits(self.network, image, self._autocast())  # copies the logits to the CPU, so a GPU is done
            times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times)

    def seconds_per_epoch(self) -> float:
        """Estimate the duration of an epoch from some steps and validation batches.

        The fit cannot be used afterwards.
        """
        self._network.train()
        batches = itertools.cycle(self._batches())
        images = self._valid[:_EVALUATION_BATCH]
        # The schedule allows no more than `_steps` steps.
        step = self._mean_seconds(lambda: self._step(next(batches)), self._steps)
        validation = self._mean_seconds(
            lambda: logits(self.network, images, self._autocast()), _VALIDATION_BATCHES
        )
        return step * self._steps_per_epoch + validation * len(self._valid) / len(images)

    def _mean_seconds(self, call: Callable[[], object], max_calls: int) -> float:
        """Return the mean duration of a call, without the first ones, which also select kernels."""
        warm_up = min(_WARM_UP_CALLS, max_calls - 1)
        for _ in range(warm_up):
            call()
        self._synchronize()
        start, done = time.perf_counter(), 0
        while done < max_calls - warm_up and time.perf_counter() - start < _TIMING_SECONDS:
            call()
            done += 1
        self._synchronize()
        return (time.perf_counter() - start) / done

    def _synchronize(self) -> None:
        """Wait until a GPU has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return by name all state that the next epoch depends on, except for the configuration."""
        optimizer = self._optimizer.state_dict()
        tensors = {f"network.{name}": value for name, value in self._network.state_dict().items()}
        if self._average is not None:
            tensors |= {f"average.{name}": value for name, value in self._average.state_dict().items()}
        for index, values in optimizer["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
        return tensors | {"epoch": torch.tensor(self.epoch)}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the result of `state_tensors`, so that training continues as if never interrupted."""
        self.epoch = int(tensors["epoch"])
        self._network.load_state_dict(_with_prefix("network.", tensors))
        if self._average is not None:
            self._average.load_state_dict(_with_prefix("average.", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        weights = list(self._network.parameters())
        for name, value in _with_prefix("optimizer.", tensors).items():
            index, _, key = name.partition(".")
            weight = weights[int(index)]
            # Fused steps read memory in order, so moments need the memory format of their weights.
            moment = value.shape == weight.shape
            state.setdefault(int(index), {})[key] = torch.empty_like(weight).copy_(value) if moment else value
        # The schedule counts steps and sets the optimizer's rates, so it is stepped before they are restored.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step\\(\\)` before")
            for _ in range(self.epoch * self._steps_per_epoch):
                self._schedule.step()
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _check_finite(self, name: str, loss: float) -> None:
        if not np.isfinite(loss):
            raise DivergenceError(f"the {name} loss is {loss} in epoch {self.epoch}")

    def _seed(self, epoch: int) -> None:
        """Seed PyTorch for an epoch, or for the initial weights if it is 0."""
        seed = np.random.SeedSequence([self.config.seed or 0, epoch]).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(seed))

    def _batches(self) -> tuple[Tensor, ...]:
        """Return the indices of the training images in a new random order, in batches of equal size.

        Images that do not fill a last batch are left out of this epoch.
        """
        count = len(self._train[1])
        size = min(self.config.batch_size, count)
        order = torch.randperm(count)[: count - count % size].to(self.device)
        return torch.split(order, size)

    def _train_epoch(self) -> tuple[float, int]:
        """Train for one epoch; return the mean loss and the number of images."""
        self._network.train()
        batches = self._batches()
        total = torch.zeros((), device=self.device)
        for batch in batches:
            total += self._step(batch)
        return float(total) / len(batches), sum(map(len, batches))

    def _step(self, batch: Tensor) -> Tensor:
        """Train on the images with these indices; return their mean loss."""
        pixels, labels = self._train
        images = augment(pixels[batch], self.config).contiguous(memory_format=self._memory_format)
        with self._autocast():
            loss: Tensor = self._loss(self._network(images), labels[batch])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        if self._average:
            self._average.update_parameters(self._network)
        return loss.detach()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.precision == "bfloat16" and self.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()


def logits(
    network: nn.Module, pixels: Tensor, autocast: AbstractContextManager[Any] | None = None
) -> NDArray[np.float32]:
    """Return logits [example, class] of uint8 pixels [example, channel, height, width].

    The network is switched to evaluation mode.
    """
    network.eval()
    with torch.inference_mode(), autocast or nullcontext():
        parts = [network(batch) for batch in pixels.split(_EVALUATION_BATCH)]
        return torch.cat(parts).float().cpu().numpy()


def _to_tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return the array on the device. On a CPU the memory is shared, which Ray maps read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names have the prefix, by name without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _averaged_model(network: ConvNet, decay: float) -> AveragedModel | None:
    if not decay:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
