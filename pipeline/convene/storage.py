"""Files under a storage root, a folder or an object store, with atomic writes."""

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
    """An object store did not read or write a file: it is unavailable or denies access."""


def is_storage_failure(error: OSError) -> bool:
    """Return whether the storage is full or unavailable, so that work can resume once it is not."""
    return isinstance(error, StorageError) or error.errno in (errno.ENOSPC, errno.EDQUOT)


def normalize_root(root: str) -> str:
    """Return a storage root in its unique form: `s3://BUCKET/PREFIX`, or the absolute path of a folder.

    Raises:
        InputError: if it is neither.
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
    """Files under a root: a folder, or `s3://BUCKET/PREFIX`.

    The folder need not exist yet; the bucket must. Paths are relative, with forward slashes. Only the root is
    pickled: another process creates its own connection. pyarrow finds the endpoint and the credentials of an
    object store in AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and so on, or from the machine's role.

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
            with self._storage_errors():
                self._files = fs.SubTreeFileSystem(f"{bucket}/{prefix}", _object_store(bucket))
        except StorageError as error:
            raise InputError(f"storage = {error}") from None

    def __truediv__(self, path: str) -> "Storage":
        return Storage(f"{self.root}/{path}")

    def __reduce__(self) -> tuple[type["Storage"], tuple[str]]:
        return Storage, (self.root,)

    def uri(self, path: str) -> str:
        """Return the full path or address of a file or folder, for messages."""
        return f"{self.root}/{path}"

    def local(self, path: str = "") -> Path:
        """Return the local path of a file or folder. The root must be a folder."""
        assert self.is_local, f"{self.root} is not a folder"
        return Path(self.root, path)

    @contextmanager
    def local_copy(self, path: str) -> Iterator[Path]:
        """Yield the local path of a file or folder, for libraries that open files themselves.

        Files of an object store are copied to a temporary folder.

        Raises:
            FileNotFoundError: if it does not exist.
        """
        if self.is_local:
            yield self.local(path)
            return
        with tempfile.TemporaryDirectory(prefix="convene-") as scratch:
            copy = Path(scratch, path.rpartition("/")[2])
            with self._storage_errors():
                if self._files.get_file_info(path).type == fs.FileType.Directory:
                    copy.mkdir()
                fs.copy_files(path, str(copy), self._files, fs.LocalFileSystem())
            yield copy

    @contextmanager
    def staging(self, path: str, last: str) -> Iterator[Path]:
        """Yield a local folder whose files become those of the folder at `path`.

        Files for an object store are uploaded when the context ends without an error. The file named `last`
        is removed first and uploaded last, so that a folder that has it is complete.
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
        """Check that files can be written under the root.

        Raises:
            InputError: if they cannot.
        """
        probe = f".write-check-{uuid.uuid4().hex}"
        try:
            self.write(probe, b"convene" * 1024)
            self._files.delete_file(probe)
        except OSError as error:
            raise InputError(f"storage = {self.root}: {error.strerror or error}") from None

    def write(self, path: str, data: bytes) -> None:
        """Write or replace a file atomically: readers never see a part of it."""
        if self.is_local:
            self._write_local(path, data)
            return
        with self._storage_errors(), self._files.open_output_stream(path) as stream:
            stream.write(data)  # an object appears only when it is complete

    def _write_local(self, path: str, data: bytes) -> None:
        """Write a temporary file in the same folder, and rename it."""
        parent, _, name = path.rpartition("/")
        if parent or not self.local().is_dir():
            self._files.create_dir(parent or ".", recursive=True)
        folder = f"{parent}/" if parent else ""
        partial = f"{folder}.{name}.{uuid.uuid4().hex}.partial"
        try:
            with self._files.open_output_stream(partial) as stream:
                stream.write(data)
            self._files.move(partial, path)
        except BaseException:
            self.local(partial).unlink(missing_ok=True)
            raise

    def read(self, path: str) -> bytes:
        """Return the content of a file. Raises FileNotFoundError if it does not exist."""
        with self._storage_errors(), self._files.open_input_file(path) as stream:
            return bytes(stream.read())

    def remove(self, path: str) -> None:
        """Remove a file if it exists."""
        if self.is_local:
            self.local(path).unlink(missing_ok=True)
        elif self.exists(path):
            with self._storage_errors():
                self._files.delete_file(path)

    def remove_partial(self) -> None:
        """Remove incomplete files that killed writers left in the root. No writer may be running."""
        if self.is_local:
            for partial in self.local().glob(".*.partial"):
                partial.unlink(missing_ok=True)

    def exists(self, path: str = "") -> bool:
        """Return whether a file or folder exists."""
        if self.is_local:
            return self.local(path).exists()
        with self._storage_errors():
            return bool(self._files.get_file_info(path).type != fs.FileType.NotFound)

    def signature(self, path: str) -> str:
        """Return a string that changes with a file, or with any file in a folder; empty if there is none."""
        with self._storage_errors():
            infos = [self._files.get_file_info(path)]
            if infos[0].type == fs.FileType.Directory:
                infos = self._files.get_file_info(fs.FileSelector(path, recursive=True))
        files = sorted((file.path, file.size, file.mtime_ns) for file in infos if file.is_file)
        return " ".join(map(str, files))

    def names(self, path: str = "") -> list[str]:
        """Return the sorted names of the files and folders in a folder, without hidden ones."""
        selector = fs.FileSelector(path, allow_not_found=True)
        try:
            with self._storage_errors():
                names = [info.base_name for info in self._files.get_file_info(selector)]
        except NotADirectoryError:
            return []
        return sorted(name for name in names if name and not name.startswith("."))

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        """Turn an object store's error into a StorageError of one line, without the request number."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            if self.is_local:
                raise
            message = str(error).partition(" (Request ID")[0]
            raise StorageError(f"{self.root}: {message}") from None


@functools.cache
def _object_store(bucket: str) -> fs.FileSystem:
    # With this option a small object needs one request instead of three.
    uri = f"s3://{bucket}?allow_delayed_open=true"
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    # Without a region, pyarrow requests it from the store.
    return fs.FileSystem.from_uri(uri + (f"&region={region}" if region else ""))[0]
