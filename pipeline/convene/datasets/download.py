"""Downloads of public IDX archives, checked by hash, and of images from an object store."""

import gzip
import hashlib
import logging
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from shutil import copyfileobj
from typing import IO, TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from convene.errors import InputError, WorkError

if TYPE_CHECKING:
    from convene.storage import Storage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """A public data set."""

    mirrors: tuple[str, ...]
    """Addresses to which a file name is appended."""
    files: Mapping[str, str]
    """File names, each with the SHA-256 of the file or of its unpacked bytes.

    Mirrors may compress the same content differently.
    """
    classes: tuple[str, ...]


def _idx_files(train_images: str, train_labels: str, test_images: str, test_labels: str) -> dict[str, str]:
    return {
        "train-images-idx3-ubyte.gz": train_images,
        "train-labels-idx1-ubyte.gz": train_labels,
        "t10k-images-idx3-ubyte.gz": test_images,
        "t10k-labels-idx1-ubyte.gz": test_labels,
    }


ARCHIVES = {
    "mnist": Archive(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        # Hashes of the unpacked bytes.
        files=_idx_files(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        classes=tuple("0123456789"),
    ),
    "fashion-mnist": Archive(
        mirrors=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        files=_idx_files(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
    "kmnist": Archive(
        mirrors=(
            "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
            "https://huggingface.co/datasets/tanganke/kmnist/resolve/"
            "756d43e894032ce8838db8b32e7500c9c3b5d050/raw/",
        ),
        files=_idx_files(
            "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        ),
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
}


def cache_folder(name: str, cache: Path | None = None) -> Path:
    """Return the folder of a data set's files, under `cache`, $CONVENE_CACHE or ~/.cache/convene."""
    if cache is not None:
        return cache / name
    try:
        return Path(os.environ.get("CONVENE_CACHE") or "~/.cache/convene").expanduser() / name
    except RuntimeError as error:
        raise WorkError(f"no folder for downloads: {error} Set CONVENE_CACHE to a folder") from None


def fetch(
    archive: Archive, folder: Path, *, mirrors: Sequence[str] | None = None, timeout_seconds: float = 20.0
) -> None:
    """Download the files of the archive that `folder` lacks or has with another hash.

    Raises:
        WorkError: if no mirror has a file, or the folder is not writable.
    """
    mirrors = archive.mirrors if mirrors is None else mirrors
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, sha256 in archive.files.items():
            path = folder / name
            if not (path.is_file() and _has_hash(path, sha256)):
                _download(path, sha256, [mirror + name for mirror in mirrors], timeout_seconds)
    except OSError as error:
        raise WorkError(
            f"{folder}: downloads cannot be saved: {error.strerror or error}; "
            "set CONVENE_CACHE to another folder"
        ) from None


def _download(path: Path, sha256: str, addresses: Sequence[str], timeout_seconds: float) -> None:
    """Download one file. It gets its final name only after its hash has been checked."""
    failures = []
    for address in addresses:
        # A temporary name of its own, because several processes may download the same file.
        descriptor, temporary = tempfile.mkstemp(prefix=".download-", dir=path.parent)
        partial = Path(temporary)
        try:
            with os.fdopen(descriptor, "wb") as target:
                failure = _fetch_url(address, target, timeout_seconds)
            if failure is None and not _has_hash(partial, sha256):
                failure = "not the original file: its SHA-256 differs"
            if failure is None:
                partial.chmod(0o644)
                partial.replace(path)
                logger.info("Downloaded %s", address)
                return
            failures.append(f"  {address}: {failure}")
        finally:
            partial.unlink(missing_ok=True)
    raise WorkError(
        f"{path.name} could not be downloaded; addresses tried:\n"
        + "\n".join(failures)
        + "\n`--data FOLDER` reads the same files from a folder that already has them"
    )


def _fetch_url(address: str, target: IO[bytes], timeout_seconds: float) -> str | None:
    """Download an address to `target`; return the reason if that failed, else None."""
    try:
        # Some servers reject clients without a name.
        request = Request(address, headers={"User-Agent": "convene"})
        with urlopen(request, timeout=timeout_seconds) as response:
            copyfileobj(response, target)
    except HTTPError as error:
        with error:
            return f"{error.code} {error.reason}"
    except (OSError, HTTPException) as error:
        return str(getattr(error, "reason", "") or error) or type(error).__name__
    return None


def _has_hash(path: Path, sha256: str) -> bool:
    """Return whether the file, or its unpacked content, has the hash."""
    with path.open("rb") as raw:
        if hashlib.file_digest(raw, "sha256").hexdigest() == sha256:
            return True
    digest = hashlib.sha256()
    try:
        with gzip.open(path) as unpacked:
            while block := unpacked.read(1 << 20):
                digest.update(block)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False
    return digest.hexdigest() == sha256


def is_object_uri(source: str) -> bool:
    """Return whether a source is the address of an object store."""
    return source.startswith("s3://")


def fetch_from_store(source: str, cache: Path | None = None) -> Path:
    """Return a local copy of a file or folder `s3://BUCKET/PATH`, copied again only if it has changed.

    Raises:
        InputError: if it does not exist, or the object store does not answer.
        WorkError: if the folder for downloads is not writable.
    """
    # Imported here because it loads pyarrow, which other sources do not need.
    from convene.storage import Storage, StorageError

    parent, _, name = source.rstrip("/").rpartition("/")
    if not re.fullmatch(r"s3://[^/]+(/.*)?", parent):
        raise InputError(f"data.source = {source!r}: must be s3://BUCKET/PATH")
    try:
        store = Storage(parent)
        signature = store.signature(name)
    except (InputError, StorageError) as error:
        raise InputError(f"data.source = {source}: {str(error).removeprefix('storage = ')}") from None
    if not signature:
        raise InputError(f"data.source = {source}: no such file or folder")
    key = hashlib.sha256(f"{source} {signature}".encode()).hexdigest()[:16]
    copies = cache_folder("s3", cache)
    copy = copies / key / name
    if copy.exists():
        return copy
    try:
        _copy_from_store(store, name, copies, key)
    except StorageError:
        raise
    except OSError as error:
        raise WorkError(
            f"{copies}: downloads cannot be saved: {error.strerror or error}; "
            "set CONVENE_CACHE to another folder"
        ) from None
    logger.info("%s: copied to %s", source, copy)
    return copy


def _copy_from_store(store: "Storage", name: str, copies: Path, key: str) -> None:
    """Copy a file or folder to `copies`/`key`, which appears when it is complete."""
    copy = copies / key / name
    copies.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=copies, prefix=".") as scratch, store.local_copy(name) as content:
        (draft := Path(scratch, key)).mkdir()
        shutil.move(content, draft / name)
        try:
            draft.rename(copies / key)
        except OSError:
            if not copy.exists():  # otherwise another process was faster
                raise
