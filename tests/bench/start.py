import statistics
import subprocess
import sys
import time
from pathlib import Path


def run() -> None:
    """Time of the whole process `convene --help`, compared with an empty Python program."""
    command = [str(Path(sys.executable).with_name("convene")), "--help"]
    bare = [sys.executable, "-c", "pass"]
    ours, theirs = [], []
    for _ in range(10):
        ours.append(_seconds(command))
        theirs.append(_seconds(bare))
    print(f"convene --help {statistics.median(ours):.3f} s; bare Python {statistics.median(theirs):.3f} s")


def _seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin
