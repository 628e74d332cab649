"""`convene show` and `convene list` on a real sweep: pictures, numbers and errors."""

import io
import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from convene.cli import terminal
from convene.errors import Interrupted
from convene.records import listing
from convene.records.open_sweep import open_sweep, recorded_data
from convene.records.sweep_record import JOURNAL, SweepRecord
from convene.search.study import Study
from convene.search.study_storage import StudyStorage
from convene.search.trial_state import TrialState
from convene.storage import Storage
from convene.sweep import run
from convene.training import checkpoint
from convene.visualization import model_view, views
from convene.visualization.model_view import ModelView
from convene.visualization.views import ViewOptions
from tests.conftest import Ended, Services, Swept

Command = Callable[..., Ended]


@pytest.fixture
def convene(convene_here: Command) -> Command:
    """Run the command in this process and away from MLflow: nothing answers at its address."""
    return partial(convene_here, MLFLOW_TRACKING_URI="http://127.0.0.1:1", NO_COLOR="1")


@pytest.fixture(scope="module")
def record(swept: Swept) -> SweepRecord:
    return SweepRecord.open(Storage(str(swept.storage)), "small")


@pytest.fixture(scope="module")
def ensemble(record: SweepRecord) -> ModelView:
    """Return the ensemble; views of a single network show its first member."""
    return model_view.load_ensemble(record, recorded_data(record))


@pytest.fixture(scope="module")
def members(swept: Swept) -> list[int]:
    return [member["trial"] for member in swept.outcome["ensemble"]["members"]]


def copy_sweep(swept: Swept, folder: Path, *without: str) -> Path:
    """Copy the sweep to another storage root, without some of its files."""
    shutil.copytree(swept.storage / "sweeps/small", folder / "runs/sweeps/small")
    for name in without:
        (folder / "runs/sweeps/small" / name).unlink()
    return folder / "runs"


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("samples", ["samples.png"]),
        ("filters", ["BEST-filters-layer-1-channel-0.png", "BEST-filters-layer-2-channel-0.png"]),
        ("features", ["BEST-features-layer-1.png", "BEST-features-layer-2.png"]),
        ("errors", ["ensemble-errors.png"]),
        ("confusion", ["ensemble-confusion.png"]),
        ("predict", ["ensemble-predict.png"]),
    ],
)
def test_each_kind_of_picture_is_written(
    swept: Swept, convene: Command, members: list[int], what: str, expected: list[str]
) -> None:
    ended = convene("show", "small", what, "--storage", swept.storage, "--json")
    assert ended.code == 0, ended.err
    files = [Path(file) for file in ended.json["files"]]
    assert [file.name for file in files] == [n.replace("BEST", f"trial-{members[0]:03d}") for n in expected]
    assert {file.parent for file in files} == {swept.storage / "sweeps/small/pictures"}
    for file in files:
        with Image.open(file) as image:
            assert image.format == "PNG"
            assert min(image.size) > 300
    assert not ended.json["logged"]  # without MLflow, the pictures are still saved


@pytest.mark.parametrize("what", ["errors", "confusion", "predict", "filters"])
def test_the_numbers_of_a_picture_fit_80_columns(ensemble: ModelView, what: str) -> None:
    out = Console(width=80, file=io.StringIO())
    numbers = views.KINDS[what](ensemble, ViewOptions()).numbers
    for part in terminal.view_summary(what, numbers, out):
        out.print(part)
    assert isinstance(out.file, io.StringIO)
    lines = out.file.getvalue().splitlines()
    assert lines
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", ["[dog]", "[red]fox", "dog[/]"])
def test_a_class_name_may_look_like_markup(name: str) -> None:
    numbers = {"classes": [name, "cat"], "confusion": [[3, 1], [0, 2]], "right": 5, "images": 6}
    out = Console(width=80, file=io.StringIO())
    table, _ = terminal.view_summary("confusion", numbers, out)
    out.print(table)
    assert isinstance(out.file, io.StringIO)
    assert out.file.getvalue().count(name) == 2


