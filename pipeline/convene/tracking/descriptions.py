"""What MLflow's pages say of a sweep and its parts, in Markdown."""

from collections.abc import Mapping
from typing import Any

from convene import formatting
from convene.config.search_space import SearchSpace
from convene.datasets import Dataset
from convene.records.result import Scores, SweepResult
from convene.records.sweep_record import SweepRecord
from convene.records.trials import Standing, TrialView
from convene.search.trial_state import TrialState
from convene.training.metrics import Epoch

NOTE = "mlflow.note.content"
"""The tag of a run or an experiment that MLflow shows as its description."""

_CLASSES = 12  # names of classes that are told
_VERBS = {
    "show": "its leaderboard, members and scores",
    "report": "its report, written again",
    "resume": "finish it, where it was cut off",
    "ensemble": "choose the members again, without training",
    "ui": "this page",
}


def trial(record: SweepRecord, space: SearchSpace, view: TrialView, standing: Standing | None = None) -> str:
    """Of a trial's run: what it is, how it ended, how good it is, and what was searched."""
    lines = [f"**Trial {view.number} of sweep {record.name}**: {_state(view)}."]
    if view.epochs:
        lines.append(f"{_validated(view.epochs[-1])}.")
    if standing and standing.rank:
        lines.append(
            f"Rank **{standing.rank}** of {standing.complete} complete trials, by {_quality(space)}."
        )
    if standing and standing.weight is not None:
        lines.append(f"A member of the ensemble, with weight **{standing.weight:.3f}**.")
    elif standing:
        lines.append("Not in the ensemble.")
    searched = [
        (f"`{name}`", formatting.code(view.settings[name]))
        for name in space.searched
        if name in view.settings
    ]
    commands = {
        f"{record.command('replay')} {view.number}": "run it again outside Ray and compare the curves",
        f"{record.command('show')} features --trial {view.number}": "the feature maps of its layers",
    }
    return "\n\n".join([" ".join(lines), *_part("Searched", searched), *_commands(commands)])


def sweep(
    record: SweepRecord,
    space: SearchSpace,
    dataset: Dataset,
    result: SweepResult | None,
    links: Mapping[str, str],
) -> str:
    """Of a sweep's own run: what was searched, what came of it, and where that is.

    Args:
        record: its name and folder.
        space: what it searches.
        dataset: its images.
        result: what the final stage found, if there was one.
        links: other pages, by what they show.
    """
    what = (
        f"**Sweep {record.name}**: convolutional networks for {formatting.escape(dataset.name)} "
        f"({len(dataset.train):,} images to train on, {len(dataset.valid):,} to validate by, "
        f"{len(dataset.test):,} to test once). The search improves {', '.join(space.base.search.objectives)}."
    )
    # The page folds all but the first lines away, and takes no click on the last of those.
    found = f"Of {space.base.search.trials} trials the results are told here once all have ended."
    if result:
        found = _result(result)
    pages = " · ".join(formatting.link(what, page) for what, page in links.items())
    searched = [(f"`{name}`", _among(of.spec)) for name, of in space.searched.items()]
    commands = {record.command(verb): meaning for verb, meaning in _VERBS.items()}
    parts = [pages, found, what, _places(result) if result else ""]
    return "\n\n".join([part for part in parts if part] + _part("Searched", searched) + _commands(commands))


def ensemble(record: SweepRecord, scores: Scores, pages: Mapping[int, str | None], model: str) -> str:
    """Of an ensemble's run: its members, weights and scores, and how to use it.

    Args:
        record: the sweep.
        scores: its scores.
        pages: of the members' runs, by trial, as far as there are.
        model: the address of the registered version: `models:/digits-ensemble/3`.
    """
    members = [
        (
            formatting.link(f"trial {member.trial}", pages.get(member.trial)),
            f"weight {member.weight:.3f}, {formatting.percent(member.valid_accuracy)} right in validation, "
            f"{formatting.percent(member.test_accuracy)} in the test",
        )
        for member in scores.ensemble.members
    ]
    reads = "once, for this score" if scores.test_reads == 1 else f"{scores.test_reads} times for this sweep"
    what = (
        f"**The ensemble of sweep {record.name}**: the weighted mean of the logits of "
        f"{len(members)} networks, "
        "chosen by validation images alone."
    )
    score = (
        f"It names {_score(scores)} Of the validation images it names "
        f"{formatting.percent(scores.ensemble.valid_accuracy)} right "
        f"(loss {scores.ensemble.valid_loss:.4f}). "
        f"The test set was read {reads}."
    )
    return "\n\n".join(
        [what, score, formatting.bullets(members), _use(model), _export(record.command("export"))]
    )


