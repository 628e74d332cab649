"""Images in an object store: copied to the cache, where the readers of files find them."""

import hashlib
import logging
import shutil
import tempfile
from pathlib import Path

from convene.datasets.download import cache_folder
from convene.errors import InputError

logger = logging.getLogger(__name__)


def is_address(source: str) -> bool:
    """Whether a source is in an object store."""
    return source.startswith("s3://")


def fetch(source: str, cache: Path | None = None) -> Path:
    """A copy of `s3://BUCKET/PATH`, a file or a folder, made once for each state of what is there.

    Raises:
        InputError: if there is nothing, or the object store does not answer.
    """
    # pyarrow is not for those who read no such images.
    from convene.storage import Storage, StorageError

    parent, _, name = source.rstrip("/").rpartition("/")
    try:
        store = Storage(parent)
        state = store.state(name)
    except (InputError, StorageError) as error:
        raise InputError(f"data.source = {source}: {str(error).removeprefix('storage = ')}") from None
    if not state:
        raise InputError(f"data.source = {source}: there is no such file or folder")
    key = hashlib.sha256(f"{source} {state}".encode()).hexdigest()[:16]
    copies = cache_folder("s3", cache)
    copy = copies / key / name
    if copy.exists():
        return copy
    logger.info("%s: copied to %s", source, copy)
    copies.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=copies, prefix=".") as scratch, store.at_hand(name) as whole:
        (draft := Path(scratch, key)).mkdir()
        shutil.move(whole, draft / name)
        try:
            draft.rename(copies / key)
        except OSError:
            if not copy.exists():  # else another process was quicker
                raise
    return copy