def test_a_large_confusion_matrix_becomes_a_list_of_the_most_frequent_errors() -> None:
    counts = np.eye(40, dtype=int)
    counts[3, 5] = 7
    numbers = {
        "classes": [f"class {n}" for n in range(40)],
        "confusion": counts.tolist(),
        "right": 40,
        "images": 47,
    }
    out = Console(width=80, file=io.StringIO())
    table, count = terminal.view_summary("confusion", numbers, out)
    out.print(table)
    assert isinstance(out.file, io.StringIO)
    assert out.file.getvalue().split()[-5:] == ["7", "class", "3", "class", "5"]
    assert str(count) == "40 of 47 validation images are correct"


@pytest.mark.filterwarnings("ignore")  # warnings of MLflow and SQLAlchemy
def test_pictures_are_logged_to_the_runs_they_show(swept: Swept, convene_here: Command) -> None:
    for what, name in (("samples", "small"), ("filters", "small/BEST"), ("confusion", "small/ensemble")):
        ended = convene_here("show", "small", what, "--storage", swept.storage, "--json")
        assert ended.json["logged"], ended.err
        for file in map(Path, ended.json["files"]):
            name = name.replace("BEST", file.name[6:9])
            with sqlite3.connect(swept.storage / "mlflow.db") as database:
                [(uri,)] = database.execute(
                    "select artifact_uri from runs where name = ?", (name,)
                ).fetchall()
            artifact = Path(uri.removeprefix("file://"), "pictures", file.name)
            assert artifact.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("is_single", [False, True])
def test_errors_and_confusions_match_the_recorded_logits(ensemble: ModelView, is_single: bool) -> None:
    record, data = ensemble.record, ensemble.dataset
    trials = [member.trial for member in ensemble.members]
    if is_single:
        trials = trials[-1:]
        ensemble = model_view.load_trial(record, data, trials[0])
    labels = data.valid.labels
    found = np.mean([checkpoint.load_logits(record.files, t) for t in trials], axis=0).argmax(axis=1)
    confusion = np.array(views.confusion(ensemble, ViewOptions()).numbers["confusion"])
    assert confusion.sum() == len(labels)
    for truth, predicted in np.ndindex(10, 10):
        assert confusion[truth, predicted] == np.sum((labels == truth) & (found == predicted))
    errors = views.errors(ensemble, ViewOptions()).numbers
    assert errors["errors"] == np.sum(labels != found)
    for row in errors["shown"]:
        index = int(row["image"].split()[-1])
        assert (row["truth"], row["predicted"]) == (str(labels[index]), str(found[index]))
    surest = [row["probability"] for row in errors["shown"]]
    assert surest == sorted(surest, reverse=True)


def test_a_file_has_the_same_prediction_as_the_validation_image(ensemble: ModelView, tmp_path: Path) -> None:
    seventh = ensemble.dataset.valid.pixels[7, 0]
    Image.fromarray(seventh).save(tmp_path / "seven.png")
    options = ViewOptions(images=("7", str(tmp_path / "seven.png")))
    by_index, by_file = views.predict(ensemble, options).numbers["predictions"]
    assert by_index["probabilities"] == by_file["probabilities"]
    assert (by_index["truth"], by_file["truth"]) == (str(ensemble.dataset.valid.labels[7]), None)
    assert by_file["image"] == "seven.png"
    assert sum(by_file["probabilities"].values()) == pytest.approx(1, abs=1e-5)  # float32


def test_samples_show_only_classes_with_validation_images(ensemble: ModelView) -> None:
    dataset = ensemble.dataset
    valid = dataset.valid.take(np.flatnonzero(dataset.valid.labels < 2))
    many = tuple(f"class {number}" for number in range(100))
    shown = views.samples(replace(dataset, valid=valid, classes=many), ViewOptions()).numbers["images"]
    assert set(shown) == {"class 0", "class 1"}


def test_the_seed_selects_the_images(ensemble: ModelView) -> None:
    predictions = [
        views.predict(ensemble, ViewOptions(seed=seed)).numbers["predictions"] for seed in (1, 1, 2)
    ]
    assert predictions[0] == predictions[1] != predictions[2]
    assert len({row["image"] for row in predictions[0]}) == 6
    samples = [
        views.samples(ensemble.dataset, ViewOptions(seed=seed)).numbers["images"] for seed in (1, 1, 2)
    ]
    assert samples[0] == samples[1] != samples[2]
    for name, indices in samples[0].items():
        assert {str(ensemble.dataset.valid.labels[index]) for index in indices} == {name}


def test_filters_and_feature_maps_match_the_network(ensemble: ModelView) -> None:
    import torch

    data = ensemble.dataset
    network = ensemble.network()
    block = network.blocks[1]
    assert isinstance(block, torch.nn.Sequential) and isinstance(block[0], torch.nn.Conv2d)
    second = block[0].weight.detach().numpy()
    view = views.filters(ensemble, ViewOptions(layer=2, channel=3))
    [figure] = view.figures.values()
    drawn = figure.axes[0].images[0].get_array()
    assert isinstance(drawn, np.ma.MaskedArray)
    assert set(np.unique(drawn.compressed())) == set(np.unique(second[:, 3].astype(np.float64)))
    assert view.numbers["layers"][0]["largest_weight"] == pytest.approx(np.abs(second[:, 3]).max())

    view = views.features(ensemble, ViewOptions(images=("5",)))
    sizes = [(row["before"], row["after"]) for row in view.numbers["layers"]]
    assert sizes == [([8, 8], [4, 4]), ([4, 4], [2, 2])]
    last = view.figures["features-layer-2"].axes[2].images[0].get_array()
    assert isinstance(last, np.ma.MaskedArray)
    pixels = torch.from_numpy(data.valid.pixels[5:6])
    with torch.inference_mode():
        after = network.blocks((pixels.float() - network.mean) / network.deviation)
    # The maps after the last layer are the input of the network's head, to float32 precision.
    scale = 16  # 2 pixels are enlarged to 32
    assert len(last.compressed()) == after.numel() * scale**2
    np.testing.assert_allclose(np.unique(last.compressed()), np.unique(after), rtol=1e-5, atol=1e-6)


def test_the_leaderboard_members_and_scores_fit_80_columns(swept: Swept, convene: Command) -> None:
    ended = convene("show", "small", "--storage", swept.storage)
    assert ended.code == 0, ended.err
    assert max(map(len, ended.out.splitlines())) <= 80
    assert "\x1b" not in ended.out
    for part in ("learning", "member", "best single", "95 % interval", "8 trials"):
        assert part in ended.out
    content = convene("show", "small", "--storage", swept.storage, "--json").json
    assert content["state"] == "finished"
    assert content["ensemble"] == swept.outcome["ensemble"]
    members = [member["trial"] for member in swept.outcome["ensemble"]["members"]]
    assert [row["trial"] for row in content["trials"][: len(members)]] == members
    assert content["states"] == {k: v for k, v in swept.outcome["states"].items() if v}


def test_a_running_or_interrupted_sweep_can_be_shown(
    swept: Swept, convene: Command, members: list[int], tmp_path: Path
) -> None:
    storage = copy_sweep(swept, tmp_path, "result.json", "trials.parquet")
    cut = SweepRecord.open(Storage(str(storage)), "small")
    options = ("--storage", storage)
    with cut.exclusive():
        assert "is running" in convene("show", "small", *options).out
        assert convene("show", "small", "errors", *options).code == 0
    shown = convene("show", "small", *options)
    assert "is unfinished" in shown.out and f"convene resume small --storage {storage}" in shown.out
    content = convene("show", "small", *options, "--json").json
    assert (content["ensemble"], len(content["trials"])) == (None, 8)
    # The picture shows the members that the final stage would select.
    assert [m.trial for m in model_view.load_ensemble(cut, recorded_data(cut)).members] == members
    assert listing.list_sweeps(storage)[0].state == "unfinished"