def model(dataset: Dataset) -> str:
    """Of a data set's registered model: what its versions are, take and give."""
    channels, height, width = dataset.image_shape
    classes = [formatting.escape(name) for name in dataset.classes]
    more = f" and {len(classes) - _CLASSES} more" if len(classes) > _CLASSES else ""
    takes = (
        f"- Takes `images`: uint8, 0 to 255, {'grey' if channels == 1 else 'RGB'}, "
        f"`[example, {channels}, {height}, {width}]`; the normalisation is inside.\n"
        f"- Gives `logits` and `probabilities`: float32, `[example, {len(classes)}]`; "
        f"the classes are {', '.join(classes[:_CLASSES])}{more}, in this order."
    )
    return "\n\n".join(
        [
            f"**Ensembles of convolutional networks for {formatting.escape(dataset.name)}.** Each version "
            "is that of a sweep: the weighted mean of its networks' logits.",
            takes,
            "`champion` is the version with the least validation loss on the data set as it is now: "
            "the test set chooses nothing.",
            _use(f"models:/{model_name(dataset)}@champion"),
        ]
    )


def version(record: SweepRecord, dataset: Dataset, scores: Scores) -> str:
    """Of a version of the registered model: where it came from and how good it is."""
    trials = ", ".join(str(member.trial) for member in scores.ensemble.members)
    return (
        f"Sweep {record.name}, trials {trials}: {_score(scores)} Its validation loss is "
        f"{scores.ensemble.valid_loss:.4f}: `champion` is the version with the least on the same data "
        f"(fingerprint `{dataset.fingerprint[:12]}`)."
    )


def experiment(dataset: Dataset, links: Mapping[str, str]) -> str:
    """Of the experiment: what it holds, and the views of it that are worth looking at."""
    pages = " · ".join(formatting.link(what, link) for what, link in links.items())
    return f"Convene's sweeps over convolutional networks for {formatting.escape(dataset.name)}. {pages}"


def model_name(dataset: Dataset) -> str:
    """Of the registered model of a data set."""
    return f"{dataset.name}-ensemble"


def _state(view: TrialView) -> str:
    after = f" after {len(view.epochs)} epoch{'s' * (len(view.epochs) != 1)}"
    told = {
        TrialState.RUNNING: "is being trained",
        TrialState.COMPLETE: f"COMPLETE{after}",
        TrialState.PRUNED: f"stopped early{after}",
        TrialState.FAIL: f"failed{after}",
    }
    state = told[view.state]
    return f"{state}: {formatting.escape(view.reason)}" if view.reason else state


def _validated(last: Epoch) -> str:
    right = formatting.percent(last.valid_accuracy)
    return f"It names **{right}** of the validation images right (loss {last.valid_loss:.4f})"


def _quality(space: SearchSpace) -> str:
    return f"`{space.base.search.primary_objective}`"


def _score(scores: Scores) -> str:
    best = scores.best_single
    return (
        f"**{formatting.percent(scores.ensemble.test_accuracy)}** of the test images right (95 % interval "
        f"{formatting.interval(scores.ensemble.test_interval)}); "
        f"the best single network, trial {best.trial}, "
        f"{formatting.percent(best.test_accuracy)} ({formatting.interval(best.test_interval)})."
    )


def _result(result: SweepResult) -> str:
    states, reads = result.states, result.test_reads
    again = ": these scores are no longer those of a first look" if reads > 1 else ""
    return (
        f"The ensemble of {len(result.ensemble.members)} networks names {_score(result.scores)} "
        f"{result.trials} trials: {states[TrialState.COMPLETE]} complete, "
        f"{states[TrialState.PRUNED]} stopped early, "
        f"{states[TrialState.FAIL]} failed. Test set read {reads} time{'s' * (reads > 1)}{again}."
    )


def _places(result: SweepResult) -> str:
    return (
        "Among the artifacts: `report.html`, all of it on one page; `trials.parquet`, a row a trial; "
        "`search_space.toml`, which runs the same sweep again. "
        f"Exported to {formatting.code(result.export)}."
    )


def _use(model: str) -> str:
    return f"""In Python:

```python
import mlflow

model = mlflow.pyfunc.load_model("{model}")
model.predict(images)["probabilities"]  # images: uint8 [example, channel, height, width]
```"""


def _export(command: str) -> str:
    return (
        "The artifact folder `export` has it as ONNX and as a PyTorch program, with its model card, "
        f"and runs without MLflow and without Convene. `{command} --to DIR` writes the same."
    )


def _commands(commands: Mapping[str, str]) -> list[str]:
    return _part("In a terminal", [(formatting.code(command), said) for command, said in commands.items()])


def _part(title: str, items: list[tuple[str, str]]) -> list[str]:
    """A list under its title; nothing where there are no items."""
    return [f"{title}:", formatting.bullets(items)] if items else []


def _among(given: Mapping[str, Any]) -> str:
    """What a parameter is drawn from, and beside what, as its table in the search-space file says."""
    if "choices" in given:
        told = ", ".join(map(formatting.code, given["choices"]))
    else:
        step = f" in steps of {given['step']:g}" if "step" in given else ""
        told = (
            f"{given['low']:g} to {given['high']:g}{step}{', by its logarithm' if given.get('log') else ''}"
        )
    conditions = [f"`{name}` = {formatting.code(value)}" for name, value in given.get("when", {}).items()]
    return told + (f"; only with {', '.join(conditions)}" if conditions else "")
