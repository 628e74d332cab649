"""What MLflow's runs show of one sweep: experiment ► sweep ► trials and ensemble."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from convene.config.schema import flatten
from convene.config.search_space import SearchSpace
from convene.datasets import Dataset
from convene.records.result import ScoredEnsemble, Scores, SweepResult
from convene.records.sweep_record import SweepRecord
from convene.records.trials import Standing, TrialView
from convene.search.trial_state import TrialState
from convene.tracking import descriptions, experiment, model_registry
from convene.tracking.descriptions import NOTE
from convene.tracking.experiment import TrackingPlace
from convene.tracking.run_index import RunIndex, now, text

STATUSES = {
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.FAIL: "FAILED",
}
"""The status of a run in MLflow for each state of its trial."""


@dataclass(frozen=True)
class _Shown:
    """What MLflow already has of a trial."""

    run_id: str
    described: bool = False
    """Its parameters and data set; both can be written again without harm."""
    epochs: int = 0
    ended: bool = False


@final
class SweepRuns:
    """Writes what MLflow lacks of a sweep. Every call can be made again, and writes nothing twice.

    Args:
        where: the place to record.
        record: the sweep.
        space: what it searches.
        dataset: recorded as the input of every run.
        fresh: whether the sweep is new, and MLflow need not be asked what it has.
    """

    def __init__(
        self,
        where: TrackingPlace,
        record: SweepRecord,
        space: SearchSpace,
        dataset: Dataset,
        *,
        fresh: bool,
    ) -> None:
        self.where = where
        self.parent: str | None = None
        self._kept, self._space, self._dataset = record, space, dataset
        self._about = record.about
        self._parts = RunIndex(where, self._about, dataset, fresh=fresh)
        self._shown: dict[int, _Shown] = {}
        self._run_ids: dict[int, str] = {}

    def run_ids(self) -> dict[int, str]:
        """The run of each trial that was written."""
        return dict(self._run_ids)

    def forget(self) -> None:
        """After an error: what was written is unknown, and MLflow is asked before the next write."""
        self._parts.forget()
        self._shown.clear()

    def show_sweep(self) -> None:
        """The sweep's own run, the parent of all others, and what its experiment's page is to show."""
        client = self._parts.client
        experiment.show(client, self._parts.experiment_id, self._space, self._about, self._dataset)
        self.parent = self._parts.find("sweep")
        if self.parent is None:
            self.parent = self._parts.create("sweep", self._about.name, now(), None)
        else:
            client.update_run(self.parent, "RUNNING")
        # MLflow's parameters stay as they were first; a sweep that goes on may have more trials or time.
        has = {} if self._parts.fresh else client.get_run(self.parent).data.params
        settings = flatten(self._space.base, "data", "search", "ensemble")
        new = {name: value for name, value in settings.items() if name not in has}
        self._parts.log(self.parent, new, tags={NOTE: self._sweep_note(None)})
        self._parts.log_dataset(self.parent)

    def show_trial(self, view: TrialView) -> None:
        """The trial's run as it is by now: its parameters, each epoch once, its end."""
        shown = self._shown.get(view.number) or self._look_up(view) or self._start(view)
        ends = view.ended is not None and not shown.ended
        tags = {"convene.reason": view.reason} if ends and view.reason else {}
        if ends or (view.ended is None and not shown.described):
            tags[NOTE] = descriptions.trial(self._kept, self._space, view)
        self._log_trial(shown, view, tags)
        if view.ended is not None and not shown.ended:
            self._parts.client.set_terminated(shown.run_id, STATUSES[view.state], round(view.ended * 1000))
        epochs = max(shown.epochs, len(view.epochs))  # a trial that goes on is first shown without its epochs
        self._run_ids[view.number] = shown.run_id
        self._shown[view.number] = _Shown(shown.run_id, True, epochs, view.ended is not None)

    def _start(self, view: TrialView) -> _Shown:
        name, started = f"{self._about.name}/{view.number:03d}", round(view.started * 1000)
        return _Shown(self._parts.create(str(view.number), name, started, self.parent))

    def _look_up(self, view: TrialView) -> _Shown | None:
        """What MLflow has of a trial from an earlier process, or from before it was away."""
        run_id = self._parts.find(str(view.number))
        if run_id is None:
            return None
        client = self._parts.client
        run = client.get_run(run_id)
        if view.ended is None and run.info.status != "RUNNING":
            client.update_run(run_id, "RUNNING")  # it goes on
            if "convene.reason" in run.data.tags:
                client.delete_tag(run_id, "convene.reason")
        history = client.get_metric_history(run_id, "valid_loss")
        ended = view.ended is not None and run.info.status == STATUSES[view.state]
        return _Shown(run_id, False, max((point.step for point in history), default=0), ended)

    def _log_trial(self, shown: _Shown, view: TrialView, tags: Mapping[str, str]) -> None:
        """The parameters once, and a row an epoch, whose step it is."""
        from mlflow.entities import Metric, Param, RunTag

        time = now()
        rows = [
            Metric(name, value, time, epoch.epoch)
            for epoch in view.epochs[shown.epochs :]
            for name, value in epoch.metrics().items()
        ]
        settings = {} if shown.described else view.settings
        parameters = [Param(name, text(value)) for name, value in settings.items() if value is not None]
        told = [RunTag(name, value) for name, value in tags.items()]
        self._parts.client.log_batch(shown.run_id, rows, parameters, told)  # in batches, where there are many
        if not shown.described:
            self._parts.log_dataset(shown.run_id)

    def show_standings(self, views: Iterable[TrialView], standings: Mapping[int, Standing]) -> None:
        """Tells in each trial's run where it stands, now that all have ended. Writes what has changed."""
        runs = self._parts.all()
        for view in views:
            run, standing = runs.get(str(view.number)), standings.get(view.number)
            if run is None or standing is None:
                continue
            wanted = {
                NOTE: descriptions.trial(self._kept, self._space, view, standing),
                "convene.rank": str(standing.rank or ""),
                "convene.weight": "" if standing.weight is None else f"{standing.weight:.3f}",
            }
            changed = {name: value for name, value in wanted.items() if value != run.data.tags.get(name, "")}
            if changed:
                self._parts.log(run.info.run_id, tags=changed)

    def show_ensemble(self, scores: Scores, export: Path) -> None:
        """A run for the ensemble: its members and scores, and the export as a registered model."""
        client, part = self._parts.client, f"ensemble {scores.test_reads}"
        run_id = self._parts.find(part)
        if run_id and client.get_run(run_id).info.status == "FINISHED":
            return
        run_id = run_id or self._parts.create(part, f"{self._about.name}/ensemble", now(), self.parent)
        weights = {f"member.{m.trial:03d}.weight": m.weight for m in scores.ensemble.members}
        self._parts.log(
            run_id, {"ensemble.size": len(scores.ensemble.members), **weights}, _metrics(scores.ensemble)
        )
        self._parts.log_dataset(run_id)
        model = model_registry.register(client, run_id, export, self._kept, self._dataset, scores)
        pages = {m.trial: self._parts.page(str(m.trial)) for m in scores.ensemble.members}
        note = descriptions.ensemble(self._kept, scores, pages, model)
        self._parts.log(run_id, tags={NOTE: note})
        client.set_terminated(run_id, "FINISHED")

    def end_sweep(
        self,
        status: str,
        result: SweepResult | None = None,
        files: tuple[Path, ...] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Closes the sweep's run, with its scores and files where it came to them."""
        client = self._parts.client
        self.parent = self.parent or self._parts.find("sweep")
        assert self.parent, "the sweep's run is the first thing that is written"
        for file in files:
            client.log_artifact(self.parent, str(file))
        if result:
            has = client.get_run(self.parent).data.metrics
            metrics = {
                **_metrics(result.ensemble),
                "best_single_test_accuracy": result.best_single.test_accuracy,
            }
            changed = {name: score for name, score in metrics.items() if has.get(name) != score}
            told = {**(tags or {}), NOTE: self._sweep_note(result)}
            self._parts.log(self.parent, metrics=changed, tags=told)
        client.set_terminated(self.parent, status)

    def add_files(self, part: str, files: Iterable[Path], folder: str) -> bool:
        """Logs files to the run of a part of this sweep; see `Parts`. False where MLflow has no such run."""
        run_id = self._parts.find(part)
        if run_id is None:
            return False
        for file in files:
            self._parts.client.log_artifact(run_id, str(file), folder)
        return True

    def _sweep_note(self, result: SweepResult | None) -> str:
        links = {"Leaderboard": experiment.view_page(self._parts.experiment_id, self._about.id)}
        if result and (ensemble := self._parts.page(f"ensemble {result.test_reads}")):
            links["The ensemble"] = ensemble
            links["Its model"] = experiment.model_page(descriptions.model_name(self._dataset))
        return descriptions.sweep(self._kept, self._space, self._dataset, result, links)


def _metrics(scored: ScoredEnsemble) -> dict[str, float]:
    low, high = scored.test_interval
    return {
        "valid_loss": scored.valid_loss,
        "valid_accuracy": scored.valid_accuracy,
        "test_loss": scored.test_loss,
        "test_accuracy": scored.test_accuracy,
        "test_accuracy_low": low,
        "test_accuracy_high": high,
    }
