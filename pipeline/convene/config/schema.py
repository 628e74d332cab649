"""The configuration of a run: all fields with their meanings, defaults and allowed values."""

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


def parse_duration(duration: object) -> object:
    """Return the seconds of a duration such as "300s" or "1h30m"; other types are returned unchanged.

    Raises:
        ValueError: if a string is not a sequence of numbers with units s, m, h or d.
    """
    if not isinstance(duration, str):
        return duration
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", duration):
        raise ValueError('must be a duration such as "300s", "30m" or "1h30m"')
    return sum(float(n) * _SECONDS[unit] for n, unit in re.findall(r"([\d.]+)([smhd])", duration))


def _as_list(value: object) -> object:
    """Return a single width as a list; 0 means no layer."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value] if value else []
    return value


Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Widths = Annotated[tuple[Annotated[int, Strict(), Field(ge=1)], ...], Strict(False)]
Duration = Annotated[float, Field(gt=0), BeforeValidator(parse_duration)]
Normalization = Literal["channel", "pixel", "center", "none"]
Objective = Literal["valid_loss", "valid_accuracy", "parameters", "latency_ms", "seconds"]


class Section(BaseModel):
    """A table of a search-space file."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class DataConfig(Section):
    """The images and how they are split. The same for all trials of a sweep."""

    source: str = "digits"
    """`digits`, `mnist`, `fashion-mnist`, `kmnist`, or the path or `s3://BUCKET/PATH` of a folder, a
    `.parquet` file or a `.npz` file."""
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = None
    """Height and width in pixels to which images are resized. Without it, all images must have the same
    size."""
    color: Literal["auto", "grey", "rgb"] = "auto"
    """`grey` is one channel, `rgb` three, and `auto` three if any image is in colour."""
    valid_fraction: Fraction = 0.1
    """Fraction of the training images held out for validation if the source has no validation split."""
    test_fraction: Fraction = 0.2
    """Fraction of all images sealed for the test if the source has no test split."""
    train_limit: Positive | None = None
    """Maximum number of training images, drawn by class. Validation and test images are not limited."""
    split_seed: int = 0
    """Seed of the splits and of the draw for `train_limit`."""
    normalization: Normalization = "channel"
    """`channel` uses the mean and standard deviation of each channel over the training images; `pixel` the
    mean of each pixel and one standard deviation. `none` only scales 0–255 to 0–1; `center` also subtracts
    the mean image."""
    image_column: str = "image"
    """Parquet column of pixel lists or encoded images. Without a column `image`, the only one that holds
    images by Hugging Face's metadata or by its type."""
    label_column: str = "label"
    """Parquet column of labels. Without a column `label`, the only `ClassLabel` in Hugging Face's
    metadata."""


class NetworkConfig(Section):
    """Blocks of convolution, pooling, batch norm, activation and dropout, followed by dense layers."""

    kernel_size: Annotated[int, Field(ge=1, le=31)] = 3
    """Height and width of the convolution kernels, in pixels."""
    depth: Annotated[int, Field(ge=1, le=16)] = 3
    """Number of convolution blocks. Ignored if `filters` is set."""
    width: Annotated[int, Field(ge=1, le=4096)] = 16
    """Number of filters of the first block."""
    growth: Annotated[float, Field(ge=0.25, le=4)] = 2.0
    """Ratio of the filters of a block to those of the previous block."""
    filters: Widths = ()
    """Number of filters of each block, instead of `depth`, `width` and `growth`."""
    stride: Annotated[int, Field(ge=1, le=8)] = 1
    """Stride of the convolutions, in pixels."""
    padding: Literal["same", "valid"] = "same"
    """`same` pads with zeros so that a stride of 1 keeps the size; `valid` does not pad."""
    pooling: Literal["max", "average", "none"] = "max"
    """Pooling after each convolution."""
    pool_size: Annotated[int, Field(ge=2, le=8)] = 2
    """Height and width of the pooling window, in pixels."""
    pool_stride: Annotated[int, Field(ge=1, le=8)] | None = None
    """Stride of the pooling window, in pixels. Without it, `pool_size`: windows do not overlap."""
    pool_padding: Literal["valid", "same"] = "valid"
    """`valid` drops pixels at the edge that do not fill a window. `same` lets windows reach past the edge and
    ignores what lies outside: 7 pixels become 4, and a stride of 1 keeps the size."""
    batch_norm: bool = True
    """Batch normalisation after each pooling."""
    activation: Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh"] = "relu"
    """Activation function of the blocks and the dense layers."""
    dropout: Probability = 0.0
    """Dropout probability after each block."""
    dense: Annotated[Widths, BeforeValidator(_as_list)] = ()
    """Units of the dense layers between the blocks and the output: a number or a list."""
    dense_dropout: Probability = 0.0
    """Dropout probability after each dense layer."""
    initialization: Literal["default", "kaiming", "xavier", "orthogonal"] = "default"
    """Initial weights of convolutions and dense layers; `default` is PyTorch's initialisation."""


