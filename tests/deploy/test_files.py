"""The files under deploy/ are valid for the tools that read them, and expose nothing."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from convene import cli

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())

FILES = [
    DEPLOY / name for name in subprocess.check_output(["git", "ls-files"], cwd=DEPLOY, text=True).split()
]
PAGES = [path for path in FILES if path.suffix == ".md"]
YAML = [path for path in FILES if path.suffix == ".yaml"]


def name_of(path: Path) -> str:
    return str(path.relative_to(DEPLOY))


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def values_of(node: Any, key: str) -> Iterator[Any]:
    """Yield every value of a key, at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from values_of(value, key)
    if isinstance(node, list):
        for value in node:
            yield from values_of(value, key)


# --- Pages ------------------------------------------------------------------------------------------


def test_every_folder_has_a_page_with_a_link_from_the_first_page() -> None:
    first = (DEPLOY / "README.md").read_text()
    for folder in {path.parent for path in FILES} - {DEPLOY}:
        assert (folder / "README.md").exists(), folder
        assert f"]({folder.name}/README.md)" in first, folder


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_a_page_has_a_target(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    for named in re.findall(r"\b(?:deploy|search_spaces|tests)/[\w./-]+\w", page.read_text()):
        assert (ROOT / named).exists() or named.endswith("/.env"), named


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_on_a_page_exists(page: Path) -> None:
    for line in re.findall(r"^convene (.+?)(?:\s+#.*)?$", page.read_text(), re.MULTILINE):
        command, *arguments = line.split()
        options = {option for parameter in cli.convene.commands[command].params for option in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("--")} <= options, line


# --- Secrets and versions ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_holds_a_secret(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\b(?:AKIA|ASIA|GK)[0-9A-Za-z]{14,}", text), "an access key"
    assert not re.search(r"://[^/\s:@]+:[^/\s@]+@", text), "a password in an address"
    assert "PRIVATE KEY" not in text
    for name, value in re.findall(
        r"^\s*(?:export )?(\w*(?:PASSWORD|SECRET|TOKEN)\w*)\s*[:=] ?(.*)$", text, re.M
    ):
        assert not value or value.startswith("${") or value.startswith("$("), f"{name} has a value"


def test_every_image_is_pinned() -> None:
    images = [
        image for path in YAML for document in documents(path) for image in values_of(document, "image")
    ]
    images += re.findall(r"^FROM (\S+)", (DEPLOY / "docker/Dockerfile").read_text(), re.MULTILINE)
    assert len(images) > 5
    for image in images:
        name, _, tag = image.partition("@")[0].rpartition(":")
        assert name and re.search(r"\d+\.\d+", tag), image
        if name.endswith("convene"):
            assert tag.removesuffix("-cuda") == PROJECT["version"], image


# --- The image --------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Return (instruction, arguments) for each instruction of the Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "docker/Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line.strip()]


def test_the_dockerfile_passes_its_linter() -> None:
    if not (TOOLS / "hadolint").exists():
        pytest.skip("hadolint does not exist for this machine")
    linted = subprocess.run(
        [TOOLS / "hadolint", DEPLOY / "docker/Dockerfile"], capture_output=True, check=False
    )
    assert linted.returncode == 0, linted.stdout.decode()


def test_the_files_of_the_image_are_in_git_and_not_ignored() -> None:
    not_ignored = (DEPLOY / "docker/Dockerfile.dockerignore").read_text().split()
    copied = [source for name, rest in instructions() if name == "COPY" for source in rest.split()[:-1]]
    assert {"constraints.txt", "pipeline"} <= set(copied)
    for source in copied:
        subprocess.run(
            ["git", "ls-files", "--error-unmatch", source], cwd=ROOT, check=True, capture_output=True
        )
        assert f"!{source}" in not_ignored, source


def test_the_image_does_not_run_as_root_and_has_the_packages_of_a_cluster() -> None:
    assert [rest for name, rest in instructions() if name == "USER"] == ["1000:1000"]
    runs = " ".join(rest for name, rest in instructions() if name == "RUN")
    assert "--constraint constraints.txt '.[cluster]'" in runs
    packages = {re.split(r"[>=<]", package)[0] for package in PROJECT["optional-dependencies"]["cluster"]}
    assert packages <= {package.lower() for package in PINNED}
    python = next(re.search(r"python:(\d+\.\d+)", rest) for name, rest in instructions() if name == "FROM")
    assert python and f">={python[1]}" == PROJECT["requires-python"]


# --- Images -----------------------------------------------------------------------------------------


def test_an_image_has_the_same_version_in_every_file() -> None:
    """A dump of a newer PostgreSQL, for instance, cannot be restored into an older one."""
    tags: dict[str, set[str]] = {}
    for path in YAML:
        for image in values_of(documents(path), "image"):
            if isinstance(image, str):
                name, _, tag = image.removeprefix("REGISTRY/").rpartition(":")
                tags.setdefault(name.rpartition("/")[2], set()).add(tag.removesuffix("-cuda"))
    assert {"postgres", "convene"} <= set(tags)
    assert {name: found for name, found in tags.items() if len(found) > 1} == {}


# --- MLflow on one machine --------------------------------------------------------------------------

COMPOSE = documents(DEPLOY / "mlflow/compose.yaml")[0]


def test_the_compose_file_matches_its_schema() -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    check = jsonschema.Draft202012Validator(schema)
    check.validate(COMPOSE)
    with pytest.raises(jsonschema.ValidationError, match="helthcheck"):
        check.validate({"services": {"a": {"image": "a", "helthcheck": {}}}})


def test_every_service_has_a_health_check_and_listens_on_this_machine_only() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["healthcheck"]["test"], name
        assert all(port.startswith("${LISTEN:-127.0.0.1}:") for port in service["ports"]), name
    assert any(word.startswith("--allowed-hosts=") for word in COMPOSE["services"]["mlflow"]["command"])


def test_the_example_file_lists_every_secret_without_a_value() -> None:
    example = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "mlflow/.env.example").read_text(), re.MULTILINE))
    required = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "mlflow/compose.yaml").read_text()))
    assert set(example) == required
    assert not any(example.values())
    ignored = subprocess.run(
        ["git", "check-ignore", "deploy/mlflow/.env"], cwd=ROOT, check=False, capture_output=True
    )
    assert ignored.returncode == 0


