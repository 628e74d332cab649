"""The documents are true: every key of cnn.toml, every link and command of the README."""

import re
import tomllib
from pathlib import Path

import pytest

from convene import cli
from convene.config.schema import SECTIONS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CNN = (ROOT / "search_spaces/cnn.toml").read_text()


def entries() -> dict[str, str]:
    """The comment above each key of cnn.toml, also above those that are commented out, by dotted name."""
    found: dict[str, str] = {}
    section, comment = "", []
    for line in CNN.splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section, comment = match[1], []
        elif match := re.match(r"(?:# )?(\w+) = ", line):
            found[f"{section}.{match[1]}"] = " ".join(comment)
            comment = []
        elif line.startswith("# "):
            comment.append(line[2:])
        else:
            comment = []
    return found


FIELDS = [(section, field) for section, model in SECTIONS.items() for field in model.model_fields]


@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_cnn_toml_has_every_key_with_its_meaning_and_default(section: str, field: str) -> None:
    info = SECTIONS[section].model_fields[field]
    comment = entries()[f"{section}.{field}"]
    assert " ".join((info.description or "").split()) in comment
    stated = comment.rpartition("Default: ")[2].rstrip(".")
    default = list(info.default) if isinstance(info.default, tuple) else info.default
    assert default == (None if stated == "none" else tomllib.loads(f"value = {stated}")["value"])


def test_cnn_toml_has_no_other_key() -> None:
    assert set(entries()) == {f"{section}.{field}" for section, field in FIELDS}


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_every_verb_and_option_of_the_readme_exists() -> None:
    commands = re.findall(r"^convene (.+?)(?:\s+#.*)?$", README, re.MULTILINE)
    assert commands
    for command in commands:
        verb, *words = command.split()
        options = {option for parameter in cli.convene.commands[verb].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, command


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make (\w+)|`make (\w+)`", README, re.MULTILINE)):
        assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), target