class TrainingConfig(Section):
    """Training of a network."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Passes over the training images."""
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 64
    """Images per step."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """`sgd` has Nesterov momentum of 0.9. Under `one-cycle`, momentum and the first beta of the other
    optimizers go from 0.95 to 0.85 and back."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.01
    """Learning rate: the highest of a `one-cycle` or `cosine` schedule, the only one of `constant`."""
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"
    """`one-cycle` rises for 30 % of the steps and then falls to nearly zero; `cosine` falls from the
    start."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Weight decay: decoupled for `adamw`, an L2 penalty for `adam` and `sgd`."""
    label_smoothing: Probability = 0.05
    """Fraction of each target that is spread over all classes. Not applied to validation."""
    shift: Annotated[int, Field(ge=0, le=64)] = 2
    """Largest random shift of a training image in each direction, in pixels."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest random rotation of a training image in either direction, in degrees."""
    flip: bool = False
    """Mirror training images left to right with probability 0.5."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of an exponential moving average of the weights. The averaged network is validated and
    saved; 0 means no average."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16` uses autocast on GPUs only; a CPU always trains in float32."""
    channels_last: bool = True
    """Store images and weights in channels-last memory format."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    """Seed of the weights, the order of images and augmentation. Without it, `search.seed` + trial number."""


class SearchConfig(Section):
    """The search and its resources."""

    trials: Positive = 32
    """Number of trials."""
    time_budget: Duration | None = None
    """Time limit of the whole command, in seconds or as "30m". Training ends in time for the final stage."""
    objectives: Annotated[tuple[Objective, ...], Strict(False), Field(min_length=1)] = ("valid_loss",)
    """Objectives of the search: `valid_loss`, `valid_accuracy`, `parameters`, `latency_ms` (for one image)
    and `seconds` (of training). With several, the search looks for the best trade-offs, and trials are pruned
    by the first validation objective."""
    sampler: Literal["tpe", "random", "gp", "cmaes", "nsga2"] = "tpe"
    """Optuna's sampler. `cmaes` supports one objective only."""
    start_from: str | None = None
    """An earlier sweep under the same storage root and on the same images. Its trials in this search space
    are known to the sampler from the start."""
    try_first: Annotated[tuple[dict[str, dict[str, Any]], ...], Strict(False)] = ()
    """Partial configurations for the first trials: `[[search.try_first]]`, followed by `network.depth = 3`
    and so on."""
    scheduler: Literal["asha", "none"] = "asha"
    """`asha` prunes a trial that is not in the best 1/`reduction_factor` at a rung."""
    grace_epochs: Positive | None = None
    """ASHA: the first rung, in epochs. Without it, a third of `training.epochs`: under a one-cycle schedule,
    earlier ranks say little about the final ones."""
    reduction_factor: Annotated[int, Field(ge=2, le=16)] = 2
    """ASHA: ratio of the epochs of successive rungs, and of trials that continue. Later rungs are within the
    first 1/`reduction_factor` of the epochs: a trial that gets this far is completed."""
    concurrency: Positive | None = None
    """Number of concurrent trials. Without it, limited by the CPUs and GPUs."""
    wait_for_nodes: Duration | None = None
    """For autoscaling clusters: how long to wait for the first node. Resources for `concurrency` trials are
    requested even if they do not fit yet. Without it, only existing nodes are used."""
    cpus_per_trial: Annotated[float, Field(gt=0)] = 1.0
    """CPUs per trial, and therefore its threads."""
    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"] = 0.0
    """GPUs per trial; with 0.25, four trials share a GPU. `auto` is 0 without GPUs, else the largest fraction
    with the most concurrent trials that the CPUs and the GPU memory for the largest network allow."""
    retries: Annotated[int, Field(ge=0)] = 2
    """Number of times that a trial is resumed from its last epoch after its worker died."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the sampler."""

    @field_validator("objectives")
    @classmethod
    def _check_objectives(cls, objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if not any(objective.startswith("valid_") for objective in objectives):
            raise ValueError("must include valid_loss or valid_accuracy")
        if len(set(objectives)) < len(objectives):
            raise ValueError("duplicate objective")
        return objectives

    @field_validator("sampler")
    @classmethod
    def _check_sampler(cls, sampler: str, info: ValidationInfo) -> str:
        if sampler == "cmaes" and len(info.data.get("objectives", ())) > 1:
            raise ValueError("supports one objective only; use tpe, nsga2, gp or random for several")
        return sampler

    @field_validator("gpus_per_trial", mode="before")
    @classmethod
    def _check_gpus(cls, gpus: object) -> object:
        if isinstance(gpus, str) and gpus != "auto":
            raise ValueError('must be a number, or "auto"')
        if isinstance(gpus, float) and gpus > 1 and not gpus.is_integer():
            raise ValueError("must be a whole number if it is more than 1")
        return gpus

    @property
    def primary_objective(self) -> Objective:
        """The first validation objective, by which trials are ranked and pruned."""
        return next(objective for objective in self.objectives if objective.startswith("valid_"))

    @property
    def minimize(self) -> bool:
        """Return whether lower values of the primary objective are better."""
        return self.primary_objective == "valid_loss"


class EnsembleConfig(Section):
    """Selection of the ensemble's members, by validation logits alone."""

    size: Positive = 5
    """Maximum number of members."""
    rank_by: Literal["valid_loss", "valid_accuracy"] = "valid_loss"
    """Metric that ranks the trials."""
    keep: Positive = 20
    """Number of networks saved of the best trials by loss, and again by accuracy. Later ensembles can have up
    to this many members."""

    @property
    def saved_networks(self) -> int:
        """Number of networks saved of the best trials by loss, and again by accuracy."""
        return max(self.keep, self.size)


class Configuration(Section):
    """A complete run."""

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
    """Return settings by dotted name (`network.depth`), of the named sections or of all."""
    return {
        f"{section}.{field}": value
        for section, fields in configuration.model_dump(mode="json").items()
        if not sections or section in sections
        for field, value in fields.items()
    }


def default(section: str, field: str) -> Any:
    """Return the default of a field."""
    return SECTIONS[section].model_fields[field].default
