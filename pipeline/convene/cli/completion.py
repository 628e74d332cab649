"""Shell completion of sweep names."""

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from convene.environment import DEFAULT_STORAGE

if TYPE_CHECKING:
    from convene.storage import Storage


def complete_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the sweeps whose names begin like the word on the command line.

    A bucket is not asked: a shell that completes must not wait for a network. An error completes nothing.
    """
    try:
        return [name for name in _names(_storage(context)) if name.startswith(incomplete)]
    except Exception:  # a message would end up in the middle of the command line
        return []


def complete_files_and_names(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the names of sweeps, and leave those of files to the shell."""
    names = complete_names(context, parameter, incomplete)
    # The item for files comes first: bash drops the items before it.
    return [CompletionItem(incomplete, type="file"), *map(CompletionItem, names)]


def _storage(context: click.Context) -> "Storage":
    from convene.storage import Storage

    return Storage(str(context.params.get("storage") or DEFAULT_STORAGE))


def _names(storage: "Storage") -> list[str]:
    from convene.records import sweep_record

    return sweep_record.names(storage) if storage.is_local else []
