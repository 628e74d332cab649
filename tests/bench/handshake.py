"""Convene's search against Ray's stock searcher and scheduler, on recorded curves, at equal budget."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import TPESampler
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from scipy import stats

from convene.config.search_space import override
from tests.bench import curves
from tests.bench.curves import EPOCHS, Table
from tests.bench.simulation import Ours, Search, Stock, Sweep, simulate

SEEDS = 50
WORKERS = 4
FULL_TRIALS = 30  # The budget: the average time in which the workers train this many complete trials.
TOP = 5  # The default size of an ensemble.
GRACE, FACTOR = 3, 2  # Convene's defaults for nine epochs, also used for ASHA.
FIGURE = Path(__file__).with_name("handshake.png")

Outcomes = dict[str, list[Sweep]]


def _stock(seed: int, scheduler: ASHAScheduler, sampler: TPESampler | None = None) -> Search:
    search = OptunaSearch(
        space=curves.space().distributions,
        metric="valid_loss",
        mode="min",
        seed=None if sampler else seed,
        sampler=sampler,
    )
    return Stock(search, scheduler)


def _asha(**options: Any) -> ASHAScheduler:
    return ASHAScheduler(metric="valid_loss", mode="min", **{"max_t": EPOCHS, **options})


def _one_rung() -> ASHAScheduler:
    """Return ASHA with Convene's only rung, the first, as if trials ended before the second."""
    scheduler = _asha(grace_period=GRACE, reduction_factor=FACTOR, max_t=GRACE * FACTOR - 1)
    scheduler._stop_last_trials = False
    return scheduler


def _ours(seed: int, stock_states: bool = False, **settings: str) -> Search:
    searched = {f"search.{name}": value for name, value in {**settings, "seed": seed}.items()}
    return Ours(override(curves.space(), searched), stock_states=stock_states)


# From `stock` to `ours`, each search changes one thing.
SEARCHES: Mapping[str, Callable[[int], Search]] = {
    "random search": lambda seed: _ours(seed, sampler="random", scheduler="none"),
    "stock": lambda seed: _stock(seed, _asha(grace_period=GRACE, reduction_factor=FACTOR)),
    "stock, ASHA's defaults": lambda seed: _stock(seed, _asha()),
    "stock, our rungs": lambda seed: _stock(seed, _one_rung()),
    "ours, stock states": lambda seed: _ours(seed, stock_states=True),
    "ours": lambda seed: _ours(seed),
}


def run() -> None:
    """Convene's search against stock OptunaSearch and ASHA: MNIST curves, equal time, 50 paired seeds."""
    table = curves.read()
    outcomes = sweep_all(table, range(SEEDS))
    seconds = budget(table)
    print(
        f"{len(table.curves)} configurations, the best at {table.best:.4f}; {WORKERS} workers, "
        f"{seconds:.0f} simulated seconds, {SEEDS} seeds: mean and 95 % interval"
    )
    for name, sweeps in outcomes.items():
        trials = np.mean([sweep.trials for sweep in sweeps])
        complete = np.mean([len(sweep.finished) for sweep in sweeps])
        print(
            f"{name:24} best {_interval(tops(sweeps, 1))}, best {TOP} {_interval(tops(sweeps, TOP))}, "
            f"{trials:.0f} trials, {complete:.0f} complete"
        )
    for name in outcomes:
        if name != "ours":
            print(f"ours - {name:24} " + ", ".join(_difference(outcomes, name, count) for count in (1, TOP)))
    draw(outcomes, seconds)
    print(f"figure: {FIGURE}")


def budget(table: Table) -> float:
    """Return the simulated seconds of each sweep."""
    return table.mean_seconds * FULL_TRIALS / WORKERS


def sweep_all(table: Table, seeds: range) -> Outcomes:
    """Run every search once with each seed."""
    seconds = budget(table)
    return {
        name: [simulate(search(seed), table, workers=WORKERS, seconds=seconds) for seed in seeds]
        for name, search in SEARCHES.items()
    }


def tops(sweeps: list[Sweep], count: int) -> NDArray[np.float64]:
    """Return the mean loss of each sweep's best `count` trials."""
    return np.array([sweep.top(count) for sweep in sweeps])


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean, and half the width of its 95 % interval by Student's t.

    The mean of fifty values is close enough to normal. The interval covers the choice of seeds on this table;
    it says nothing about other tables.
    """
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def _interval(values: NDArray[np.float64]) -> str:
    mean, half = interval(values)
    return f"{mean:.4f} ± {half:.4f}"


def _difference(outcomes: Outcomes, other: str, count: int) -> str:
    """Return our loss minus the other, paired by seed: negative is better."""
    differences = tops(outcomes["ours"], count) - tops(outcomes[other], count)
    mean, half = interval(differences)
    lower, equal = int((differences < 0).sum()), int((differences == 0).sum())
    return (
        f"best {'' if count == 1 else f'{count} '}{mean:+.4f} ± {half:.4f} "
        f"(lower {lower}, equal {equal}, higher {len(differences) - lower - equal})"
    )


def draw(outcomes: Outcomes, seconds: float, file: Path = FIGURE) -> None:
    """Plot the best loss so far over simulated time: the mean over the seeds with its 95 % interval."""
    from matplotlib.figure import Figure

    # Okabe and Ito's colours, which are safe for colour blindness; dashes help in black and white.
    styles = {"random search": ("#999999", ":"), "stock": ("#D55E00", "--"), "ours": ("#0072B2", "-")}
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    times = np.linspace(0, seconds, 400)
    for name, (color, dashes) in styles.items():
        best = np.array([[sweep.best_at(time) for time in times] for sweep in outcomes[name]])
        known = np.isfinite(best).all(axis=0)  # Plot a mean only if all seeds have a value.
        mean, half = np.array([interval(column) for column in best.T[known]]).T
        axes.plot(times[known], mean, dashes, color=color, label=name)
        axes.fill_between(times[known], mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
    axes.set_xlim(0, seconds)
    axes.set_xlabel(f"simulated seconds, {WORKERS} workers")
    axes.set_ylabel("lowest validation loss of a complete trial")
    axes.legend(frameon=False, title=f"mean of {len(outcomes['ours'])} seeds and its 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
