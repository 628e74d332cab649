"""The descriptions on MLflow's pages of a sweep and its parts, in Markdown."""

from collections.abc import Mapping
from typing import Any

from convene import formatting
from convene.config.search_space import SearchSpace
from convene.datasets import Dataset
from convene.records.result import Scores, SweepResult
from convene.records.sweep_record import SweepRecord
from convene.records.trials import Standing, TrialView
from convene.search.trial_state import TrialState

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run or an experiment."""

_MAX_CLASSES = 12  # class names that are listed
_SWEEP_COMMANDS = {
    "show": "show the leaderboard, members and scores",
    "report": "write the report again",
    "resume": "finish the sweep after an interruption",
    "ensemble": "select the members again, without training",
    "ui": "open this page",
}


def trial(record: SweepRecord, space: SearchSpace, view: TrialView, standing: Standing | None = None) -> str:
    """Return the description of a trial's run: its state, scores, rank and searched parameters."""
    lines = [f"**Trial {view.number} of sweep {record.name}**: {_state(view)}."]
    if view.epochs:
        lines.append(_validation(view.epochs[-1].valid_accuracy, view.epochs[-1].valid_loss))
    if standing and standing.rank:
        lines.append(
            f"Rank **{standing.rank}** of {standing.complete} complete trials by {_objective(space)}."
        )
    if standing and standing.weight is not None:
        lines.append(f"Ensemble member with weight **{standing.weight:.3f}**.")
    elif standing:
        lines.append("Not in the ensemble.")
    searched = [
        (f"`{name}`", formatting.code(view.settings[name]))
        for name in space.searched
        if name in view.settings
    ]
    commands = {
        f"{record.command('replay')} {view.number}": "train it again outside Ray and compare the curves",
        f"{record.command('show')} features --trial {view.number}": "show the feature maps of its layers",
    }
    return "\n\n".join(
        [" ".join(lines), *_section("Searched parameters", searched), *_command_section(commands)]
    )


def sweep(
    record: SweepRecord,
    space: SearchSpace,
    dataset: Dataset,
    result: SweepResult | None,
    links: Mapping[str, str],
) -> str:
    """Return the description of a sweep's own run: its results, search space, artifacts and commands.

    Args:
        record: the sweep.
        space: its search space.
        dataset: its data set.
        result: the result of the last final stage, if there was one.
        links: related pages, by title.
    """
    search = space.base.search
    about = (
        f"**Sweep {record.name}**: convolutional networks for {formatting.escape(dataset.name)} "
        f"({len(dataset.train):,} training, {len(dataset.valid):,} validation and {len(dataset.test):,} "
        f"test images). Objective{'s' * (len(search.objectives) > 1)}: {', '.join(search.objectives)}."
    )
    # The page folds all but the first lines away, and a link in the last of these cannot be clicked.
    if result:
        results = _result(result)
    else:
        results = (
            f"Results appear here at the end of the search ({formatting.plural(search.trials, 'trial')})."
        )
    pages = " · ".join(formatting.link(title, page) for title, page in links.items())
    searched = [(f"`{name}`", _domain(parameter.spec)) for name, parameter in space.searched.items()]
    commands = {record.command(command): meaning for command, meaning in _SWEEP_COMMANDS.items()}
    parts = [pages, results, about, _artifacts(result) if result else ""]
    return "\n\n".join(
        [part for part in parts if part]
        + _section("Searched parameters", searched)
        + _command_section(commands)
    )


def ensemble(record: SweepRecord, scores: Scores, pages: Mapping[int, str | None], model: str) -> str:
    """Return the description of an ensemble's run: its members, weights, scores and usage.

    Args:
        record: the sweep.
        scores: the ensemble's scores.
        pages: the pages of the members' runs by trial; None for a member without one.
        model: the URI of the registered version, such as `models:/digits-ensemble/3`.
    """
    members = [
        (
            formatting.link(f"trial {member.trial}", pages.get(member.trial)),
            f"weight {member.weight:.3f}, validation accuracy {formatting.percent(member.valid_accuracy)}, "
            f"test accuracy {formatting.percent(member.test_accuracy)}",
        )
        for member in scores.ensemble.members
    ]
    about = (
        f"**Ensemble of sweep {record.name}**: the weighted mean of the logits of "
        f"{formatting.plural(len(members), 'network')}, selected on validation images only."
    )
    score = (
        f"{_score(scores)} {_validation(scores.ensemble.valid_accuracy, scores.ensemble.valid_loss)} "
        f"{_reads(scores.test_reads)}"
    )
    return "\n\n".join(
        [about, score, formatting.bullets(members), _usage(model), _export(record.command("export"))]
    )