def test_an_interrupted_sweep_with_an_ensemble_is_unfinished(
    swept: Swept, convene: Command, tmp_path: Path
) -> None:
    storage = copy_sweep(swept, tmp_path)
    cut = SweepRecord.open(Storage(str(storage)), "small")
    assert cut.result and cut.result.ended
    cut.write_result(replace(cut.result, ended=False))
    shown = convene("show", "small", "--storage", storage).out
    assert "is unfinished" in shown and "best single" in shown
    assert listing.list_sweeps(storage)[0].state == "unfinished"


@pytest.mark.filterwarnings("ignore")  # warnings of MLflow and SQLAlchemy
def test_an_enlarged_and_interrupted_sweep_can_be_resumed(
    swept: Swept, services: Services, convene: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = copy_sweep(swept, tmp_path)
    shutil.copy(services.database, storage / "mlflow.db")
    sweep = open_sweep("small", storage, more=4)
    with pytest.raises(Interrupted, match="convene resume small"), run._resumable(sweep.record):
        run._enlarge(sweep)
        raise KeyboardInterrupt
    shown = convene("show", "small", "--storage", storage).out
    assert "is unfinished; 12 trials requested" in shown and "continue with: convene resume small" in shown
    # All trials have ended, but the process ended before the final stage; resume runs it.
    for _ in range(4):
        sweep.study.tell(sweep.study.ask()[0], TrialState.FAIL, reason="a test")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    ended, resumed = run.resume_sweep("small", storage=storage)
    assert (resumed, ended.ended, ended.trials) == (True, True, 12)
    assert listing.list_sweeps(storage)[0].state == "finished"


def copy_without_epochs(swept: Swept, folder: Path, *reasons: str) -> Path:
    """Copy the sweep as if all its trials had failed in their first epoch."""
    storage = copy_sweep(swept, folder, "result.json", "trials.parquet", "study.journal")
    shutil.rmtree(storage / "sweeps/small/trials")
    record = SweepRecord.open(Storage(str(storage)), "small")
    if reasons:
        study = Study(
            record.space, lambda configuration: None, StudyStorage(journal=record.files / JOURNAL), "small"
        )
        for reason in reasons:
            study.tell(study.ask()[0], TrialState.FAIL, reason=reason)
    return storage


def test_a_sweep_whose_trials_all_failed_names_the_reasons(
    swept: Swept, convene: Command, tmp_path: Path
) -> None:
    storage = copy_without_epochs(swept, tmp_path, "the loss is nan", "no memory")
    shown = convene("show", "small", "--storage", storage)
    assert shown.code == 0
    assert "2 FAIL" in shown.out
    assert "trial 0 failed: the loss is nan" in shown.out and "trial 1 failed: no memory" in shown.out
    ended = convene("show", "small", "confusion", "--storage", storage)
    assert ended.code == 2
    assert "no trial has finished" in ended.err and "the loss is nan" in ended.err
    # The data can still be shown.
    assert convene("show", "small", "samples", "--storage", storage).code == 0


def test_a_sweep_without_trials_can_be_shown(swept: Swept, convene: Command, tmp_path: Path) -> None:
    storage = copy_without_epochs(swept, tmp_path)
    assert "none started" in convene("show", "small", "--storage", storage).out
    assert convene("show", "small", "--storage", storage, "--json").json["trials"] == []
    assert convene("show", "small", "filters", "--storage", storage).code == 2
    assert not (storage / "sweeps/small/study.journal").exists()  # nothing is written


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("nobody", "sweep 'nobody': not found"),
        ("smal errors", "did you mean small"),
        ("small nonsense", "'nonsense' is not one of 'samples', 'filters'"),
        (
            "small errors --trial 99",
            "--trial 99: sweep small has no such trial with a finished epoch; trials with one: 0",
        ),
        ("small errors --trial BEST --ensemble", "cannot be combined"),
        ("small filters --ensemble", "choose one of the members with --trial"),
        ("small filters --layer 3", "--layer 3: trial BEST has convolution layers 1 to 2"),
        ("small filters --layer 0", "has convolution layers 1 to 2"),
        ("small filters --channel 1", "--channel 1: layer 1 of trial BEST has input channel 0;"),
        ("small filters --layer 2 --channel -1", "--channel"),
        ("small features --image 999", "--image 999: validation images are numbered 0 to 143"),
        ("small features --image 1 --image 2", "features accepts one image, got 2"),
        ("small predict --image nowhere.png", "nowhere.png: no such file"),
        ("small predict --image FILE", "cannot be read as an image"),
        ("small confusion --layer 1", "--layer: applies only to filters, features"),
        ("small --trial 1", "--trial: applies only to"),
        ("small samples --to FILE/x", "FILE/x: cannot be written to"),
    ],
)
def test_invalid_arguments_are_rejected(
    swept: Swept, convene: Command, members: list[int], tmp_path: Path, arguments: str, says: str
) -> None:
    (tmp_path / "file").write_text("not an image")
    words = {"BEST": str(members[0]), "FILE": str(tmp_path / "file")}
    for word, value in words.items():
        arguments, says = arguments.replace(word, value), says.replace(word, value)
    to = () if "samples" in arguments or "--trial 1" in arguments else ("--to", tmp_path / "new")
    ended = convene("show", *arguments.split(), "--storage", swept.storage, *(to if " " in arguments else ()))
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "new").exists()


