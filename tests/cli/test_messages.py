"""Bad input to the commands: one message, exit code 2, nothing written."""

import gzip
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.conftest import Ended, Services, convene

Command = Callable[..., Ended]

SPACE = '[data]\nsource = "digits"\n[network]\nwidth = { choices = [4, 8] }\n[search]\ntrials = 2\n'


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, convene_here: Command) -> Command:
    """Run the command in this process, in a folder that holds only a search space."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text(SPACE)
    return convene_here


def refused(answer: Command, *arguments: str, says: list[str], **environment: str) -> None:
    before = sorted(Path.cwd().rglob("*"))
    ended = answer(*arguments, **environment)
    assert (ended.code, ended.out) == (2, ""), ended.err
    for part in says:
        assert part in ended.err
    assert "Traceback" not in ended.err
    left = [path for path in sorted(Path.cwd().rglob("*")) if path not in before]
    # The storage root may have been created, to see whether that works; it is empty.
    assert [path for path in left if not path.is_dir()] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sweep", "nowhere.toml"], ["nowhere.toml", "No such file"]),
        (["sweep", "."], ["Is a directory"]),
        (["sweep", "space.toml", "--set", "network.widht=3"], ["network.widht", "did you mean width"]),
        (["sweep", "space.toml", "--set", "width=3"], ["width=3", "SECTION.KEY=VALUE"]),
        (
            ["sweep", "space.toml", "--set", "network.depth=99"],
            ["network.depth = 99", "less than or equal to 16"],
        ),
        (["sweep", "space.toml", "--trials", "0"], ["--trials 0", "at least 1, or +N"]),
        (["sweep", "space.toml", "--trials", "many"], ["--trials", "many"]),
        (["sweep", "space.toml", "--time-budget", "soon"], ["search.time_budget = 'soon'", "30m"]),
        (["sweep", "space.toml", "--concurrency", "0"], ["search.concurrency = 0"]),
        (["sweep", "space.toml", "--name", "a/b"], ["--name 'a/b'", "letters, digits"]),
        (["sweep", "space.toml", "--data", "mnits"], ["mnits", "mnist"]),
        (["sweep", "space.toml", "--storage", "space.toml/below"], ["storage", "space.toml/below"]),
        (["sweep", "space.toml", "--storage", "/proc/nowhere"], ["storage", "/proc/nowhere"]),
        (["sweep", "space.toml", "--set", "search.gpus_per_trial=-1"], ["search.gpus_per_trial = -1"]),
        (
            ["sweep", "space.toml", "--set", "network.padding=valid", "--set", "network.kernel_size=9"],
            [
                "nothing in this space fits images of 8x8",
                "kernel of size 9 does not fit a feature map of size 8",
            ],
        ),
        (["preflight", "nowhere.toml"], ["nowhere.toml", "No such file"]),
        (["preflight", "space.toml", "--set", "network.widht=3"], ["network.widht", "did you mean width"]),
        (["preflight", "space.toml", "--trials", "0"], ["search.trials = 0"]),
        (["preflight", "space.toml", "--data", "mnits"], ["mnits", "mnist"]),
        (["preflight", "space.toml", "--storage", "/proc/nowhere"], ["storage", "/proc/nowhere"]),
        (
            ["preflight", "space.toml", "--set", "network.padding=valid", "--set", "network.kernel_size=9"],
            ["nothing in this space fits images of 8x8"],
        ),
        (["ensemble", "nobody"], ["sweep 'nobody'", "not found"]),
        (["export", "nobody", "--to", "x"], ["sweep 'nobody'", "not found"]),
        (["export", "nobody"], ["--to"]),
        (["predict", "nowhere", "space.toml"], ["nowhere", "no such folder"]),
        (["predict", ".", "space.toml"], ["not an exported ensemble", "manifest.json"]),
        (["ui"], ["nothing is recorded"]),
        (["ui", "--port", "99999"], ["99999"]),
        (["swep"], ["No such command 'swep'"]),
        (["sweep"], ["Missing argument"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and "-" not in value[0][:1] else None,
)
def test_bad_arguments_are_errors(answer: Command, arguments: list[str], says: list[str]) -> None:
    refused(answer, *arguments, says=says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[network]\nwidth = = 3", ["space.toml", "line 2, column 9"]),
        ("[netwrok]\nwidth = 3", ["[netwrok]", "did you mean network"]),
        ("[network]\ndepth = { low = 3, high = 1 }", ["network.depth", "low = 3", "high = 1"]),
        ("[training]\nlearning_rate = { low = 0, high = 1, log = true }", ["low = 0", "log = true"]),
        ("[network]\nwidth = { choices = [] }", ["network.width.choices", "at least one"]),
        ('[network]\nwidth = "wide"', ["network.width = 'wide'", "integer"]),
        (
            "[data]\ntrain_limit = { low = 10, high = 20 }",
            ["data.train_limit", "only [network] and [training]"],
        ),
    ],
)
def test_bad_search_spaces_are_errors(answer: Command, text: str, says: list[str]) -> None:
    Path("space.toml").write_text(text)
    refused(answer, "sweep", "space.toml", says=says)


def truncated_idx(folder: Path) -> list[str]:
    for stem, count in (("train", 40), ("t10k", 20)):
        pixels = struct.pack(">IIII", 2051, count, 8, 8) + bytes(count * 64)
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(pixels[: -5 if stem == "train" else None])
        labels = struct.pack(">II", 2049, count) + bytes(number % 2 for number in range(count))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return ["train-images-idx3-ubyte"]


def unreadable_image(folder: Path) -> list[str]:
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(10):
            Image.fromarray(np.full((8, 8), number * 9, np.uint8)).save(folder / label / f"{number}.png")
    (folder / "dog/3.png").write_bytes(b"not an image")
    return ["dog/3.png"]


def one_class(folder: Path) -> list[str]:
    (folder / "cat").mkdir()
    for number in range(10):
        Image.fromarray(np.full((8, 8), number * 9, np.uint8)).save(folder / f"cat/{number}.png")
    return ["one class", "cat"]


def too_few_of_a_class(folder: Path) -> list[str]:
    for label, count in (("cat", 10), ("dog", 2)):
        (folder / label).mkdir()
        for number in range(count):
            Image.fromarray(np.full((8, 8), number * 9, np.uint8)).save(folder / label / f"{number}.png")
    return ["dog", "2"]


def without_columns(folder: Path) -> list[str]:
    pd.DataFrame({"pixels": [[1, 2]], "digit": [1]}).to_parquet(folder / "train.parquet")
    return ["image", "pixels", "digit"]


@pytest.mark.parametrize(
    "make", [truncated_idx, unreadable_image, one_class, too_few_of_a_class, without_columns]
)
def test_bad_data_is_an_error(answer: Command, make: Callable[[Path], list[str]], tmp_path: Path) -> None:
    data = tmp_path / "photos"
    data.mkdir()
    refused(answer, "sweep", "space.toml", "--data", str(data), says=make(data))


def test_an_mlflow_server_that_does_not_answer_is_an_error(answer: Command) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        says = [f"MLFLOW_TRACKING_URI = {uri}", "does not answer"]
        refused(answer, "sweep", "space.toml", says=says, MLFLOW_TRACKING_URI=uri)


def test_a_port_in_use_is_an_error(answer: Command, tmp_path: Path) -> None:
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns/mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(answer, "ui", "--port", str(port), says=[f"--port {port}", "in use"])


@pytest.mark.parametrize(
    "arguments", [["sweep", "nowhere.toml"], ["predict", "a", "b"], ["sweep"], ["nothing"]]
)
def test_an_error_is_one_json_object(answer: Command, arguments: list[str]) -> None:
    ended = answer(*arguments, "--json")
    assert ended.code == ended.json["exit_code"] == 2
    assert ended.json["error"]
    assert ended.err == ""


def test_an_empty_storage_lists_nothing(answer: Command) -> None:
    ended = convene("list", "--json")
    assert ended.code == 0
    assert ended.json == {"sweeps": []}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["sweep", "--help"], ["ui", "-h"]])
def test_help_and_version_succeed(arguments: list[str]) -> None:
    assert convene(*arguments).code == 0


def test_a_cluster_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(SPACE)
    ended = convene("sweep", "space.toml", "--address", "127.0.0.1:1", folder=tmp_path)
    assert ended.code == 2, ended.err
    assert "--address 127.0.0.1:1" in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "mlruns/sweeps").exists()


def test_more_gpus_than_available_is_an_error(services: Services, tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(SPACE)
    ended = services.convene("sweep", "space.toml", "--set", "search.gpus_per_trial=64", folder=tmp_path)
    assert ended.code == 2, ended.err
    assert "64 GPUs" in ended.err
    assert not (tmp_path / "mlruns/sweeps").exists()
