"""The complete, frozen description of a run: every field, its meaning, its default and what it allows."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    field_validator,
)

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration: object) -> object:
    """Seconds of a duration such as "300s", "1h30m" or a bare number; other values pass to the validator.

    Raises:
        ValueError: if a text is not a sum of numbers with a unit s, m, h or d.
    """
    if not isinstance(duration, str):
        return duration
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", duration):
        raise ValueError('a duration is written as "300s", "30m" or "1h30m"')
    return sum(float(n) * _SECONDS[unit] for n, unit in re.findall(r"([\d.]+)([smhd])", duration))


def _widths(value: object) -> object:
    """A bare width is a list of one; 0 is no layer."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value] if value else []
    return value


Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Widths = Annotated[tuple[Annotated[int, Strict(), Field(ge=1)], ...], Strict(False)]
Duration = Annotated[float, Field(gt=0), BeforeValidator(seconds)]
Normalization = Literal["channel", "pixel", "center", "none"]
Objective = Literal["valid_loss", "valid_accuracy", "parameters", "latency_ms", "seconds"]


class Section(BaseModel):
    """One table of a search-space file."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class DataConfig(Section):
    """Where the images come from and how they are split. The same for every trial of a sweep."""

    source: str = "digits"
    """`digits`, `mnist`, `fashion-mnist`, `kmnist`, or a folder, a `.parquet` or a `.npz`: its path, or its
    address `s3://BUCKET/PATH`."""
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = None
    """Height and width in pixels that images are resized to. Without it all must have one size."""
    color: Literal["auto", "grey", "rgb"] = "auto"
    """Channels: one, three, or three where any image has colour."""
    valid_fraction: Fraction = 0.1
    """Part of the training images that is held out for validation, where the source has no such split."""
    test_fraction: Fraction = 0.2
    """Part of all images that is sealed for the test, where the source has no such split."""
    train_limit: Positive | None = None
    """At most so many training images, drawn by class; validation and test stay whole."""
    split_seed: int = 0
    """Seed of the splits and of the draw of `train_limit`."""
    normalization: Normalization = "channel"
    """By the training images' mean and deviation: of each channel, or of each pixel and one deviation.
    `none` only takes 0–255 to 0–1; `center` subtracts the mean image, too."""
    image_column: str = "image"
    """Parquet: the column of pixel lists or encoded images."""
    label_column: str = "label"
    """Parquet: the column of labels."""


class NetworkConfig(Section):
    """The network: blocks of convolution, pooling, batch norm, activation and dropout, then dense layers."""

    kernel_size: Annotated[int, Field(ge=1, le=31)] = 3
    """Height and width of the convolution kernels, in pixels."""
    depth: Annotated[int, Field(ge=1, le=16)] = 3
    """Number of convolution blocks. Ignored where `filters` lists them."""
    width: Annotated[int, Field(ge=1, le=4096)] = 16
    """Filters of the first block."""
    growth: Annotated[float, Field(ge=0.25, le=4)] = 2.0
    """Filters of a block over those of the one before."""
    filters: Widths = ()
    """Filters of each block, instead of `depth`, `width` and `growth`."""
    stride: Annotated[int, Field(ge=1, le=8)] = 1
    """Step of the convolutions, in pixels."""
    padding: Literal["same", "valid"] = "same"
    """`same` pads with zeros so that a stride of 1 keeps the size; `valid` does not pad."""
    pooling: Literal["max", "average", "none"] = "max"
    """What follows each convolution."""
    pool_size: Annotated[int, Field(ge=2, le=8)] = 2
    """Height and width of the pooling window, in pixels."""
    pool_stride: Annotated[int, Field(ge=1, le=8)] | None = None
    """Step of the pooling window, in pixels. Without it, `pool_size`, so that windows do not overlap."""
    pool_padding: Literal["valid", "same"] = "valid"
    """`valid` drops the pixels at the edge that fill no window; `same` lets windows reach past the edge,
    where there is nothing, not zeros: 7 pixels pool to 4, and a stride of 1 keeps the size."""
    batch_norm: bool = True
    """Batch normalisation after each pooling."""
    activation: Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh"] = "relu"
    """Nonlinearity of the blocks and the dense layers."""
    dropout: Probability = 0.0
    """Probability that a value after a block is dropped in training."""
    dense: Annotated[Widths, BeforeValidator(_widths)] = ()
    """Units of the dense layers between the blocks and the output: a number, or a list."""
    dense_dropout: Probability = 0.0
    """Probability that a value after a dense layer is dropped in training."""
    initialization: Literal["default", "kaiming", "xavier", "orthogonal"] = "default"
    """Initial weights of convolutions and dense layers; `default` is PyTorch's."""


