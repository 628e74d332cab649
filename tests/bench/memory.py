import os
import subprocess
import sys
import tempfile
import time

import psutil

MIB = 2**20


def run() -> None:
    """Peak memory of the driver and of the workers on the full MNIST (in the folder CONVENE_MNIST)."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "convene.cli", "sweep", "search_spaces/mnist.toml"),
            *("--data", os.environ.get("CONVENE_MNIST", "mnist"), "--storage", folder, "--trials", "4"),
            *("--set", "training.epochs=1", "--set", "search.scheduler=none"),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peaks = _watch(psutil.Process(process.pid), process)
    for role, (total, unique, shared) in sorted(peaks.items()):
        print(f"{role}: {total / MIB:.0f} MiB resident, {unique / MIB:.0f} unique, {shared / MIB:.0f} shared")


def _watch(driver: psutil.Process, process: subprocess.Popen[bytes]) -> dict[str, tuple[int, int, int]]:
    """Return the peaks of (resident, unique, shared) bytes by role."""
    peaks: dict[str, tuple[int, int, int]] = {}
    while process.poll() is None:
        for role, member in _roles(driver):
            try:
                memory = member.memory_full_info()
            except psutil.Error:
                continue
            seen = (memory.rss, memory.uss, memory.shared)
            peaks[role] = tuple(map(max, peaks.get(role, seen), seen))
        time.sleep(0.2)
    return peaks


def _roles(driver: psutil.Process) -> list[tuple[str, psutil.Process]]:
    workers = []
    for child in driver.children(recursive=True):
        try:
            if "Trainable" in " ".join(child.cmdline()):
                workers.append(child)
        except psutil.Error:
            continue
    return [("driver", driver), *((f"worker {number}", worker) for number, worker in enumerate(workers))]
