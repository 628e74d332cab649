"""One network's fit, an epoch at a time. Knows of no search and no tracking."""

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

from convene.config.schema import Configuration, TrainingConfig
from convene.datasets import TrainingData
from convene.training import metrics
from convene.training.metrics import Epoch
from convene.training.network import ConvNet, parameter_count

_TIMED_IMAGES = 11
_TIMED_SECONDS = 0.7  # of steps, to say what an epoch takes
_TIMED_BATCHES = 6  # of validation, likewise
_FIRST_WORKS = 3
_EVALUATION_BATCH = 512  # images; larger ones fall out of a CPU's cache and are slower


class DivergenceError(FloatingPointError):
    """The loss is no longer a finite number."""


@final
class Fit:
    """The training of one network. Iterating runs epochs and yields their rows.

    Everything random in an epoch follows from `training.seed` and the epoch's number alone, so the same
    configuration gives the same curve on the same machine, whatever ran before in the process.
    """

    def __init__(self, configuration: Configuration, data: TrainingData, device: str = "cpu") -> None:
        self.config = configuration.training
        self.device = torch.device(device)
        self.epoch = 0
        self.valid_logits: NDArray[np.float32] = np.empty((0, len(data.classes)), np.float32)
        self._seed(epoch=0)
        self._memory_format = torch.channels_last if self.config.channels_last else torch.contiguous_format
        self._train = _tensor(data.train.pixels, self.device), _tensor(data.train.labels, self.device)
        self._valid = _tensor(data.valid.pixels, self.device)
        self._valid_labels = data.valid.labels
        network = ConvNet(
            configuration.network,
            image_shape=tuple(self._train[0].shape[1:]),  # type: ignore[arg-type]  # three sides
            classes=len(data.classes),
            mean=data.statistics.mean,
            deviation=data.statistics.deviation,
        )
        # PyTorch's annotations leave out the form of `to` that its documentation has for memory formats.
        self._network: ConvNet = network.to(self.device, memory_format=self._memory_format)  # type: ignore[call-overload]
        self._average = _average(self._network, self.config.ema)
        self._optimizer = _optimizer(self._network, self.config, self.device)
        self._steps_an_epoch = max(1, len(data.train) // self.config.batch_size)
        self._schedule = _schedule(self._optimizer, self.config, self.config.epochs * self._steps_an_epoch)
        self._loss = nn.CrossEntropyLoss(label_smoothing=self.config.label_smoothing)

    @property
    def network(self) -> ConvNet:
        """The network that is validated and kept: the averaged one where `ema` is on."""
        if self._average is None:
            return self._network
        averaged = self._average.module
        assert isinstance(averaged, ConvNet)
        return averaged

    @property
    def parameter_count(self) -> int:
        """Trained numbers in the network."""
        return parameter_count(self._network)

    def __iter__(self) -> Iterator[Epoch]:
        while self.epoch < self.config.epochs:
            yield self.run_epoch()

    def run_epoch(self) -> Epoch:
        """Trains for one more epoch, then validates; leaves `valid_logits` [example, class].

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
        """Milliseconds that the network takes for one image: the median of eleven, on the trial's device."""
        image = self._valid[:1]
        logits(self.network, image, self._autocast())  # the first one also chooses its kernels
        times = []
        for _ in range(_TIMED_IMAGES):
            start = time.perf_counter()
            logits(self.network, image, self._autocast())  # its logits come to the CPU, so a GPU is done
            times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times)

    def seconds_an_epoch(self) -> float:
        """What an epoch takes, by some steps and a batch of validation. The fit is of no use afterwards."""
        self._network.train()
        batches = itertools.cycle(self._batches())
        images = self._valid[:_EVALUATION_BATCH]
        # The schedule has no more steps than these.
        step = self._seconds_each(
            lambda: self._step(next(batches)), self.config.epochs * self._steps_an_epoch
        )
        validation = self._seconds_each(
            lambda: logits(self.network, images, self._autocast()), _TIMED_BATCHES
        )
        return step * self._steps_an_epoch + validation * len(self._valid) / len(images)

    def _seconds_each(self, work: Callable[[], object], at_most: int) -> float:
        """Mean over as many as fit some time, after the first ones, which also choose their kernels."""
        first = min(_FIRST_WORKS, at_most - 1)
        for _ in range(first):
            work()
        self._wait()
        start, done = time.perf_counter(), 0
        while done < at_most - first and time.perf_counter() - start < _TIMED_SECONDS:
            work()
            done += 1
        self._wait()
        return (time.perf_counter() - start) / done

    def _wait(self) -> None:
        """Until a GPU has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything that the next epoch depends on beside the configuration, by name."""
        optimizer = self._optimizer.state_dict()
        tensors = {f"network.{name}": value for name, value in self._network.state_dict().items()}
        if self._average is not None:
            tensors |= {f"average.{name}": value for name, value in self._average.state_dict().items()}
        for index, values in optimizer["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
        return tensors | {"epoch": torch.tensor(self.epoch)}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from what `state_tensors` gave after some epoch, as if it had never been interrupted."""
        self.epoch = int(tensors["epoch"])
        self._network.load_state_dict(_under("network.", tensors))
        if self._average is not None:
            self._average.load_state_dict(_under("average.", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        weights = list(self._network.parameters())
        for name, value in _under("optimizer.", tensors).items():
            index, _, key = name.partition(".")
            weight = weights[int(index)]
            if value.shape == weight.shape:
                # Fused steps go through memory in order, so moments must lie as their weights do.
                value = torch.empty_like(weight).copy_(value)
            state.setdefault(int(index), {})[key] = value
        # The schedule is a function of the steps made, so it is stepped there before it sets the rates.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step\\(\\)` before")
            for _ in range(self.epoch * self._steps_an_epoch):
                self._schedule.step()
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _check_finite(self, name: str, loss: float) -> None:
        if not np.isfinite(loss):
            raise DivergenceError(f"the {name} loss is {loss} in epoch {self.epoch}")

    def _seed(self, epoch: int) -> None:
        """Seeds PyTorch for one epoch; epoch 0 is the initial weights."""
        seed = np.random.SeedSequence([self.config.seed or 0, epoch]).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(seed))

    def _batches(self) -> tuple[Tensor, ...]:
        """A fresh order of the training images in whole batches; what is left over waits for the next."""
        count = len(self._train[1])
        size = min(self.config.batch_size, count)
        order = torch.randperm(count)[: count - count % size].to(self.device)
        return torch.split(order, size)

    def _train_epoch(self) -> tuple[float, int]:
        """Mean loss over the images, and their number."""
        self._network.train()
        batches = self._batches()
        total = torch.zeros((), device=self.device)
        for batch in batches:
            total += self._step(batch)
        return float(total) / len(batches), sum(map(len, batches))

    def _step(self, batch: Tensor) -> Tensor:
        """Trains on the images at the indices; their mean loss."""
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
    """Logits [example, class] of uint8 pixels [example, channel, height, width], in evaluation mode."""
    network.eval()
    with torch.inference_mode(), autocast or nullcontext():
        parts = [network(batch) for batch in pixels.split(_EVALUATION_BATCH)]
        return torch.cat(parts).float().cpu().numpy()


def augment(pixels: Tensor, config: TrainingConfig) -> Tensor:
    """Each image [example, channel, height, width] shifted, rotated and mirrored by its own random draw.

    What a shift or rotation brings in from outside is black (0).
    """
    if config.shift:
        pixels = _shifted(pixels, config.shift)
    if config.rotation:
        pixels = _rotated(pixels.float(), config.rotation)
    if config.flip:
        mirrored = torch.rand(len(pixels), device=pixels.device) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    return pixels


def _shifted(pixels: Tensor, shift: int) -> Tensor:
    """Crops each padded image at its own offset, as one gather from a view of all its windows."""
    count, _, height, width = pixels.shape
    padded = nn.functional.pad(pixels, (shift, shift, shift, shift))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [example, channel, dy, dx, height, width]
    dy, dx = torch.randint(0, 2 * shift + 1, (2, count), device=pixels.device)
    return windows[torch.arange(count, device=pixels.device), :, dy, dx]


def _rotated(pixels: Tensor, degrees: float) -> Tensor:
    angle = torch.deg2rad((torch.rand(len(pixels), device=pixels.device) * 2 - 1) * degrees)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # affine_grid works in units of half an image side, so a rotation of pixels scales by the sides' ratio.
    ratio = pixels.shape[-2] / pixels.shape[-1]
    rows = [torch.stack([cos, -sin * ratio, zero], 1), torch.stack([sin / ratio, cos, zero], 1)]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    return nn.functional.grid_sample(pixels, grid, align_corners=False)


def _tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array on the device; on a CPU the same memory, which Ray shares read-only and we never write."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _average(network: ConvNet, decay: float) -> AveragedModel | None:
    if not decay:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _optimizer(network: nn.Module, config: TrainingConfig, device: torch.device) -> torch.optim.Optimizer:
    make: Callable[..., torch.optim.Optimizer] = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "sgd": torch.optim.SGD,
    }[config.optimizer]
    momentum = {"momentum": 0.9, "nesterov": True} if config.optimizer == "sgd" else {}
    return make(
        network.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
        **momentum,
    )


def _schedule(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if config.schedule == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps + 1)
    if config.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
