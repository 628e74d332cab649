"""A storage root in an object store: what holds of a folder holds there too. The server is real: Moto's."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from convene import datasets
from convene.config.schema import Configuration, DataConfig
from convene.config.search_space import parse
from convene.errors import InputError
from convene.records import lock
from convene.search.object_journal import ObjectJournal
from convene.search.study import Study
from convene.search.study_storage import StudyStorage
from convene.search.trial_state import TrialState
from convene.storage import Storage, StorageError
from tests.conftest import CLEAN, SMALL_SPACE, convene
from tests.support.servers import ObjectStore, mlflow_server, object_store

pytestmark = pytest.mark.cluster

SPACE = parse(
    "[network]\ndepth = { low = 1, high = 3 }\n[training]\nepochs = 9\n[search]\nsampler = 'random'"
)


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as server:
        os.environ.update(server.environment)
        yield server
        for name in server.environment:
            del os.environ[name]


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, store: ObjectStore, tmp_path: Path) -> Storage:
    return Storage(
        str(tmp_path / "root") if request.param == "folder" else f"s3://{store.bucket()}/some/root"
    )


def test_a_bucket_keeps_files_as_a_folder_does(storage: Storage) -> None:
    assert not storage.exists("trials")
    assert storage.names("trials") == []
    with pytest.raises(FileNotFoundError):
        storage.read("trials/0001/trial.json")
    large = random.Random(0).randbytes(11_000_000)  # more than pyarrow sends in one part
    for data in (b"", b"one", large, b"last"):
        storage.write("trials/0001/trial.json", data)
        assert storage.read("trials/0001/trial.json") == data
    storage.write("trials/0002/trial.json", b"2")
    storage.write("trials/.hidden", b"")
    assert storage.names("trials") == ["0001", "0002"]
    assert storage.exists("trials")
    assert (storage / "trials").read("0002/trial.json") == b"2"
    for _ in range(2):  # what is gone already is no error
        storage.remove("trials/0002/trial.json")
    assert not storage.exists("trials/0002/trial.json")
    storage.remove_partial()
    storage.check_writable()
    assert storage.read("trials/0001/trial.json") == b"last"


def test_a_folder_of_a_bucket_is_filled_and_at_hand(storage: Storage) -> None:
    for content in (
        {"model.onnx": b"1", "model.onnx.data": b"22", "manifest.json": b"{}"},
        {"model.onnx": b"3", "manifest.json": b"[]"},
    ):
        with storage.staging("exports/ensemble", last="manifest.json") as folder:
            folder.mkdir(parents=True, exist_ok=True)
            for file in folder.iterdir():  # of a folder the older files are there to be replaced
                file.unlink()
            for name, data in content.items():
                (folder / name).write_bytes(data)
        assert storage.names("exports/ensemble") == sorted(content)
        with storage.local_copy("exports/ensemble") as folder:
            assert {file.name: file.read_bytes() for file in folder.iterdir()} == content
            assert folder.name == "ensemble"
        with storage.local_copy("exports/ensemble/model.onnx") as file:
            assert (file.name, file.read_bytes()) == ("model.onnx", content["model.onnx"])


def test_what_fails_while_a_folder_is_filled_leaves_the_one_that_was_there(store: ObjectStore) -> None:
    storage = Storage(f"s3://{store.bucket()}/root")
    storage.write("exports/ensemble/manifest.json", b"old")
    with pytest.raises(ZeroDivisionError), storage.staging("exports/ensemble", "manifest.json") as folder:
        folder.mkdir()
        (folder / "manifest.json").write_bytes(b"new")
        raise ZeroDivisionError
    assert storage.read("exports/ensemble/manifest.json") == b"old"


def test_a_bucket_that_is_not_there_or_a_store_that_is_away_is_told_at_once(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"storage = s3://no-such-bucket/x: .*NO_SUCH_BUCKET"):
        Storage("s3://no-such-bucket/x").check_writable()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    began = time.monotonic()
    with pytest.raises(InputError, match=r"storage = s3://another-bucket: .*connect"):
        Storage("s3://another-bucket").check_writable()
    assert time.monotonic() - began < 30  # pyarrow tries three times, some 6 s in all


@pytest.mark.parametrize("path", ["images", "images.npz"])
def test_images_in_a_bucket_are_those_in_a_folder(store: ObjectStore, path: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    if path.endswith(".npz"):
        np.savez(tmp_path / path, images=pixels, labels=np.arange(40) % 2)
    else:
        for number, image in enumerate(pixels):
            (folder := tmp_path / path / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.png")
    bucket = store.bucket()
    files = Storage(f"s3://{bucket}")
    for file in (tmp_path / path).rglob("*.png") if path == "images" else [tmp_path / path]:
        files.write(f"data/{file.relative_to(tmp_path)}", file.read_bytes())
    source, cache = f"s3://{bucket}/data/{path}", tmp_path / "cache"
    local = datasets.load(DataConfig(source=str(tmp_path / path)))
    for _ in range(2):  # copied, and found in the cache
        remote = datasets.load(DataConfig(source=source), cache=cache)
        assert (remote.fingerprint, remote.source, remote.name) == (local.fingerprint, source, local.name)
    assert len(list((cache / "s3").iterdir())) == 1
    with pytest.raises(InputError, match=f"data.source = s3://{bucket}/data/imges: no such file or folder"):
        datasets.load(DataConfig(source=f"s3://{bucket}/data/imges"), cache=cache)


def told(study: Study) -> list[object]:
    return [study.trials(), study.ranked(), len(study)]


def test_a_study_in_a_bucket_is_the_one_in_a_file(store: ObjectStore, tmp_path: Path) -> None:
    def shape_check(configuration: Configuration) -> None:
        return None

    places = [
        StudyStorage(Storage(f"s3://{store.bucket()}/sweeps/a/study.journal")),
        StudyStorage(Storage(str(tmp_path / "study.journal"))),
    ]
    asked = []
    for place in places:
        study = Study(SPACE, shape_check, place)
        configurations = []
        for trial in range(30):
            number, configuration = study.ask()
            configurations.append(configuration)
            for epoch in range(1, 10):
                study.report(number, epoch, 1 / (trial + epoch))
            state = TrialState.COMPLETE if trial % 3 else TrialState.PRUNED
            study.tell(number, state, [0.1 + trial], "weak")
        study.ask()  # is left running
        asked.append(configurations)
        again = Study(SPACE, shape_check, place)
        assert told(again)[1:] == told(study)[1:]
        assert [number for number, _ in again.reopen()] == [30]
        again.report(30, 1, 0.5)
        assert Study(SPACE, shape_check, place).trials() == again.trials()
    assert asked[0] == asked[1]
    names = places[0].journal.names() if places[0].journal else []
    assert len(names) > 1  # so that more than one object was read


def test_entries_are_read_from_any_number(store: ObjectStore) -> None:
    files = Storage(f"s3://{store.bucket()}/journal")
    writer = ObjectJournal(files)
    for number in range(0, 450, 3):
        writer.append_logs([{"n": number + more} for more in range(3)])
    for reader in (writer, ObjectJournal(files)):
        for start in (0, 1, 199, 200, 201, 202, 400, 449, 450, 500):
            assert [entry["n"] for entry in reader.read_logs(start)] == list(range(start, 450))
    ObjectJournal(files).append_logs([{"n": 450}])
    assert [entry["n"] for entry in ObjectJournal(files).read_logs(448)] == [448, 449, 450]
    assert list(ObjectJournal(Storage(f"s3://{store.bucket()}")).read_logs(0)) == []


@pytest.fixture
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.3)
    monkeypatch.setattr(lock, "DEAD_AFTER", 1.5)


@pytest.mark.usefixtures("quick_beats")
def test_one_process_at_a_time_has_a_sweep(store: ObjectStore) -> None:
    files = Storage(f"s3://{store.bucket()}/sweeps/a")
    assert not lock.is_held(files)
    with lock.hold(files, "a"):
        assert lock.is_held(files)
        with (
            pytest.raises(InputError, match="sweep a: another process is running it"),
            lock.hold(files, "a"),
        ):
            pass
    assert not lock.is_held(files)
    files.write(".lock", b'{"holder": "killed", "beat": 7}')  # as a process that was killed leaves it
    with lock.hold(files, "a"):
        pass
    assert not files.exists(".lock")


@pytest.mark.usefixtures("quick_beats")
def test_of_two_that_come_at_once_one_gets_it(store: ObjectStore) -> None:
    files, got, refused = Storage(f"s3://{store.bucket()}/sweeps/a"), [], []

    def come() -> None:
        try:
            with lock.hold(files, "a"):
                got.append(1)
                time.sleep(1)
        except InputError:
            refused.append(1)

    threads = [threading.Thread(target=come) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 3)


def begin(folder: Path, root: str, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """A sweep `s` of the folder's small.toml, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "convene.cli", "sweep", "small.toml", "--name", "s", "--storage", root],
        cwd=folder,
        env={**CLEAN, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_an_epoch(files: Storage) -> None:
    end = time.monotonic() + 120
    while not any(files.exists(f"trials/{number}/trial.json") for number in files.names("trials")):
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_sweep_in_a_bucket_is_killed_finished_exported_and_predicts(
    store: ObjectStore, tmp_path: Path, mlflow_database: Path
) -> None:
    bucket = store.bucket()
    root = f"s3://{bucket}/team"
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    (tmp_path / "small.toml").write_text(SMALL_SPACE.replace("epochs = 4", "epochs = 30"))
    backend = f"sqlite:///{tmp_path}/mlflow.db"
    with mlflow_server(backend, f"s3://{bucket}/mlflow", store.environment) as uri:
        environment = {**store.environment, "MLFLOW_TRACKING_URI": uri}
        begun, files = begin(tmp_path, root, environment), Storage(f"{root}/sweeps/s")
        wait_for_an_epoch(files)
        os.killpg(begun.pid, signal.SIGKILL)
        begun.communicate()
        listed = convene("list", "--storage", root, "--json", **store.environment)
        assert [sweep["name"] for sweep in listed.json["sweeps"]] == ["s"]
        resumed = convene("resume", "s", "--storage", root, "--json", folder=tmp_path, **environment)
        assert resumed.code == 0, resumed.err
        outcome = resumed.json
        assert outcome["trials"] == 8
        assert outcome["export"] == f"{root}/sweeps/s/exports/ensemble"
        assert outcome["mlflow"]["waiting"] == 0
        for verb in (
            ["export", "s", "--to", "out"],
            ["show", "s"],
            ["show", "s", "confusion"],
            ["report", "s"],
        ):
            ended = convene(*verb, "--storage", root, folder=tmp_path, **environment)
            assert ended.code == 0, ended.err
    assert not (tmp_path / "mlruns").exists()
    assert files.exists("report.html")
    with files.local_copy("trials.parquet") as file:
        assert sorted(pd.read_parquet(file).trial) == list(range(8))
    with files.local_copy("pictures") as folder:
        pictures = sorted(folder.iterdir())
        predicted = convene("predict", tmp_path / "out", pictures[0], "--json")
    assert predicted.code == 0, predicted.err
    assert len(predicted.json["predictions"]) == 1


def test_without_a_tracking_server_a_bucket_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL_SPACE)
    root = f"s3://{store.bucket()}"
    ended = convene("sweep", tmp_path / "small.toml", "--storage", root, **store.environment)
    assert ended.code == 2
    assert "set MLFLOW_TRACKING_URI" in ended.err
    assert Storage(root).names() == []


def test_a_store_that_goes_away_ends_the_sweep_and_it_can_be_resumed(
    tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is killed in an epoch; what it had is lost with it, so only the end is checked."""
    (tmp_path / "small.toml").write_text(SMALL_SPACE.replace("epochs = 4", "epochs = 300"))
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    with mlflow_server(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"), {}) as uri:
        with object_store() as server:
            for name, value in server.environment.items():
                monkeypatch.setenv(name, value)
            root = f"s3://{server.bucket()}/team"
            process = begin(tmp_path, root, {**server.environment, "MLFLOW_TRACKING_URI": uri})
            wait_for_an_epoch(Storage(f"{root}/sweeps/s"))
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "when it is back: convene resume s" in err
    with pytest.raises(StorageError):
        Storage(root).names()
