"""The whole batch script with a real sweep on two machines, which are network namespaces here."""

import json
import os
import shutil
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy/slurm/sweep.sbatch"

SPACE = """
[data]
source = "digits"
train_limit = 300
[network]
depth = 1
width = { choices = [4, 8] }
[training]
epochs = 2
[search]
trials = 4
sampler = "random"
[ensemble]
size = 2
"""

# A stand-in for SLURM's `srun`, which runs a command on all machines at once. When the first machine ends,
# which is the head or one that fails, the others are killed; `srun` would wait a minute for them. A machine
# is a network namespace with its own processes and /tmp/ray, so that Ray finds and stops only its own. Its
# first process is a shell, which reaps zombies. A second shell runs Ray, because Ray takes itself for an
# orphan if its parent has PID 1.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
for machine in $MACHINES; do
  mkdir "$LOGS/$machine"
  ip netns exec "$machine" unshare --pid --fork --kill-child --mount-proc \\
    bash -c 'mount --bind "$LOGS/$0" /tmp/ray; bash -c "\\"\\$@\\"; exit \\$?" between "$@"; exit $?' \\
    "$machine" "$@" > "$LOGS/$machine.log" 2>&1 &
done
wait -n
code=$?
kill -KILL $(jobs -p) 2> /dev/null  # `unshare` ignores other signals; its machine ends with it
wait
exit "$code"
"""

SCONTROL = """#!/usr/bin/env bash
[ "$*" = "show hostnames $SLURM_JOB_NODELIST" ] && printf '%s\\n' $ADDRESSES
"""


@dataclass(frozen=True)
class Machines:
    """Two network namespaces, by name and address. The first is the head."""

    names: tuple[str, str]
    addresses: tuple[str, str]


@contextmanager
def two_machines() -> Iterator[Machines]:
    """Create two network namespaces that are connected to each other and to nothing else."""
    suffix = uuid.uuid4().hex[:6]
    names = (f"head-{suffix}", f"work-{suffix}")
    addresses = ("10.97.31.1", "10.97.31.2")
    try:
        for name in names:
            ip("netns", "add", name)
        ip(
            "link",
            "add",
            "cable",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            names[1],
        )
        for name, address in zip(names, addresses, strict=True):
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            # Ray finds its own address from the route to the Internet.
            ip("-n", name, "route", "add", "default", "dev", "cable")
        yield Machines(names, addresses)
    finally:
        for name in names:
            ip("netns", "delete", name, check=False)


def ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True, timeout=10)


def write_program(folder: Path, name: str, content: str) -> None:
    path = folder / name
    path.write_text(content)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def can_create_namespaces() -> bool:
    if os.geteuid() or not shutil.which("ip"):
        return False
    attempt = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true"], check=False
    )
    return attempt.returncode == 0


def test_the_batch_script_runs_a_sweep_on_two_machines(tmp_path: Path) -> None:
    if not can_create_namespaces():
        pytest.skip("network namespaces need root")
    (tmp_path / "space.toml").write_text(SPACE)
    for folder in ("bin", "logs", "home"):
        (tmp_path / folder).mkdir()
    Path("/tmp/ray").mkdir(exist_ok=True)
    write_program(tmp_path / "bin", "srun", SRUN)
    write_program(tmp_path / "bin", "scontrol", SCONTROL)
    submission = tmp_path / "submitted"
    submission.mkdir()
    (submission / ".venv").symlink_to(sys.prefix)
    with two_machines() as machines:
        environment = {
            "HOME": str(tmp_path / "home"),
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "pipeline"),
            "MACHINES": " ".join(machines.names),
            "ADDRESSES": " ".join(machines.addresses),
            "LOGS": str(tmp_path / "logs"),
            "SLURM_SUBMIT_DIR": str(submission),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "machine[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "1",
        }
        arguments = [str(tmp_path / "space.toml"), "--storage", str(tmp_path / "runs"), "--name", "sent"]
        ended = subprocess.run(
            ["bash", SCRIPT, "sweep", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    head, other = machines.names
    logs = {name: (tmp_path / "logs" / f"{name}.log").read_text() for name in machines.names}
    assert ended.returncode == 0, "\n".join([ended.stderr, *logs.values()])
    assert "On head node" in logs[head]
    assert "On worker node" in logs[other]
    for name in machines.names:
        workers = (tmp_path / "logs" / name).glob("session_2*/logs/worker-*.out")
        assert any("TrialWorker" in path.read_text() for path in workers), f"{name} trained nothing"
    result = json.loads((tmp_path / "runs/sweeps/sent/result.json").read_text())
    assert result["trials"] == 4
    # A token was generated, and no log contains it.
    token = (tmp_path / "home/.ray/auth_token").read_text().strip()
    assert token and not any(token in log for log in logs.values())
