"""The content of a sweep's MLflow runs: experiment ► sweep ► trials and ensemble."""

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
from convene.tracking.experiment import TrackingLocation
from convene.tracking.run_index import RunIndex, now_milliseconds, parameter_text

STATUSES = {
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.FAIL: "FAILED",
}
"""The MLflow run status for each trial state."""


@dataclass(frozen=True)
class _Written:
    """The content of a trial's run in MLflow so far."""

    run_id: str
    described: bool = False
    """True once the parameters and the data set are known to be there. Writing them twice is harmless."""
    epochs: int = 0
    """Epochs with metrics."""
    ended: bool = False
    """True once the run has its final status."""


@final
class SweepRuns:
    """The writer of a sweep's MLflow runs.

    Every method writes what MLflow is missing, and can be repeated after a failure without duplicates.

    Args:
        location: where MLflow stores runs.
        record: the sweep.
        space: the sweep's search space.
        dataset: the input of every run.
        fresh: whether the sweep is new, so that MLflow has no runs of it yet.
    """

    def __init__(
        self,
        location: TrackingLocation,
        record: SweepRecord,
        space: SearchSpace,
        dataset: Dataset,
        *,
        fresh: bool,
    ) -> None:
        self.location = location
        self.run_id: str | None = None
        """The sweep's own run; None until it is written."""
        self._record, self._space, self._dataset = record, space, dataset
        self._metadata = record.about
        self._index = RunIndex(location, self._metadata, dataset, fresh=fresh)
        self._written: dict[int, _Written] = {}
        self._trial_run_ids: dict[int, str] = {}

    def trial_run_ids(self) -> dict[int, str]:
        """Return the run id of each trial that was written."""
        return dict(self._trial_run_ids)

    def forget(self) -> None:
        """Discard what is known about MLflow's content, after a write that may have failed halfway."""
        self._index.forget()
        self._written.clear()

    def log_sweep(self) -> None:
        """Write the sweep's own run, the parent of all others, and the tags of its experiment."""
        client = self._index.client
        experiment.set_tags(client, self._index.experiment_id, self._space, self._metadata, self._dataset)
        self.run_id = self._index.find("sweep")
        if self.run_id is None:
            self.run_id = self._index.create("sweep", self._metadata.name, now_milliseconds(), None)
        else:
            client.update_run(self.run_id, "RUNNING")
        # MLflow parameters are immutable, but a resumed sweep may have more trials or time.
        existing = {} if self._index.fresh else client.get_run(self.run_id).data.params
        settings = flatten(self._space.base, "data", "search", "ensemble")
        new = {name: value for name, value in settings.items() if name not in existing}
        self._index.log(self.run_id, new, tags={NOTE: self._sweep_note(None)})
        self._index.log_dataset(self.run_id)

    def log_trial(self, view: TrialView) -> None:
        """Bring a trial's run up to date: parameters, new epochs and final status."""
        written = self._written.get(view.number) or self._look_up(view) or self._start(view)
        ends = view.ended is not None and not written.ended
        tags = {"convene.reason": view.reason} if ends and view.reason else {}
        if ends or (view.ended is None and not written.described):
            tags[NOTE] = descriptions.trial(self._record, self._space, view)
        self._log_values(written, view, tags)
        if view.ended is not None and not written.ended:
            self._index.client.set_terminated(written.run_id, STATUSES[view.state], round(view.ended * 1000))
        epochs = max(written.epochs, len(view.epochs))  # the first view of a resumed trial has no epochs
        self._trial_run_ids[view.number] = written.run_id
        self._written[view.number] = _Written(written.run_id, True, epochs, view.ended is not None)

    def _start(self, view: TrialView) -> _Written:
        """Create the run of a trial."""
        name, started = f"{self._metadata.name}/{view.number:03d}", round(view.started * 1000)
        return _Written(self._index.create(str(view.number), name, started, self.run_id))

    def _look_up(self, view: TrialView) -> _Written | None:
        """Find the run of a trial that another process wrote, or this one before a failed write."""
        run_id = self._index.find(str(view.number))
        if run_id is None:
            return None
        client = self._index.client
        run = client.get_run(run_id)
        if view.ended is None and run.info.status != "RUNNING":
            client.update_run(run_id, "RUNNING")  # the trial was resumed
            if "convene.reason" in run.data.tags:
                client.delete_tag(run_id, "convene.reason")
        history = client.get_metric_history(run_id, "valid_loss")
        ended = view.ended is not None and run.info.status == STATUSES[view.state]
        return _Written(run_id, False, max((point.step for point in history), default=0), ended)

    def _log_values(self, written: _Written, view: TrialView, tags: Mapping[str, str]) -> None:
        """Write tags, parameters if they are missing, and the metrics of new epochs, each at its step."""
        from mlflow.entities import Metric, Param, RunTag

        now = now_milliseconds()
        metrics = [
            Metric(name, value, now, epoch.epoch)
            for epoch in view.epochs[written.epochs :]
            for name, value in epoch.metrics().items()
        ]
        settings = {} if written.described else view.settings
        parameters = [
            Param(name, parameter_text(value)) for name, value in settings.items() if value is not None
        ]
        run_tags = [RunTag(name, value) for name, value in tags.items()]
        # The client splits a list that is too long for one request.
        self._index.client.log_batch(written.run_id, metrics, parameters, run_tags)
        if not written.described:
            self._index.log_dataset(written.run_id)

    def log_standings(self, views: Iterable[TrialView], standings: Mapping[int, Standing]) -> None:
        """Write the rank and ensemble weight of each trial to its run, where they have changed."""
        runs = self._index.runs()
        for view in views:
            run, standing = runs.get(str(view.number)), standings.get(view.number)
            if run is None or standing is None:
                continue
            tags = {
                NOTE: descriptions.trial(self._record, self._space, view, standing),
                "convene.rank": str(standing.rank or ""),
                "convene.weight": "" if standing.weight is None else f"{standing.weight:.3f}",
            }
            changed = {name: value for name, value in tags.items() if value != run.data.tags.get(name, "")}
            if changed:
                self._index.log(run.info.run_id, tags=changed)

    def log_ensemble(self, scores: Scores, export: Path) -> None:
        """Write the ensemble's run, with its members and scores, and register the export as a model."""
        client, part = self._index.client, f"ensemble {scores.test_reads}"
        run_id = self._index.find(part)
        if run_id and client.get_run(run_id).info.status == "FINISHED":
            return
        if run_id is None:
            name = f"{self._metadata.name}/ensemble"
            run_id = self._index.create(part, name, now_milliseconds(), self.run_id)
        weights = {f"member.{m.trial:03d}.weight": m.weight for m in scores.ensemble.members}
        self._index.log(
            run_id, {"ensemble.size": len(scores.ensemble.members), **weights}, _metrics(scores.ensemble)
        )
        self._index.log_dataset(run_id)
        model = model_registry.register(client, run_id, export, self._record, self._dataset, scores)
        pages = {m.trial: self._index.page(str(m.trial)) for m in scores.ensemble.members}
        note = descriptions.ensemble(self._record, scores, pages, model)
        self._index.log(run_id, tags={NOTE: note})
        client.set_terminated(run_id, "FINISHED")

    def end_sweep(
        self,
        status: str,
        result: SweepResult | None = None,
        files: tuple[Path, ...] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """End the sweep's run, with its scores and files if there is a result."""
        client = self._index.client
        self.run_id = self.run_id or self._index.find("sweep")
        assert self.run_id, "the sweep's run is written first"
        for file in files:
            client.log_artifact(self.run_id, str(file))
        if result:
            existing = client.get_run(self.run_id).data.metrics
            metrics = {
                **_metrics(result.ensemble),
                "best_single_test_accuracy": result.best_single.test_accuracy,
            }
            changed = {name: score for name, score in metrics.items() if existing.get(name) != score}
            all_tags = {**(tags or {}), NOTE: self._sweep_note(result)}
            self._index.log(self.run_id, metrics=changed, tags=all_tags)
        client.set_terminated(self.run_id, status)

    def log_files(self, part: str, files: Iterable[Path], folder: str) -> bool:
        """Log files to the run of one part of the sweep; see `RunIndex`.

        Returns:
            Whether MLflow has such a run.
        """
        run_id = self._index.find(part)
        if run_id is None:
            return False
        for file in files:
            self._index.client.log_artifact(run_id, str(file), folder)
        return True

    def _sweep_note(self, result: SweepResult | None) -> str:
        """Return the description of the sweep's run, with links to related pages."""
        links = {"Leaderboard": experiment.view_page(self._index.experiment_id, self._metadata.id)}
        if result and (ensemble := self._index.page(f"ensemble {result.test_reads}")):
            links["Ensemble"] = ensemble
            links["Registered model"] = experiment.model_page(descriptions.model_name(self._dataset))
        return descriptions.sweep(self._record, self._space, self._dataset, result, links)


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
