"""The networks that a sweep keeps on disk: those that an ensemble could need, and no more."""

from typing import final

from convene.search.study import Study
from convene.search.trial_state import CANDIDATES, TrialState
from convene.storage import Storage
from convene.training import checkpoint
from convene.training.metrics import Epoch


@final
class NetworkRetention:
    """Removes a trial's network once it cannot become a member.

    Args:
        files: the sweep's folder.
        study: its trials so far, as after a resume.
        keep: networks to keep of the best by loss, and of the best by accuracy.
    """

    def __init__(self, files: Storage, study: Study, keep: int) -> None:
        self._files, self._keep = files, keep
        ended = {trial.number: trial.state for trial in study.trials() if trial.ended is not None}
        self._with_network = checkpoint.trials_with_network(files, ended)
        self._last: dict[TrialState, dict[int, Epoch]] = {state: {} for state in CANDIDATES}
        """Last epochs of the ended trials that have a network."""
        for number, record in checkpoint.load_records(files, self._with_network).items():
            if ended[number] in self._last:
                self._last[ended[number]][number] = record.last

    def end(self, number: int, state: TrialState, last: Epoch | None) -> None:
        """Note how a trial ended, and remove what is no longer needed.

        Raises:
            OSError: if the storage is full or away.
        """
        if state in self._last and last:
            self._last[state][number] = last
        checkpoint.remove_state(self._files, number)
        self._with_network.add(number)
        kept = self._best()
        for other in self._with_network - kept:
            checkpoint.remove_network(self._files, other)
        self._with_network &= kept
        for epochs in self._last.values():  # a trial outside the best never returns to them
            for other in epochs.keys() - kept:
                del epochs[other]

    def _best(self) -> set[int]:
        last = next((epochs for epochs in self._last.values() if epochs), {})
        by_loss = sorted(last, key=lambda number: (last[number].valid_loss, number))
        by_accuracy = sorted(last, key=lambda number: (-last[number].valid_accuracy, number))
        return {*by_loss[: self._keep], *by_accuracy[: self._keep]}
