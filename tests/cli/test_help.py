"""The list of commands, shell completion, and the first steps: what a newcomer sees first."""

import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from convene import cli
from convene.cli.list import _FIRST_STEPS
from convene.config import search_space
from tests.conftest import Ended

Command = Callable[..., Ended]


def test_the_help_lists_every_command_once_in_the_order_of_use(convene_here: Command) -> None:
    text = convene_here("--help").out
    sections = re.split(r"^(\w[\w ]*):\n", text, flags=re.MULTILINE)
    assert sections[3::2] == ["Search", "Look", "Use the ensemble", "On a cluster"]
    listed = re.findall(r"^  (\w+) ", "".join(sections[4::2]), re.MULTILINE)
    assert sorted(listed) == sorted(cli.convene.commands)
    assert listed[:2] == ["preflight", "sweep"]


def test_the_help_has_the_first_sentence_of_every_command_in_full(convene_here: Command) -> None:
    text = " ".join(convene_here("--help", COLUMNS="80").out.split())
    for name, command in cli.convene.commands.items():
        sentence = " ".join((command.help or "").partition("\n\n")[0].split())
        assert f" {name} {sentence.rstrip('.')}" in text
    assert "..." not in text.replace("[ARGS]...", "")


def test_the_first_steps_need_no_file_that_a_wheel_lacks(convene_here: Command, tmp_path: Path) -> None:
    ended = convene_here("list", folder=tmp_path)
    assert ended.code == 0
    assert "no sweeps under mlruns" in ended.out
    assert "search_spaces" not in ended.out
    example = "\n".join(re.findall(r"^  (.*)$", _FIRST_STEPS, re.MULTILINE))
    assert set(search_space.parse(example).searched) == {"network.width"}


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a folder with a storage root that holds three sweeps."""
    for name in ("digits", "digits-2", "mnist"):
        folder = tmp_path / "mlruns/sweeps" / name
        folder.mkdir(parents=True)
        (folder / "sweep.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def completions(*words: str, incomplete: str) -> list[tuple[str, str]]:
    found = ShellComplete(cli.convene, {}, "convene", "_CONVENE_COMPLETE").get_completions(
        list(words), incomplete
    )
    return [(item.type, item.value) for item in found]


NAMED = [
    name
    for name, command in cli.convene.commands.items()
    if any(isinstance(each, click.Argument) and each.name in ("name", "pattern") for each in command.params)
]


@pytest.mark.parametrize("command", NAMED)
@pytest.mark.usefixtures("recorded")
def test_every_command_on_a_sweep_completes_its_name(command: str) -> None:
    assert completions(command, incomplete="di") == [("plain", "digits"), ("plain", "digits-2")]


@pytest.mark.parametrize("command", ["sweep", "submit"])
@pytest.mark.usefixtures("recorded")
def test_a_command_on_a_file_or_a_sweep_completes_both(command: str) -> None:
    assert completions(command, incomplete="mn") == [("file", "mn"), ("plain", "mnist")]


def test_names_are_those_of_the_storage_on_the_command_line(recorded: Path) -> None:
    (recorded / "mlruns").rename(recorded / "other")
    assert completions("show", incomplete="") == []
    assert len(completions("show", "--storage", "other", incomplete="")) == 3


@pytest.mark.parametrize("storage", ["s3://bucket/prefix", "s3://", "/proc/1/mem", "nowhere"])
def test_a_storage_that_cannot_be_read_completes_nothing(storage: str) -> None:
    assert completions("show", "--storage", storage, incomplete="") == []


def test_commands_are_completed_in_the_order_of_use() -> None:
    assert [value for _, value in completions(incomplete="s")][:2] == ["sweep", "show"]