def test_mounted_files_exist() -> None:
    for service in COMPOSE["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (DEPLOY / "mlflow" / source).is_file(), source


# --- Clouds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_ray_up_accepts_the_file(cloud: str, capsys: pytest.CaptureFixture[str]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(documents(DEPLOY / cloud / "ray-cluster.yaml")[0])
    validate_config(config)
    capsys.readouterr()
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config({**config, "idle_timeout": 5})
    types = config["available_node_types"]
    workers = {name: kind for name, kind in types.items() if name != config["head_node_type"]}
    assert {kind["min_workers"] for kind in workers.values()} == {0}
    for name, kind in types.items():
        node = kind["node_config"]
        spot = bool(
            node.get("InstanceMarketOptions") or node.get("scheduling", {}).get("provisioningModel") == "SPOT"
        )
        assert spot == (name in workers), name
    # Ray's defaults would install packages and expose the dashboard.
    assert not any(config[f"{prefix}setup_commands"] for prefix in ("", "head_", "worker_"))
    head = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head and "--autoscaling-config" in head


# --- SLURM ------------------------------------------------------------------------------------------


def test_the_batch_script_passes_its_linter() -> None:
    script = DEPLOY / "slurm/sweep.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    linted = subprocess.run([TOOLS / "shellcheck", script], capture_output=True, check=False)
    assert linted.returncode == 0, linted.stdout.decode()