class TrainingConfig(Section):
    """How one network is fitted."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Passes over the training images."""
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 64
    """Images a step."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """`sgd` has Nesterov momentum, 0.9; `one-cycle` takes it, and the first beta of the others, from 0.95 to
    0.85 and back."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.01
    """The highest rate of a `one-cycle` or `cosine` schedule, the only one of `constant`."""
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"
    """`one-cycle` rises for three tenths of the steps, then falls to nothing; `cosine` only falls."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Decoupled for `adamw`; an L2 penalty for `adam` and `sgd`."""
    label_smoothing: Probability = 0.05
    """Part of each target that is spread over all classes. Never applied to validation."""
    shift: Annotated[int, Field(ge=0, le=64)] = 2
    """Each training image is shifted by up to so many pixels either way."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Each training image is rotated by up to so many degrees either way."""
    flip: bool = False
    """Each training image is mirrored, left to right, half of the time."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay, each step, of an exponential moving average of the weights, which is then what is validated and
    kept; 0 is none."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16` is autocast, on GPUs alone: a CPU trains in float32 either way."""
    channels_last: bool = True
    """Memory format of the images and weights."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    """Seed of weights, order and augmentation. Without it a trial takes `search.seed` + its number."""


class SearchConfig(Section):
    """How the space is explored, and with what."""

    trials: Positive = 32
    """Configurations to try."""
    time_budget: Duration | None = None
    """Seconds, or "30m", that the whole command may take; training ends early enough for the final stage."""
    objectives: Annotated[tuple[Objective, ...], Strict(False), Field(min_length=1)] = ("valid_loss",)
    """What the search improves: `valid_loss`, `valid_accuracy`, `parameters`, `latency_ms` (one image) or
    `seconds` (of training). Of several it seeks the best trade-offs; weak trials are stopped by the first
    that is of validation."""
    sampler: Literal["tpe", "random", "gp", "cmaes", "nsga2"] = "tpe"
    """Optuna's sampler. `cmaes` takes one objective."""
    start_from: str | None = None
    """An earlier sweep under the same storage root, on the same images: its trials that lie in this space are
    known from the start."""
    try_first: Annotated[tuple[dict[str, dict[str, Any]], ...], Strict(False)] = ()
    """Configurations to begin with, each as far as it is given: `[[search.try_first]]`, then
    `network.depth = 3` and so on."""
    scheduler: Literal["asha", "none"] = "asha"
    """`asha` stops a trial that is not in the best 1/`reduction_factor` at a rung."""
    grace_epochs: Positive | None = None
    """ASHA: epochs that every trial gets; the first rung. Without it, a third of `training.epochs`: under a
    one-cycle schedule earlier ranks say little of the last."""
    reduction_factor: Annotated[int, Field(ge=2, le=16)] = 2
    """ASHA: ratio of epochs between rungs, and of trials that go on. Beyond the first there is no
    rung past 1/`reduction_factor` of the epochs: a trial that came so far is to be complete."""
    concurrency: Positive | None = None
    """Trials at a time. Without it, as many as the CPUs and GPUs hold."""
    wait_for_nodes: Duration | None = None
    """For a cluster that starts nodes when they are asked for: `concurrency` trials are asked for, also where
    they do not fit yet, and so long the first node is waited for. Without it, what is there counts."""
    cpus_per_trial: Annotated[float, Field(gt=0)] = 1.0
    """CPUs, and so threads, of a trial."""
    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"] = 0.0
    """GPUs of a trial; 0.25 puts four trials on one. `auto` is 0 where there are no GPUs, else the largest
    part of one with which as many trials run at a time as its memory holds of the largest, and the CPUs."""
    retries: Annotated[int, Field(ge=0)] = 2
    """Times that a trial is tried again after its worker died; it goes on from its last epoch."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the sampler."""

    @field_validator("objectives")
    @classmethod
    def _of_validation(cls, objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if not any(objective.startswith("valid_") for objective in objectives):
            raise ValueError("one must be valid_loss or valid_accuracy")
        if len(set(objectives)) < len(objectives):
            raise ValueError("one stands there twice")
        return objectives

    @field_validator("sampler")
    @classmethod
    def _takes_objectives(cls, sampler: str, info: ValidationInfo) -> str:
        if sampler == "cmaes" and len(info.data.get("objectives", ())) > 1:
            raise ValueError("takes one objective; for several there are tpe, nsga2, gp and random")
        return sampler

    @field_validator("gpus_per_trial", mode="before")
    @classmethod
    def _as_ray_counts(cls, gpus: object) -> object:
        if isinstance(gpus, str) and gpus != "auto":
            raise ValueError('must be a number, or "auto"')
        if isinstance(gpus, float) and gpus > 1 and not gpus.is_integer():
            raise ValueError("more than one GPU must be a whole number of them")
        return gpus

    @property
    def primary_objective(self) -> Objective:
        """The objective that weak trials are stopped and the complete ones ranked by."""
        return next(objective for objective in self.objectives if objective.startswith("valid_"))

    @property
    def minimize(self) -> bool:
        """Whether less of that is better."""
        return self.primary_objective == "valid_loss"


class EnsembleConfig(Section):
    """Which trials make the ensemble. Decided on validation logits alone."""

    size: Positive = 5
    """Members, at most."""
    rank_by: Literal["valid_loss", "valid_accuracy"] = "valid_loss"
    """What the top trials are ranked by."""
    keep: Positive = 20
    """Networks that are kept, of the best trials by loss and by accuracy: ensembles can be so large later."""

    @property
    def networks(self) -> int:
        """How many are kept of the best by loss, and as many of the best by accuracy."""
        return max(self.keep, self.size)


class Configuration(Section):
    """One complete run."""

    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    search: SearchConfig = SearchConfig()
    ensemble: EnsembleConfig = EnsembleConfig()


SECTIONS: dict[str, type[Section]] = {
    "data": DataConfig,
    "network": NetworkConfig,
    "training": TrainingConfig,
    "search": SearchConfig,
    "ensemble": EnsembleConfig,
}


def flatten(configuration: Configuration, *sections: str) -> dict[str, Any]:
    """Values by dotted name (`network.depth`), of the named sections or of all."""
    return {
        f"{section}.{field}": value
        for section, fields in configuration.model_dump(mode="json").items()
        if not sections or section in sections
        for field, value in fields.items()
    }


def default(section: str, field: str) -> Any:
    """What a field is where nothing is said of it."""
    return SECTIONS[section].model_fields[field].default
