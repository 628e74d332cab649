"""Bytes under one root, a folder or a place in an object store, each file written whole or not at all."""

import errno
import functools
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

from pyarrow import fs

from convene.errors import ConveneError, InputError

_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?")


class StorageError(ConveneError, OSError):
    """An object store does not take or give a file: it is away, or refuses."""


def is_storage_failure(error: OSError) -> bool:
    """Whether the storage is full or away: what was at work can go on when there is room, or it is back."""
    return isinstance(error, StorageError) or error.errno in (errno.ENOSPC, errno.EDQUOT)


def normalize_root(root: str) -> str:
    """A storage root as it is known everywhere: `s3://BUCKET/PREFIX`, or the absolute path of a folder.

    Raises:
        InputError: if it can be neither.
    """
    if "://" in root:
        address = root.rstrip("/")
        if not _BUCKET.fullmatch(address):
            raise InputError(f"storage = {root!r}: must be a folder, or s3://BUCKET/PREFIX")
        return address
    try:
        path = str(Path(root).expanduser().absolute())
        path.encode()
    except RuntimeError as error:  # no such user
        raise InputError(f"storage = {root!r}: {error}") from None
    except UnicodeEncodeError:
        raise InputError(f"storage = {root!r}: the path must be UTF-8") from None
    return path


@final
class Storage:
    """Files under `root`: a folder, which need not exist yet, or `s3://BUCKET/PREFIX`, whose bucket must.

    Paths are relative, with forward slashes. Only the root crosses a process: a worker makes its own Storage
    of it. An object store's endpoint and credentials are found as pyarrow finds them: in AWS_ENDPOINT_URL,
    AWS_ACCESS_KEY_ID and so on, or by the machine's own role.

    Raises:
        InputError: if the root is neither a folder nor such an address, or the object store does not answer.
    """

    def __init__(self, root: str) -> None:
        self.root, self.is_local = normalize_root(root), "://" not in root
        if self.is_local:
            self._files = fs.SubTreeFileSystem(self.root, fs.LocalFileSystem())
            return
        bucket, _, prefix = self.root.removeprefix("s3://").partition("/")
        try:
            with self._own_errors():
                self._files = fs.SubTreeFileSystem(f"{bucket}/{prefix}", _object_store(bucket))
        except StorageError as error:
            raise InputError(f"storage = {error}") from None

    def __truediv__(self, path: str) -> "Storage":
        return Storage(f"{self.root}/{path}")

    def __reduce__(self) -> tuple[type["Storage"], tuple[str]]:
        return Storage, (self.root,)

    def uri(self, path: str) -> str:
        """Where a file or folder is, to be told to a person."""
        return f"{self.root}/{path}"

    def local(self, path: str = "") -> Path:
        """The path on this machine, where the root is a folder."""
        assert self.is_local, f"{self.root} is no folder"
        return Path(self.root, path)

    @contextmanager
    def local_copy(self, path: str) -> Iterator[Path]:
        """A file or folder for libraries that open files themselves; of an object store it is a copy.

        Raises:
            FileNotFoundError: if there is none.
        """
        if self.is_local:
            yield self.local(path)
            return
        with tempfile.TemporaryDirectory(prefix="convene-") as scratch:
            copy = Path(scratch, path.rpartition("/")[2])
            with self._own_errors():
                if self._files.get_file_info(path).type == fs.FileType.Directory:
                    copy.mkdir()
                fs.copy_files(path, str(copy), self._files, fs.LocalFileSystem())
            yield copy

    @contextmanager
    def staging(self, path: str, last: str) -> Iterator[Path]:
        """A folder on this machine to write files into, which are then those of the folder at `path`.

        Of an object store the files are taken over when the context is left without an error: the one called
        `last` goes first and comes last, so that a folder that has it is whole.
        """
        if self.is_local:
            yield self.local(path)
            return
        with tempfile.TemporaryDirectory(prefix="convene-") as scratch:
            folder = Path(scratch, path.rpartition("/")[2])
            yield folder
            for name in sorted(self.names(path), key=lambda name: name != last):
                self.remove(f"{path}/{name}")
            for file in sorted(folder.iterdir(), key=lambda file: file.name == last):
                self.write(f"{path}/{file.name}", file.read_bytes())

    def check_writable(self) -> None:
        """Raises InputError where a file cannot be written under the root."""
        probe = f".write-check-{uuid.uuid4().hex}"
        try:
            self.write(probe, b"convene" * 1024)
            self._files.delete_file(probe)
        except OSError as error:
            raise InputError(f"storage = {self.root}: {error.strerror or error}") from None

    def write(self, path: str, data: bytes) -> None:
        """Replaces the file, so that a reader never sees a part of it."""
        if self.is_local:
            self._write_beside(path, data)
            return
        with self._own_errors(), self._files.open_output_stream(path) as stream:
            stream.write(data)  # an object is there when all of it is

    def _write_beside(self, path: str, data: bytes) -> None:
        parent, _, name = path.rpartition("/")
        if parent or not self.local().is_dir():
            self._files.create_dir(parent or ".", recursive=True)
        beside = f"{parent}/" if parent else ""
        partial = f"{beside}.{name}.{uuid.uuid4().hex}.partial"
        try:
            with self._files.open_output_stream(partial) as stream:
                stream.write(data)
            self._files.move(partial, path)
        except BaseException:
            self.local(partial).unlink(missing_ok=True)
            raise

    def read(self, path: str) -> bytes:
        """The whole file. Raises FileNotFoundError where there is none."""
        with self._own_errors(), self._files.open_input_file(path) as stream:
            return bytes(stream.read())

    def remove(self, path: str) -> None:
        """Removes a file, where there is one."""
        if self.is_local:
            self.local(path).unlink(missing_ok=True)
        elif self.exists(path):
            with self._own_errors():
                self._files.delete_file(path)

    def remove_partial(self) -> None:
        """Removes what writers that were killed left of files right under the root; none may be at work."""
        if self.is_local:
            for partial in self.local().glob(".*.partial"):
                partial.unlink(missing_ok=True)

    def exists(self, path: str = "") -> bool:
        """Whether there is a file or folder."""
        if self.is_local:
            return self.local(path).exists()
        with self._own_errors():
            return bool(self._files.get_file_info(path).type != fs.FileType.NotFound)

    def state(self, path: str) -> str:
        """Sizes and times of a file, or of all files below a folder; empty where there is none."""
        with self._own_errors():
            found = [self._files.get_file_info(path)]
            if found[0].type == fs.FileType.Directory:
                found = self._files.get_file_info(fs.FileSelector(path, recursive=True))
        files = sorted((file.path, file.size, file.mtime_ns) for file in found if file.is_file)
        return " ".join(map(str, files))

    def names(self, path: str = "") -> list[str]:
        """Sorted names of what is in a folder, hidden ones left out; empty where there is no folder."""
        selector = fs.FileSelector(path, allow_not_found=True)
        try:
            with self._own_errors():
                names = [info.base_name for info in self._files.get_file_info(selector)]
        except NotADirectoryError:
            return []
        return sorted(name for name in names if name and not name.startswith("."))

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        """Turns what an object store has to say into a line, without the number of the request."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            if self.is_local:
                raise
            what = str(error).partition(" (Request ID")[0]
            raise StorageError(f"{self.root}: {what}") from None


@functools.cache
def _object_store(bucket: str) -> fs.FileSystem:
    # A small object then takes one request instead of three.
    uri = f"s3://{bucket}?allow_delayed_open=true"
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return fs.FileSystem.from_uri(uri + (f"&region={region}" if region else ""))[0]  # else it is asked for
