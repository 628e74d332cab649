"""The documents are correct: links, commands, examples, keys and generated parts."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import convene
from convene import cli
from convene.config import search_space
from convene.config.schema import SECTIONS
from tests.architecture import __main__ as architecture
from tests.architecture.source import PACKAGE, ROOT

README = (ROOT / "README.md").read_text()
CNN = (ROOT / "search_spaces/cnn.toml").read_text()
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
LINKED = [*PAGES, *sorted((ROOT / "deploy").rglob("*.md"))]


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str, language: str = "") -> list[str]:
    """Return the contents of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """Return the text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


# --- Search spaces ------------------------------------------------------------------------------------


def entries() -> dict[str, str]:
    """Return the comment above each key of cnn.toml, commented-out keys included, by dotted name."""
    found: dict[str, str] = {}
    section = ""
    comment: list[str] = []
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


@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_the_page_on_search_spaces_has_every_key(section: str, field: str) -> None:
    table = architecture.current(ROOT / "docs/search-spaces.md", section)
    assert f"\n| `{field}` | " in table


@pytest.mark.parametrize(
    ("page", "text"),
    [
        pytest.param(page, text, id=page_id(page))
        for page in PAGES
        for text in blocks(page.read_text(), "toml")
    ],
)
def test_every_search_space_in_the_documents_is_valid(page: Path, text: str) -> None:
    assert search_space.parse(text, source=str(page)).tables


# --- Generated parts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "name"), architecture.generated(), ids=str)
def test_generated_parts_are_up_to_date(file: Path, name: str) -> None:
    expected = architecture.generated()[file, name]
    assert architecture.current(file, name) == expected, "run: python -m tests.architecture --write"


# --- Links and references -----------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text()), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def links() -> Iterator[tuple[Path, str]]:
    for page in LINKED:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
            yield page, target


def test_every_link_resolves() -> None:
    broken = []
    for page, target in links():
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(f"{page_id(page)}: {target}")
    assert not broken


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(page.parent / target).resolve() for page, target in links() if page == ROOT / "README.md"}
    assert set(PAGES) - {ROOT / "README.md"} <= linked


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    """A path with a folder is relative to the package or to the repository."""
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", prose(page.read_text())))
    named -= {"test-output/", "mlruns/", "exports/ensemble/"}  # made by a command
    named -= {"cat/1.png", "dog/2.jpg", "train/", "valid/", "test/"}  # images of a reader's own
    assert not {name for name in named if not any((root / name).exists() for root in (PACKAGE, ROOT))}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_name_that_a_page_locates_is_defined_there(page: Path) -> None:
    for name, file in re.findall(r"`(\w+)` in `((?:\w+/)*\w+\.py)`", prose(page.read_text())):
        definition = rf"^(?:class |def )?{name}\b"
        assert re.search(definition, (PACKAGE / file).read_text(), re.MULTILINE), f"{name} in {file}"


# --- Commands -----------------------------------------------------------------------------------------


def commands(page: Path, program: str) -> list[str]:
    """Return the command lines of a program in a page's blocks and inline code, without comments."""
    text = page.read_text()
    lines = "\n".join(blocks(text)).replace("\\\n", " ").splitlines()
    inline = re.findall(rf"`({re.escape(program)} [^`]+)`", prose(text))
    found = [line.partition("  #")[0] for line in lines if line.startswith(f"{program} ")]
    return [command.strip() for command in [*found, *inline]]


def of_pages(program: str) -> list[pytest.ParameterSet]:
    return [
        pytest.param(command, id=f"{page_id(page)}: {command}")
        for page in PAGES
        for command in commands(page, program)
    ]


@pytest.mark.parametrize("command", of_pages("convene"))
def test_every_command_of_the_documents_is_understood(command: str) -> None:
    """Parse it, with the options and their types; run nothing."""
    name, *words = shlex.split(command.replace(" KIND", " errors"))[1:]
    assert name in cli.convene.commands or name in ("--help", "COMMAND")
    if words and name != "COMMAND":  # a bare name is a mention
        cli.convene.commands[name].make_context(name, words)


def test_the_documents_show_every_command() -> None:
    shown = {shlex.split(command)[1] for page in PAGES for command in commands(page, "convene")}
    assert set(cli.convene.commands) <= shown


def test_every_option_of_the_documents_exists() -> None:
    known = {option for command in cli.convene.commands.values() for p in command.params for option in p.opts}
    known |= {"--help"}
    for page in PAGES:
        named = re.findall(r"`(--[a-z][a-z-]+)[ `=]", prose(page.read_text()))
        assert set(named) <= known, page


@pytest.mark.parametrize("command", of_pages("python"))
def test_every_python_command_of_the_documents_exists(command: str) -> None:
    """Look for the module or the file, and for the benchmark."""
    from tests.bench.__main__ import BENCHMARKS

    words = command.split()[1:]
    if words[0] != "-m":
        assert (ROOT / words[0]).exists()
        return
    path = ROOT / words[1].replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()
    if words[1] == "tests.bench":
        assert set(words[2:]) <= {*BENCHMARKS, "NAME"}


def test_every_make_target_of_the_documents_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {command.split()[1] for page in PAGES for command in commands(page, "make")}
    assert targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


# --- Content ------------------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 8_000


@pytest.mark.parametrize("picture", sorted((ROOT / "docs/images").glob("*.png")), ids=page_id)
def test_pictures_are_small_and_shown(picture: Path) -> None:
    assert picture.stat().st_size < 120_000
    assert f"({page_id(picture)})" in README


def test_the_page_on_python_has_every_public_name() -> None:
    page = (ROOT / "docs/python.md").read_text()
    assert [name for name in convene.__all__ if not re.search(rf"`{name}\b", page)] == []


def test_the_page_on_results_has_every_key_of_a_result() -> None:
    page = (ROOT / "docs/results.md").read_text()
    keys = [field.name for field in dataclasses.fields(convene.SweepResult)]
    assert [key for key in keys if f"\n| `{key}` | " not in page] == []


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    (code,) = blocks(README, "python")
    assert code in (ROOT / "docs/python.md").read_text()
    (tmp_path / "search_spaces").symlink_to(ROOT / "search_spaces")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    accuracy, export = done.stdout.split()
    assert float(accuracy) > 0.9
    assert (Path(export) / "model.onnx").exists()


# --- Files for other tools ----------------------------------------------------------------------------


def check_schema(schema: str, file: str) -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [program, "--builtin-schema", schema, file], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_citation_is_valid_and_of_this_version() -> None:
    check_schema("vendor.citation-file-format", "CITATION.cff")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_hosted_workflow_is_valid_and_runs_ci() -> None:
    check_schema("vendor.github-workflows", ".github/workflows/ci.yml")
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["ci"]["steps"]
    assert steps[-1] == {"run": ".ci/run"}
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_pre_commit_runs_the_linters_of_make_lint() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"  # nothing is fetched
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    for hook in repository["hooks"]:
        tool, *words = hook["entry"].removeprefix(".venv/bin/").split()
        assert f"$(bin)/{' '.join([tool, *words[:1]])}" in lint