def test_a_network_that_was_not_kept_cannot_be_shown(swept: Swept, convene: Command, tmp_path: Path) -> None:
    storage = copy_sweep(swept, tmp_path)
    gone = swept.outcome["ensemble"]["members"][0]["trial"]
    (storage / f"sweeps/small/trials/{gone:04d}/weights.safetensors").unlink()
    ended = convene("show", "small", "filters", "--storage", storage)
    assert ended.code == 2
    assert f"trial {gone}: its network was not kept" in ended.err
    # Views that need only its logits still work.
    assert convene("show", "small", "errors", "--trial", gone, "--storage", storage).code == 0


@pytest.fixture
def listed_sweeps(swept: Swept, tmp_path: Path) -> Path:
    """Create sweeps beta, alpha and gamma, from oldest to newest; gamma has no result yet."""
    storage = tmp_path / "listed"
    for number, (name, accuracy) in enumerate([("beta", 0.9), ("alpha", 0.8), ("gamma", None)]):
        folder = storage / "sweeps" / name
        folder.mkdir(parents=True)
        about = json.loads((swept.storage / "sweeps/small/sweep.json").read_text())
        (folder / "sweep.json").write_text(
            json.dumps(about | {"name": name, "created": f"2026-01-0{number + 1}T00:00:00+00:00"})
        )
        if accuracy:
            scores = {"valid_accuracy": accuracy, "test_accuracy": 1 - accuracy}
            result = swept.outcome | {"trials": number + 5}
            result["ensemble"] = swept.outcome["ensemble"] | scores
            (folder / "result.json").write_text(json.dumps(result))
    return storage


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["gamma", "alpha", "beta"]),
        (["--sort", "name"], ["alpha", "beta", "gamma"]),
        (["--sort", "valid_accuracy"], ["beta", "alpha", "gamma"]),
        (["--sort", "test_accuracy"], ["alpha", "beta", "gamma"]),
        (["--sort", "trials"], ["alpha", "beta", "gamma"]),
        (["*a*", "--sort", "name"], ["alpha", "beta", "gamma"]),
        (["?e*"], ["beta"]),
        (["delta"], []),
    ],
)
def test_the_list_is_sorted_and_filtered(
    listed_sweeps: Path, convene: Command, arguments: list[str], names: list[str]
) -> None:
    command = ("list", *arguments, "--storage", listed_sweeps)
    assert [sweep["name"] for sweep in convene(*command, "--json").json["sweeps"]] == names
    out = convene(*command).out
    assert sorted(names, key=out.find) == names
    assert names or "no sweep" in out
    assert not names or max(map(len, out.splitlines())) <= 80


def test_an_unknown_sort_key_is_rejected(convene: Command, tmp_path: Path) -> None:
    ended = convene("list", "--sort", "size", "--storage", tmp_path)
    assert ended.code == 2
    assert all(sort in ended.err for sort in listing.SORTS)
