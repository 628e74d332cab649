"""Convene's search against Ray's stock pieces, on recorded curves, at equal budget."""

from collections.abc import Callable, Mapping
from pathlib import Path

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
FULL_TRIALS = 30  # The budget: the time in which the workers train so many trials to their end, on average.
TOP = 5  # What an ensemble is made of, by default.
GRACE, FACTOR = 3, 2  # Convene's defaults for nine epochs; ASHA is given the same.
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


def _asha(**options: int) -> ASHAScheduler:
    return ASHAScheduler(metric="valid_loss", mode="min", **{"max_t": EPOCHS, **options})


def _one_rung() -> ASHAScheduler:
    """ASHA with Convene's rungs: the first alone, as if trials ended before the second."""
    scheduler = _asha(grace_period=GRACE, reduction_factor=FACTOR, max_t=GRACE * FACTOR - 1)
    scheduler._stop_last_trials = False
    return scheduler


def _ours(seed: int, stock_states: bool = False, **settings: str) -> Search:
    searched = {f"search.{name}": value for name, value in {**settings, "seed": seed}.items()}
    return Ours(override(curves.space(), searched), stock_states=stock_states)


# Between the two that are compared stand the steps from one to the other, each of which changes one thing.
SEARCHES: Mapping[str, Callable[[int], Search]] = {
    "random search": lambda seed: _ours(seed, sampler="random", scheduler="none"),
    "stock": lambda seed: _stock(seed, _asha(grace_period=GRACE, reduction_factor=FACTOR)),
    "stock, ASHA's defaults": lambda seed: _stock(seed, _asha()),
    "stock, our rungs": lambda seed: _stock(seed, _one_rung()),
    "ours, stock states": lambda seed: _ours(seed, stock_states=True),
    "ours": lambda seed: _ours(seed),
}


def run() -> None:
    """Recorded curves of MNIST: stock OptunaSearch and ASHA against ours, equal time, 50 seeds, paired."""
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
    """Simulated seconds of each sweep."""
    return table.mean_seconds * FULL_TRIALS / WORKERS


def sweep_all(table: Table, seeds: range) -> Outcomes:
    """Every search, once with each seed."""
    seconds = budget(table)
    return {
        name: [simulate(search(seed), table, workers=WORKERS, seconds=seconds) for seed in seeds]
        for name, search in SEARCHES.items()
    }


def tops(sweeps: list[Sweep], count: int) -> NDArray[np.float64]:
    """Mean loss of each sweep's best `count`."""
    return np.array([sweep.top(count) for sweep in sweeps])


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval by Student's t: fifty means are near enough to normal.

    It says how far the mean could be from that of all seeds, on this table; nothing of other tables.
    """
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def _interval(values: NDArray[np.float64]) -> str:
    mean, half = interval(values)
    return f"{mean:.4f} ± {half:.4f}"


def _difference(outcomes: Outcomes, other: str, count: int) -> str:
    """Ours less the other, seed by seed: below zero is better."""
    differences = tops(outcomes["ours"], count) - tops(outcomes[other], count)
    mean, half = interval(differences)
    lower, equal = int((differences < 0).sum()), int((differences == 0).sum())
    return (
        f"best {'' if count == 1 else f'{count} '}{mean:+.4f} ± {half:.4f} "
        f"(lower {lower}, equal {equal}, higher {len(differences) - lower - equal})"
    )


def draw(outcomes: Outcomes, seconds: float, file: Path = FIGURE) -> None:
    """The best loss so far against simulated time: mean over the seeds, and its 95 % interval as a band."""
    from matplotlib.figure import Figure

    # Okabe and Ito's colours, which the colour-blind can tell apart; dashes serve where there is none.
    styles = {"random search": ("#999999", ":"), "stock": ("#D55E00", "--"), "ours": ("#0072B2", "-")}
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    times = np.linspace(0, seconds, 400)
    for name, (color, dashes) in styles.items():
        best = np.array([[sweep.best_at(time) for time in times] for sweep in outcomes[name]])
        known = np.isfinite(best).all(axis=0)  # A mean is one of all seeds, or none.
        mean, half = np.array([interval(column) for column in best.T[known]]).T
        axes.plot(times[known], mean, dashes, color=color, label=name)
        axes.fill_between(times[known], mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
    axes.set_xlim(0, seconds)
    axes.set_xlabel(f"simulated seconds, {WORKERS} workers")
    axes.set_ylabel("lowest validation loss of a complete trial")
    axes.legend(frameon=False, title=f"mean of {len(outcomes['ours'])} seeds and its 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
