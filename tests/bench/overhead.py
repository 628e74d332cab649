import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

FEW, MANY = 8, 40

Command = Callable[[int, str], list[str]]
"""The arguments of a sweep, by the number of trials and the folder."""

# One epoch over ten images of eight by eight pixels, with a network of one filter: about 10 ms.
SPACE = """
[data]
source = "digits"
train_limit = 10

[network]
kernel_size = { choices = [1, 3] }
depth = { low = 1, high = 2 }
width = 1
dropout = { low = 0.0, high = 0.5 }

[training]
epochs = 1
learning_rate = { low = 1e-4, high = 3e-2, log = true }
label_smoothing = { low = 0.0, high = 0.1 }

[search]
concurrency = 2
"""


def run() -> None:
    """Overhead of a trial with tracking: the slope between sweeps of 8 and 40 trials that barely train."""
    slopes: dict[str, list[float]] = {"convene": [], "tutorial": []}
    for _ in range(3):
        slopes["convene"].append(_slope(_convene))
        slopes["tutorial"].append(_slope(_tutorial))
    for name, values in slopes.items():
        print(f"{name}: " + ", ".join(f"{value * 1000:.0f}" for value in values) + " ms per trial")
    ratios = [ours / theirs for ours, theirs in zip(*slopes.values(), strict=True)]
    print("convene / tutorial: " + ", ".join(f"{ratio:.2f}" for ratio in ratios))


def _slope(command: Command) -> float:
    return (_seconds(command, MANY) - _seconds(command, FEW)) / (MANY - FEW)


def _seconds(command: Command, trials: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        arguments = command(trials, folder)
        begin = time.perf_counter()
        ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begin
        if ended.returncode:
            sys.exit(f"{arguments}: exit code {ended.returncode}\n{ended.stderr}")
        return seconds


def _convene(trials: int, folder: str) -> list[str]:
    space = Path(folder, "overhead.toml")
    space.write_text(SPACE)
    return [
        sys.executable,
        "-m",
        "convene.cli",
        "sweep",
        str(space),
        f"--trials={trials}",
        f"--storage={folder}/runs",
    ]


def _tutorial(trials: int, folder: str) -> list[str]:
    return [sys.executable, "-m", "tests.bench.tutorial", str(trials), folder]
