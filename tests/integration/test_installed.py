"""An installed wheel, away from the repository, in a folder whose files have names of ours."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import SMALL_SPACE, convene

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the contents of a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command: list[str | Path] = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--wheel-dir", folder, ROOT]
    subprocess.run(command, check=True)
    [wheel] = folder.glob("convene-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_claims_no_other_name_and_has_every_file(installed: Path) -> None:
    assert [path.name for path in installed.iterdir() if path.suffix != ".dist-info"] == ["convene"]
    source = ROOT / "pipeline/convene"
    there = {path.relative_to(installed / "convene") for path in installed.glob("convene/**/*.*")}
    for path in source.rglob("*.*"):
        assert "__pycache__" in path.parts or path.relative_to(source) in there, path


def test_a_sweep_runs_beside_a_file_named_pipeline(installed: Path, tmp_path: Path) -> None:
    """The package once had that name, and such a file failed every trial."""
    (tmp_path / "pipeline.py").write_text("raise ImportError('a file of the user')")
    (tmp_path / "small.toml").write_text(SMALL_SPACE.replace("trials = 8", "trials = 2"))
    where = {"PYTHONPATH": str(installed)}
    options = ["--set", "training.learning_rate=0.05", "--set", "search.scheduler=none", "--json"]
    ended = convene("sweep", "small.toml", *options, folder=tmp_path, **where)
    assert ended.code == 0, ended.err
    assert ended.json["states"] == {"COMPLETE": 2, "PRUNED": 0, "FAIL": 0}
    found = subprocess.run(
        [sys.executable, "-c", "import convene; print(convene.__file__)"],
        env=where,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()).is_relative_to(installed)
