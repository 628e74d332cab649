"""The list of commands in `convene --help`, grouped in the order of use."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import click


@final
class SectionedGroup(click.Group):
    """A group whose help lists its commands by section, each with its first sentence in full."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._sections: dict[str, list[str]] = {}

    def add_sections(self, sections: Mapping[str, Sequence[click.Command]]) -> None:
        """Add commands by section; both keep their order."""
        for title, commands in sections.items():
            self._sections[title] = [command.name or "" for command in commands]
            for command in commands:
                self.add_command(command)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of use, for the help and for shell completion."""
        return [name for names in self._sections.values() for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        width = max(map(len, self.commands))
        for title, names in self._sections.items():
            with formatter.section(title):
                # Padded, so that the sentences of all sections begin in the same column.
                formatter.write_dl([(name.ljust(width), self._sentence(name)) for name in names])

    def _sentence(self, name: str) -> str:
        return self.commands[name].get_short_help_str(limit=1000)
