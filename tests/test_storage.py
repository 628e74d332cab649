"""Files in the storage are complete or absent, whatever happens while they are written."""

import os
import pickle
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from convene.errors import InputError
from convene.storage import Storage


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Limit the size of files of this process: a write fails midway, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def everything(folder: Path) -> dict[str, bytes]:
    """The content of all files in a folder and its subfolders, with hidden ones, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("path", ["a", "a.json", "deep/er/a.json", "ä é/a b.json"])
@pytest.mark.parametrize("data", [b"", b"one", bytes(range(256)) * 4000])
def test_a_written_file_is_read_back(path: str, data: bytes, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "not" / "there" / "yet"))
    assert not storage.exists()
    storage.write(path, b"older and longer" * 100)
    storage.write(path, data)
    assert storage.read(path) == data
    assert everything(storage.local()) == {path: data}
    assert storage.exists(path)
    assert storage.local(path).read_bytes() == data


@pytest.mark.parametrize("path", ["a.json", "deep/a.json"])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_write_that_fails_midway_leaves_the_old_file_and_nothing_else(
    path: str, before: bytes | None, tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path))
    if before is not None:
        storage.write(path, before)
    with full_disk(100_000), pytest.raises(OSError, match="File too large"):
        storage.write(path, b"new" * 100_000)
    assert everything(tmp_path) == ({path: before} if before is not None else {})
    storage.write(path, b"new" * 100_000)
    assert storage.read(path) == b"new" * 100_000


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("a/b", b"kept")
    with pytest.raises(OSError, match="a"):
        storage.write("a", b"new")
    assert everything(tmp_path) == {"a/b": b"kept"}


def test_a_reader_sees_only_complete_versions(tmp_path: Path) -> None:
    storage, ended = Storage(str(tmp_path)), threading.Event()
    versions = [bytes([n]) * 300_000 for n in range(4)]
    storage.write("a", versions[0])

    def rewrite() -> None:
        for n in range(100):
            storage.write("a", versions[n % 4])
        ended.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    reads = 0
    while not ended.is_set():
        assert Storage(str(tmp_path)).read("a") in versions
        assert storage.names() == ["a"]
        reads += 1
    writer.join()
    assert reads > 0


def test_names_are_sorted_without_hidden_ones(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for path in ("b.json", "a.json", "folder/c.json", "10", "9"):
        storage.write(path, b"")
    # Files that a killed writer leaves.
    (tmp_path / ".a.json.0123.partial").write_bytes(b"half")
    (tmp_path / "folder" / ".c.json.0123.partial").write_bytes(b"half")
    assert storage.names() == ["10", "9", "a.json", "b.json", "folder"]
    assert storage.names("folder") == ["c.json"]
    assert storage.names("nowhere") == []
    assert Storage(str(tmp_path / "nowhere")).names() == []


def test_only_incomplete_files_are_removed(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for path in ("a.json", ".lock", "folder/c.json"):
        storage.write(path, b"x")
    before = everything(tmp_path)
    (tmp_path / ".a.json.0123.partial").write_bytes(b"half")
    storage.remove_partial()
    assert everything(tmp_path) == before


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert not storage.exists("a")
    for path in ("a", "folder/a"):
        with pytest.raises(FileNotFoundError):
            storage.read(path)


def test_a_storage_can_be_a_subfolder_of_another(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    below = storage / "sweeps/evening"
    below.write("trials/0001/a", b"x")
    assert storage.read("sweeps/evening/trials/0001/a") == b"x"
    assert below.root == f"{storage.root}/sweeps/evening"
    assert everything(tmp_path) == {"sweeps/evening/trials/0001/a": b"x"}


def test_a_root_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for root in ("runs", "./runs", "~/runs", str(tmp_path / "runs")):
        assert Storage(root).local() == tmp_path / "runs"


def test_only_the_root_is_pickled(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("a", b"x")
    content = pickle.dumps(storage)
    assert len(content) < 200 + len(str(tmp_path))
    copy = pickle.loads(content)
    assert (copy.root, copy.read("a")) == (storage.root, b"x")


def test_checking_a_writable_folder_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    Storage(str(tmp_path)).check_writable()
    assert everything(tmp_path) == {"a": b"x"}


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_bytes(b"x")
    return folder / "file" / "runs"


def a_file(folder: Path) -> Path:
    (folder / "file").write_bytes(b"x")
    return folder / "file"


def read_only(folder: Path) -> Path:
    if os.geteuid() == 0:
        pytest.skip("root can write anywhere")
    folder.chmod(0o500)
    return folder


UNWRITABLE = {
    "below a file": below_a_file,
    "a file": a_file,
    "a system folder": lambda folder: Path("/proc/convene"),
    "a read-only folder": read_only,
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_an_unwritable_root_is_reported(case: str, tmp_path: Path) -> None:
    root = UNWRITABLE[case](tmp_path)
    before = everything(tmp_path)
    with pytest.raises(InputError) as raised:
        Storage(str(root)).check_writable()
    assert str(raised.value).startswith(f"storage = {root}: ")
    assert len(str(raised.value)) > len(f"storage = {root}: ")
    assert everything(tmp_path) == before


def test_the_check_finds_a_full_disk(tmp_path: Path) -> None:
    with full_disk(1000), pytest.raises(InputError, match="File too large"):
        Storage(str(tmp_path)).check_writable()
    assert everything(tmp_path) == {}


@pytest.mark.parametrize("root", ["gs://bucket", "s3://", "s3://a", "s3://Bucket/runs", "https://bucket/x"])
def test_an_address_must_have_a_valid_bucket(root: str) -> None:
    with pytest.raises(InputError, match="must be a folder, or s3://BUCKET/PREFIX"):
        Storage(root)