def model(dataset: Dataset) -> str:
    """Return the description of a data set's registered model: its inputs, outputs and usage."""
    channels, height, width = dataset.image_shape
    classes = [formatting.escape(name) for name in dataset.classes]
    more = f" and {len(classes) - _MAX_CLASSES} more" if len(classes) > _MAX_CLASSES else ""
    interface = (
        f"- Input `images`: uint8, 0 to 255, {'greyscale' if channels == 1 else 'RGB'}, "
        f"`[example, {channels}, {height}, {width}]`; the model normalises them itself.\n"
        f"- Outputs `logits` and `probabilities`: float32, `[example, {len(classes)}]`; "
        f"the classes are {', '.join(classes[:_MAX_CLASSES])}{more}, in this order."
    )
    return "\n\n".join(
        [
            f"**Ensembles of convolutional networks for {formatting.escape(dataset.name)}.** Each version "
            "is the ensemble of one sweep: the weighted mean of its networks' logits.",
            interface,
            "`champion` is the version with the lowest validation loss on the current data set. "
            "The test set plays no part in that choice.",
            _usage(f"models:/{model_name(dataset)}@champion"),
        ]
    )


def version(record: SweepRecord, dataset: Dataset, scores: Scores) -> str:
    """Return the description of a version of the registered model: its origin and scores."""
    trials = ", ".join(str(member.trial) for member in scores.ensemble.members)
    return (
        f"Sweep {record.name}, trials {trials}. {_score(scores)} Validation loss: "
        f"{scores.ensemble.valid_loss:.4f}; `champion` is the version with the lowest on the same data "
        f"(fingerprint `{dataset.fingerprint[:12]}`)."
    )


def experiment(dataset: Dataset, links: Mapping[str, str]) -> str:
    """Return the description of a data set's experiment, with links to its views."""
    pages = " · ".join(formatting.link(title, page) for title, page in links.items())
    return f"Convene sweeps: convolutional networks for {formatting.escape(dataset.name)}. {pages}"


def model_name(dataset: Dataset) -> str:
    """Return the name of a data set's registered model."""
    return f"{dataset.name}-ensemble"


def _state(view: TrialView) -> str:
    after = f"after {len(view.epochs)} epoch{'s' * (len(view.epochs) != 1)}"
    texts = {
        TrialState.RUNNING: "running",
        TrialState.COMPLETE: f"complete {after}",
        TrialState.PRUNED: f"pruned {after}",
        TrialState.FAIL: f"failed {after}",
    }
    state = texts[view.state]
    return f"{state}: {formatting.escape(view.reason)}" if view.reason else state


def _validation(accuracy: float, loss: float) -> str:
    return f"Validation accuracy: **{formatting.percent(accuracy)}** (loss {loss:.4f})."


def _objective(space: SearchSpace) -> str:
    return f"`{space.base.search.primary_objective}`"


def _score(scores: Scores) -> str:
    best = scores.best_single
    return (
        f"Test accuracy: **{formatting.percent(scores.ensemble.test_accuracy)}** (95 % interval "
        f"{formatting.interval(scores.ensemble.test_interval)}); best single network, trial {best.trial}: "
        f"{formatting.percent(best.test_accuracy)} ({formatting.interval(best.test_interval)})."
    )


def _reads(count: int) -> str:
    if count == 1:
        return "The test set was read once."
    return f"The test set was read {count} times: scores after the first read may be optimistic."


def _result(result: SweepResult) -> str:
    states, members = result.states, len(result.ensemble.members)
    return (
        f"Ensemble of {formatting.plural(members, 'network')}. {_score(result.scores)} "
        f"{formatting.plural(result.trials, 'trial')}: {states[TrialState.COMPLETE]} complete, "
        f"{states[TrialState.PRUNED]} pruned, {states[TrialState.FAIL]} failed. {_reads(result.test_reads)}"
    )


def _artifacts(result: SweepResult) -> str:
    return (
        "Artifacts: `report.html`, the whole sweep on one page; `trials.parquet`, one row per trial; "
        "`search_space.toml`, which runs the same sweep again. "
        f"The exported ensemble is in {formatting.code(result.export)}."
    )


def _usage(model: str) -> str:
    return f"""In Python:

```python
import mlflow

model = mlflow.pyfunc.load_model("{model}")
model.predict(images)["probabilities"]  # images: uint8 [example, channel, height, width]
```"""


def _export(command: str) -> str:
    return (
        "The artifact folder `export` holds the ensemble as ONNX and as a PyTorch program, with a model "
        f"card. It needs neither MLflow nor Convene. `{command} --to FOLDER` copies it."
    )


def _command_section(commands: Mapping[str, str]) -> list[str]:
    return _section(
        "Commands", [(formatting.code(command), meaning) for command, meaning in commands.items()]
    )


def _section(title: str, items: list[tuple[str, str]]) -> list[str]:
    """Return a list under its title, or nothing if there are no items."""
    return [f"{title}:", formatting.bullets(items)] if items else []


def _domain(table: Mapping[str, Any]) -> str:
    """Return the values and conditions of a searched parameter, from its table in the search-space file."""
    if "choices" in table:
        values = ", ".join(map(formatting.code, table["choices"]))
    else:
        step = f" in steps of {table['step']:g}" if "step" in table else ""
        scale = ", log scale" if table.get("log") else ""
        values = f"{table['low']:g} to {table['high']:g}{step}{scale}"
    conditions = [f"`{name}` = {formatting.code(value)}" for name, value in table.get("when", {}).items()]
    return values + (f"; only if {', '.join(conditions)}" if conditions else "")
