"""`convene show` and `convene list` on a real sweep: pictures, numbers, and what is asked for in vain."""

import io
import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from convene import cli
from convene.cli import terminal
from convene.errors import Interrupted
from convene.records import listing
from convene.records.open_sweep import open_sweep, recorded_data
from convene.records.sweep_record import JOURNAL, SweepRecord
from convene.search.study import Study
from convene.search.study_storage import StudyStorage
from convene.storage import Storage
from convene.sweep import run
from convene.training import checkpoint
from convene.visualization import model_view, views
from convene.visualization.model_view import Subject
from convene.visualization.views import ViewOptions
from tests.conftest import Ended, Swept

Command = Callable[..., Ended]


@pytest.fixture
def convene(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process, where everything heavy is loaded once, and away from MLflow."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")  # where nothing answers, at once
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["convene", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def record(swept: Swept) -> SweepRecord:
    return SweepRecord.open(Storage(str(swept.storage)), "small")


@pytest.fixture(scope="module")
def chosen(record: SweepRecord) -> Subject:
    """The ensemble. For what is of one network, that of its first member."""
    return model_view.of_ensemble(record, recorded_data(record))


@pytest.fixture(scope="module")
def members(swept: Swept) -> list[int]:
    return [member["trial"] for member in swept.outcome["ensemble"]["members"]]


def copied(swept: Swept, folder: Path, *without: str) -> Path:
    """The sweep under another storage root, without some of its files."""
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
    assert not ended.json["logged"]  # MLflow is away, and no reason to lose a picture


@pytest.mark.parametrize("what", ["errors", "confusion", "predict", "filters"])
def test_the_numbers_of_a_picture_fit_80_columns(chosen: Subject, what: str) -> None:
    out = Console(width=80, file=io.StringIO())
    numbers = views.KINDS[what](chosen, ViewOptions()).numbers
    for part in terminal.exhibit(what, numbers, out):
        out.print(part)
    assert isinstance(out.file, io.StringIO)
    lines = out.file.getvalue().splitlines()
    assert lines
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", ["[dog]", "[red]fox", "dog[/]"])
def test_a_class_may_have_a_name_that_looks_like_markup(name: str) -> None:
    numbers = {"classes": [name, "cat"], "confusion": [[3, 1], [0, 2]], "right": 5, "images": 6}
    out = Console(width=80, file=io.StringIO())
    table, _ = terminal.exhibit("confusion", numbers, out)
    out.print(table)
    assert isinstance(out.file, io.StringIO)
    assert out.file.getvalue().count(name) == 2


def test_a_confusion_matrix_of_many_classes_is_a_list_of_the_most_frequent() -> None:
    counts = np.eye(40, dtype=int)
    counts[3, 5] = 7
    numbers = {
        "classes": [f"class {n}" for n in range(40)],
        "confusion": counts.tolist(),
        "right": 40,
        "images": 47,
    }
    out = Console(width=80, file=io.StringIO())
    table, count = terminal.exhibit("confusion", numbers, out)
    out.print(table)
    assert isinstance(out.file, io.StringIO)
    assert out.file.getvalue().split()[-5:] == ["7", "class", "3", "class", "5"]
    assert str(count) == "40 of 47 validation images are right"


@pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own
def test_pictures_are_among_the_artifacts_of_the_runs_that_they_show(
    swept: Swept, convene: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for what, name in (("samples", "small"), ("filters", "small/BEST"), ("confusion", "small/ensemble")):
        ended = convene("show", "small", what, "--storage", swept.storage, "--json")
        assert ended.json["logged"], ended.err
        for file in map(Path, ended.json["files"]):
            name = name.replace("BEST", file.name[6:9])
            with sqlite3.connect(swept.storage / "mlflow.db") as database:
                [(uri,)] = database.execute(
                    "select artifact_uri from runs where name = ?", (name,)
                ).fetchall()
            artifact = Path(uri.removeprefix("file://"), "pictures", file.name)
            assert artifact.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("alone", [False, True])
def test_errors_and_confusions_are_those_of_the_stored_logits(chosen: Subject, alone: bool) -> None:
    record, data = chosen.record, chosen.dataset
    trials = [member.trial for member in chosen.members]
    if alone:
        trials = trials[-1:]
        chosen = model_view.of_trial(record, data, trials[0])
    labels = data.valid.labels
    found = np.mean([checkpoint.load_logits(record.files, t) for t in trials], axis=0).argmax(axis=1)
    confusion = np.array(views.confusion(chosen, ViewOptions()).numbers["confusion"])
    assert confusion.sum() == len(labels)
    for truth, predicted in np.ndindex(10, 10):
        assert confusion[truth, predicted] == np.sum((labels == truth) & (found == predicted))
    errors = views.errors(chosen, ViewOptions()).numbers
    assert errors["errors"] == np.sum(labels != found)
    for row in errors["shown"]:
        index = int(row["image"].split()[-1])
        assert (row["truth"], row["predicted"]) == (str(labels[index]), str(found[index]))
    surest = [row["probability"] for row in errors["shown"]]
    assert surest == sorted(surest, reverse=True)


def test_a_file_is_predicted_as_the_same_image_by_its_index(chosen: Subject, tmp_path: Path) -> None:
    seventh = chosen.dataset.valid.pixels[7, 0]
    Image.fromarray(seventh).save(tmp_path / "seven.png")
    wish = ViewOptions(images=("7", str(tmp_path / "seven.png")))
    by_index, by_file = views.predict(chosen, wish).numbers["predictions"]
    assert by_index["probabilities"] == by_file["probabilities"]
    assert (by_index["truth"], by_file["truth"]) == (str(chosen.dataset.valid.labels[7]), None)
    assert by_file["image"] == "seven.png"
    assert sum(by_file["probabilities"].values()) == pytest.approx(1, abs=1e-5)  # float32


def test_samples_are_of_classes_that_validation_has(chosen: Subject) -> None:
    dataset = chosen.dataset
    there = dataset.valid.take(np.flatnonzero(dataset.valid.labels < 2))
    many = tuple(f"class {number}" for number in range(100))
    shown = views.samples(replace(dataset, valid=there, classes=many), ViewOptions()).numbers["images"]
    assert set(shown) == {"class 0", "class 1"}


def test_images_are_drawn_by_their_seed(chosen: Subject) -> None:
    drawn = [views.predict(chosen, ViewOptions(seed=seed)).numbers["predictions"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({row["image"] for row in drawn[0]}) == 6
    samples = [views.samples(chosen.dataset, ViewOptions(seed=seed)).numbers["images"] for seed in (1, 1, 2)]
    assert samples[0] == samples[1] != samples[2]
    for name, indices in samples[0].items():
        assert {str(chosen.dataset.valid.labels[index]) for index in indices} == {name}


def test_filters_and_feature_maps_are_the_networks_own(chosen: Subject) -> None:
    data = chosen.dataset
    network = chosen.network()
    second = network.blocks[1][0].weight.detach().numpy()
    exhibit = views.filters(chosen, ViewOptions(layer=2, channel=3))
    [figure] = exhibit.figures.values()
    drawn = figure.axes[0].images[0].get_array()
    assert set(np.unique(drawn.compressed())) == set(np.unique(second[:, 3].astype(np.float64)))
    assert exhibit.numbers["layers"][0]["largest_weight"] == pytest.approx(np.abs(second[:, 3]).max())

    exhibit = views.features(chosen, ViewOptions(images=("5",)))
    sizes = [(row["before"], row["after"]) for row in exhibit.numbers["layers"]]
    assert sizes == [([8, 8], [4, 4]), ([4, 4], [2, 2])]
    last = exhibit.figures["features-layer-2"].axes[2].images[0].get_array()
    import torch

    pixels = torch.from_numpy(data.valid.pixels[5:6])
    with torch.inference_mode():
        after = network.blocks((pixels.float() - network.mean) / network.deviation)
    # What the picture shows after the last layer is what the network's head is given, to float32's digits.
    scale = 16  # 2 pixels are enlarged to 32
    assert len(last.compressed()) == after.numel() * scale**2
    np.testing.assert_allclose(np.unique(last.compressed()), np.unique(after), rtol=1e-5, atol=1e-6)


def test_the_leaderboard_members_and_scores_fit_80_columns(swept: Swept, convene: Command) -> None:
    ended = convene("show", "small", "--storage", swept.storage)
    assert ended.code == 0, ended.err
    assert max(map(len, ended.out.splitlines())) <= 80
    assert "\x1b" not in ended.out
    for part in ("learning", "member", "best single", "95 % of test", "8 trials"):
        assert part in ended.out
    content = convene("show", "small", "--storage", swept.storage, "--json").json
    assert content["state"] == "finished"
    assert content["ensemble"] == swept.outcome["ensemble"]
    members = [member["trial"] for member in swept.outcome["ensemble"]["members"]]
    assert [row["trial"] for row in content["trials"][: len(members)]] == members
    assert content["states"] == {k: v for k, v in swept.outcome["states"].items() if v}


def test_a_sweep_at_work_or_cut_off_shows_what_there_is(
    swept: Swept, convene: Command, members: list[int], tmp_path: Path
) -> None:
    storage = copied(swept, tmp_path, "result.json", "trials.parquet")
    cut = SweepRecord.open(Storage(str(storage)), "small")
    asked = ("--storage", storage)
    with cut.exclusive():
        assert "is running" in convene("show", "small", *asked).out
        assert convene("show", "small", "errors", *asked).code == 0
    shown = convene("show", "small", *asked)
    assert "is unfinished" in shown.out and f"convene resume small --storage {storage}" in shown.out
    content = convene("show", "small", *asked, "--json").json
    assert (content["ensemble"], len(content["trials"])) == (None, 8)
    # The final stage would choose the same members: so does the picture.
    assert [m.trial for m in model_view.of_ensemble(cut, recorded_data(cut)).members] == members
    assert listing.list_sweeps(storage)[0].state == "unfinished"


def test_an_ensemble_of_a_sweep_that_was_cut_off_does_not_make_it_finished(
    swept: Swept, convene: Command, tmp_path: Path
) -> None:
    storage = copied(swept, tmp_path)
    cut = SweepRecord.open(Storage(str(storage)), "small")
    assert cut.result and cut.result.ended
    cut.write_result(replace(cut.result, ended=False))
    shown = convene("show", "small", "--storage", storage).out
    assert "is unfinished" in shown and "best single" in shown
    assert listing.list_sweeps(storage)[0].state == "unfinished"


@pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own
def test_a_sweep_that_is_enlarged_and_cut_off_goes_on_with_resume(
    swept: Swept, convene: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = copied(swept, tmp_path)
    sweep = open_sweep("small", storage, more=4)
    with pytest.raises(Interrupted, match="convene resume small"), run._resumable(sweep.record):
        run._enlarge(sweep)
        raise KeyboardInterrupt
    shown = convene("show", "small", "--storage", storage).out
    assert "is unfinished; of 12 trials" in shown and "go on with: convene resume small" in shown
    # All trials have ended, and the process ended before the final stage did: resume comes to that.
    for _ in range(4):
        sweep.study.tell(sweep.study.ask()[0], "FAIL", reason="a test")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    ended, resumed = run.resume_sweep("small", storage=storage)
    assert (resumed, ended.ended, ended.trials) == (True, True, 12)
    assert listing.list_sweeps(storage)[0].state == "finished"


def never_trained(swept: Swept, folder: Path, *reasons: str) -> Path:
    """The sweep as if all its trials had failed before an epoch was over."""
    storage = copied(swept, folder, "result.json", "trials.parquet", "study.journal")
    shutil.rmtree(storage / "sweeps/small/trials")
    record = SweepRecord.open(Storage(str(storage)), "small")
    if reasons:
        study = Study(
            record.space, lambda configuration: None, StudyStorage(journal=record.files / JOURNAL), "small"
        )
        for reason in reasons:
            study.tell(study.ask()[0], "FAIL", reason=reason)
    return storage


def test_a_sweep_whose_trials_all_failed_says_why(swept: Swept, convene: Command, tmp_path: Path) -> None:
    storage = never_trained(swept, tmp_path, "the loss is nan", "no memory")
    shown = convene("show", "small", "--storage", storage)
    assert shown.code == 0
    assert "2 FAIL" in shown.out
    assert "trial 0 failed: the loss is nan" in shown.out and "trial 1 failed: no memory" in shown.out
    ended = convene("show", "small", "confusion", "--storage", storage)
    assert ended.code == 2
    assert "no trial has finished" in ended.err and "the loss is nan" in ended.err
    # The data is there all the same.
    assert convene("show", "small", "samples", "--storage", storage).code == 0


def test_a_sweep_that_has_hardly_begun_is_shown(swept: Swept, convene: Command, tmp_path: Path) -> None:
    storage = never_trained(swept, tmp_path)
    assert "none has begun" in convene("show", "small", "--storage", storage).out
    assert convene("show", "small", "--storage", storage, "--json").json["trials"] == []
    assert convene("show", "small", "filters", "--storage", storage).code == 2
    assert not (storage / "sweeps/small/study.journal").exists()  # only read


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("nobody", "sweep 'nobody': not found"),
        ("smal errors", "did you mean small"),
        ("small nonsense", "'nonsense' is not one of 'samples', 'filters'"),
        (
            "small errors --trial 99",
            "--trial 99: sweep small has no finished epoch of it; there are trials 0",
        ),
        ("small errors --trial BEST --ensemble", "one of them"),
        ("small filters --ensemble", "name one of its members with --trial"),
        ("small filters --layer 3", "--layer 3: trial BEST has convolution layers 1 to 2"),
        ("small filters --layer 0", "has convolution layers 1 to 2"),
        ("small filters --channel 1", "--channel 1: layer 1 of trial BEST has the input channels 0"),
        ("small filters --layer 2 --channel -1", "--channel"),
        ("small features --image 999", "--image 999: there are validation images 0 to 143"),
        ("small features --image 1 --image 2", "of one image, not of 2"),
        ("small predict --image nowhere.png", "nowhere.png: no such file"),
        ("small predict --image FILE", "cannot be read as an image"),
        ("small confusion --layer 1", "--layer: is for filters, features"),
        ("small --trial 1", "--trial: is for"),
        ("small samples --to FILE/x", "FILE/x: cannot be written to"),
    ],
)
def test_what_is_not_there_is_refused(
    swept: Swept, convene: Command, members: list[int], tmp_path: Path, arguments: str, says: str
) -> None:
    (tmp_path / "file").write_text("no image")
    words = {"BEST": str(members[0]), "FILE": str(tmp_path / "file")}
    for word, value in words.items():
        arguments, says = arguments.replace(word, value), says.replace(word, value)
    to = () if "samples" in arguments or "--trial 1" in arguments else ("--to", tmp_path / "new")
    ended = convene("show", *arguments.split(), "--storage", swept.storage, *(to if " " in arguments else ()))
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "new").exists()


def test_a_network_that_was_not_kept_is_refused(swept: Swept, convene: Command, tmp_path: Path) -> None:
    storage = copied(swept, tmp_path)
    gone = swept.outcome["ensemble"]["members"][0]["trial"]
    (storage / f"sweeps/small/trials/{gone:04d}/weights.safetensors").unlink()
    ended = convene("show", "small", "filters", "--storage", storage)
    assert ended.code == 2
    assert f"trial {gone}: its network was not kept" in ended.err
    # What needs its logits alone is still shown.
    assert convene("show", "small", "errors", "--trial", gone, "--storage", storage).code == 0


@pytest.fixture
def shelf(swept: Swept, tmp_path: Path) -> Path:
    """Sweeps called beta, alpha and gamma, from old to new; gamma has no result yet."""
    storage = tmp_path / "shelf"
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
def test_a_list_is_sorted_and_filtered(
    shelf: Path, convene: Command, arguments: list[str], names: list[str]
) -> None:
    asked = ("list", *arguments, "--storage", shelf)
    assert [sweep["name"] for sweep in convene(*asked, "--json").json["sweeps"]] == names
    out = convene(*asked).out
    assert sorted(names, key=out.find) == names
    assert names or "no sweep" in out
    assert not names or max(map(len, out.splitlines())) <= 80


def test_a_list_is_sorted_by_what_there_is(convene: Command, tmp_path: Path) -> None:
    ended = convene("list", "--sort", "size", "--storage", tmp_path)
    assert ended.code == 2
    assert all(sort in ended.err for sort in listing.SORTS)
