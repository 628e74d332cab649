"""Bytes under one root, each file written whole or not at all."""

import uuid
from pathlib import Path
from typing import final

from pyarrow import fs

from pipeline.errors import InputError


@final
class Storage:
    """Files under `root`, a folder that need not exist yet. Paths are relative, with forward slashes.

    Only the root crosses a process: a worker makes its own Storage of it.
    """

    def __init__(self, root: str) -> None:
        if "://" in root:
            raise InputError(f"storage = {root!r}: must be a folder")
        self.root = str(Path(root).expanduser().absolute())
        self._files = fs.SubTreeFileSystem(self.root, fs.LocalFileSystem())

    def __truediv__(self, path: str) -> "Storage":
        return Storage(f"{self.root}/{path}")

    def __reduce__(self) -> tuple[type["Storage"], tuple[str]]:
        return Storage, (self.root,)

    def local(self, path: str = "") -> Path:
        """The path on this machine, for libraries that open files themselves."""
        return Path(self.root, path)

    def check_writable(self) -> None:
        """Raises InputError where a file cannot be written under the root."""
        probe = f".write-check-{uuid.uuid4().hex}"
        try:
            self.write(probe, b"convene" * 1024)
            self._files.delete_file(probe)
        except OSError as error:
            raise InputError(f"storage = {self.root}: {error.strerror or error}") from None

    def write(self, path: str, data: bytes) -> None:
        """Writes beside the file and renames, so that a reader never sees a part of it."""
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
        with self._files.open_input_file(path) as stream:
            return bytes(stream.read())

    def remove(self, path: str) -> None:
        """Removes a file, where there is one."""
        self.local(path).unlink(missing_ok=True)

    def remove_partial(self) -> None:
        """Removes what writers that were killed left of files right under the root; none may be at work."""
        for partial in self.local().glob(".*.partial"):
            partial.unlink(missing_ok=True)

    def exists(self, path: str = "") -> bool:
        """Whether there is a file or folder."""
        return self.local(path).exists()

    def names(self, path: str = "") -> list[str]:
        """Sorted names of what is in a folder, hidden ones left out; empty where there is no folder."""
        selector = fs.FileSelector(path, allow_not_found=True)
        names = (info.base_name for info in self._files.get_file_info(selector))
        return sorted(name for name in names if not name.startswith("."))
