"""What several tests share: the real command, and one small real sweep."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import chromium

__all__ = ["chromium"]  # a fixture

# A sweep of seconds in which some trials fail: the highest rate always diverges without batch norm.
SMALL_SPACE = """
[data]
source = "digits"
train_limit = 400

[network]
depth = 2
width = { choices = [4, 8] }
dense = { choices = [0, [16]] }
activation = "leaky_relu"
batch_norm = false

[training]
epochs = 4
batch_size = 20
shift = 0
optimizer = "sgd"
schedule = "constant"
learning_rate = { choices = [0.02, 0.05, 10.0] }

[search]
trials = 8
sampler = "random"
grace_epochs = 2
reduction_factor = 2

[ensemble]
size = 3
"""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on standard output."""
        content = json.loads(self.out)
        assert isinstance(content, dict)
        return content


CLEAN = {
    name: value
    for name, value in os.environ.items()
    if name not in ("MLFLOW_TRACKING_URI", "OPTUNA_STORAGE", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    and not name.startswith("RAY_AUTH_")
}


def convene(*arguments: str | Path, folder: Path | None = None, **environment: str) -> Ended:
    """Runs the command in a process of its own, as a user does."""
    ended = subprocess.run(
        [sys.executable, "-m", "convene.cli", *map(str, arguments)],
        cwd=folder,
        env={**CLEAN, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@dataclass(frozen=True)
class Swept:
    """A sweep that was run: where, and what `--json` said."""

    storage: Path
    outcome: dict[str, Any]
    err: str


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.mktemp("swept")
    (folder / "small.toml").write_text(SMALL_SPACE)
    ended = convene("sweep", folder / "small.toml", "--storage", folder / "runs", "--json")
    assert ended.code == 0, ended.err
    return Swept(folder / "runs", ended.json, ended.err)
