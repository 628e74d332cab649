"""The sentences of the report."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from convene.ensemble.diagnostics import CalibrationBin, expected_calibration_error, mcnemar_test
from convene.ensemble.selection import EnsembleScore
from convene.ensemble.test_predictions import Predictions
from convene.formatting import interval, join_words, percent, plural, significant
from convene.records.trials import RecordedTrial
from convene.search.trial_state import TrialState
from convene.visualization.figures import Candidate, Figure, label, simplest
from convene.visualization.report.data import ReportData

# How often chance alone causes a difference with a p-value up to the limit.
_CHANCE = ((0.05, "rarely"), (0.2, "sometimes"), (1.0, "often"))
_LISTED_TRIALS = 12
_NOTABLE_IMPORTANCE = 0.05


def headline(report: ReportData) -> str:
    """Return the main result as a title."""
    if report.result:
        count = len(report.predictions.labels) if report.predictions else 10_000
        return f"Test accuracy: {percent(report.result.ensemble.test_accuracy, count)}"
    ended = [trial for trial in report.trials if trial.state is not TrialState.RUNNING]
    if report.has_ended and ended and all(trial.state is TrialState.FAIL for trial in ended):
        return f"No result: {'the only trial' if len(ended) == 1 else f'all {len(ended)} trials'} failed"
    return f"No result yet: {len(ended)} of {plural(report.space.base.search.trials, 'trial')} done"


def summary(report: ReportData) -> list[str]:
    """Return the scores of the ensemble and the best single network, and whether they differ."""
    result, predictions = report.result, report.predictions
    if not result:
        return [
            _best_so_far(report),
            "There is no test score: the test set is opened once, after all trials have ended.",
        ]
    ensemble, single = result.ensemble, result.best_single
    count = len(predictions.labels) if predictions else 10_000
    scores = (
        f"The ensemble of {plural(len(report.members), 'network')} has a test accuracy of "
        f"{percent(ensemble.test_accuracy, count)} "
        f"(95 % confidence interval: {interval(ensemble.test_interval, count)}). "
        f"The best single network, trial {single.trial}, has {percent(single.test_accuracy, count)} "
        f"({interval(single.test_interval, count)})."
    )
    return [scores, _difference(predictions, single.trial)] if predictions else [scores]


def _best_so_far(report: ReportData) -> str:
    ranked = report.ranked
    if not ranked or not ranked[0].record:
        return "No trial is complete."
    accuracy = percent(ranked[0].record.last.valid_accuracy, report.valid_images)
    return (
        f"The best of {plural(len(ranked), 'complete trial')} so far is trial {ranked[0].number}, "
        f"with a validation accuracy of {accuracy}."
    )


def _difference(predictions: Predictions, single: int) -> str:
    """Compare the ensemble with the best single network on the same images."""
    if len(predictions.members) == 1:
        return "The ensemble consists of this one network."
    test = mcnemar_test(predictions.ensemble_logits, predictions.logits_by_trial[single], predictions.labels)
    if not test.first_only + test.second_only:
        return "Both classify the same images correctly."
    frequency = next(words for limit, words in _CHANCE if test.p_value <= limit)
    return (
        f"The ensemble corrects {test.first_only or 'none'} of that network's mistakes and makes "
        f"{plural(test.second_only, 'new one')}. Chance alone {frequency} causes such a difference "
        f"(exact McNemar test, p = {test.p_value:.2g})."
    )


def ensemble_sizes(scores: Sequence[EnsembleScore], chosen: EnsembleScore | None) -> str:
    """Describe how the validation loss depends on the number of networks."""
    if len(scores) < 2:
        return "There is only one network to choose from."
    best = min(scores, key=lambda score: score.valid_loss)
    parts = [f"the best single network has a validation loss of {significant(scores[0].valid_loss)}"]
    if chosen and chosen.size > 1:
        parts.append(
            f"the chosen ensemble of {chosen.size} networks reaches {significant(chosen.valid_loss)}"
        )
    if not chosen or best.size != chosen.size:
        parts.append(f"the lowest loss, {significant(best.valid_loss)}, needs {plural(best.size, 'network')}")
    return _sentence(parts)


def search(report: ReportData) -> str:
    """Describe how the trials ended, and name the best."""
    states = Counter(trial.state for trial in report.trials)
    stopped, unfinished = states[TrialState.PRUNED], states[TrialState.RUNNING]
    parts = [
        f"{plural(states[TrialState.COMPLETE], 'trial')} completed",
        f"{stopped or 'none'} {'was' if stopped == 1 else 'were'} stopped early",
        f"{states[TrialState.FAIL] or 'none'} failed",
    ]
    if unfinished:
        parts.append(f"{unfinished} {'is' if unfinished == 1 else 'are'} unfinished")
    text = _sentence(parts)
    if report.ranked and (record := report.ranked[0].record):
        best, value = report.ranked[0].number, getattr(record.last, report.objective)
        text += f" The best, trial {best}, has a {label(report.objective)} of {significant(value)}."
    return text


def failures(trials: Sequence[RecordedTrial]) -> list[tuple[str, str]]:
    """Return the reasons why trials failed, each with its trials, the most frequent first."""
    reasons: dict[str, list[int]] = {}
    for trial in trials:
        if trial.state is TrialState.FAIL:
            reasons.setdefault(trial.studied.reason or "no reason recorded", []).append(trial.number)
    ordered = sorted(reasons.items(), key=lambda item: -len(item[1]))
    return [
        (
            reason,
            ", ".join(map(str, numbers[:_LISTED_TRIALS])) + (" …" if len(numbers) > _LISTED_TRIALS else ""),
        )
        for reason, numbers in ordered
    ]


def importance(figure: Figure) -> str:
    """Name the most important parameters."""
    first, *others = zip(figure.data[0]["y"], figure.data[0]["x"], strict=True)
    text = f"The {label(first[0])} matters most ({100 * first[1]:.0f} % of the total importance)"
    if others and others[0][1] >= _NOTABLE_IMPORTANCE:
        text += f", followed by the {label(others[0][0])} ({100 * others[0][1]:.0f} %)"
    return f"{text}."


def pareto_front(report: ReportData) -> str:
    """Name the trials on the Pareto front."""
    objectives = join_words([label(objective) for objective in report.space.base.search.objectives])
    numbers = sorted(report.pareto_front)
    rest = [f"{len(numbers) - _LISTED_TRIALS} more"] if len(numbers) > _LISTED_TRIALS else []
    trials = join_words([str(number) for number in numbers[:_LISTED_TRIALS]] + rest)
    subject, pronoun = (f"Trial {trials} is", "it") if len(numbers) == 1 else (f"Trials {trials} are", "them")
    return (
        f"The search optimised {objectives}. "
        f"{subject} on the Pareto front: no other trial dominates {pronoun}."
    )


def simplest_network(candidates: Sequence[Candidate], images: int) -> str:
    """Name the smallest network that still performs well."""
    chosen = simplest(candidates, images)
    best = max(candidates, key=lambda candidate: (candidate.valid_accuracy, -candidate.parameters))
    network = f"Trial {chosen.trial} has {chosen.parameters:,} parameters. Its validation accuracy of"
    accuracy = percent(chosen.valid_accuracy, images)
    if chosen == best:
        return f"{network} {accuracy} is the highest; no smaller network is within one standard error of it."
    return (
        f"{network} {accuracy} is within one standard error of the highest, "
        f"{percent(best.valid_accuracy, images)} (trial {best.trial}, with "
        f"{_ratio(best.parameters / chosen.parameters)} parameters)."
    )


def confusions(counts: np.ndarray, classes: Sequence[str]) -> str:
    """Name the most frequent mistakes."""
    errors = counts - np.diag(np.diag(counts))
    if not errors.any():
        return "No test image is misclassified."
    order = np.argsort(-errors, axis=None, kind="stable")[:3]
    pairs = [divmod(int(cell), len(classes)) for cell in order if errors.flat[cell]]
    mistakes = [
        f"{classes[truth]} for {classes[predicted]} ({_times(int(errors[truth, predicted]))})"
        for truth, predicted in pairs
    ]
    verb = "most often mistakes" if errors.max() > 1 else "mistakes"
    return f"The ensemble {verb} {join_words(mistakes)}."


def calibration(bins: Sequence[CalibrationBin]) -> str:
    """Compare the ensemble's confidence with its accuracy."""
    total = sum(each.count for each in bins)
    accuracy = sum(each.correct for each in bins) / total
    confidence = sum(each.confidence * each.count for each in bins) / total
    error = expected_calibration_error(list(bins))
    if abs(accuracy - confidence) < 0.001:
        verdict = "the two match on average"
    else:
        verdict = f"the ensemble is {'underconfident' if confidence < accuracy else 'overconfident'}"
    return (
        f"The mean confidence is {100 * confidence:.1f} % and the accuracy is {percent(accuracy, total)}, so "
        f"{verdict}. The expected calibration error is {100 * error:.2g} percentage points."
    )


def misclassified(predictions: Predictions) -> str:
    """Count the misclassified images."""
    total = len(predictions.labels)
    wrong = int((predictions.ensemble_logits.argmax(axis=1) != predictions.labels).sum())
    return f"{wrong or 'None'} of {total:,} test images {'is' if wrong == 1 else 'are'} misclassified."


def disagreement(predictions: Predictions) -> str:
    """Describe how often the members disagree, and how the ensemble performs on those images."""
    votes = predictions.logits.argmax(axis=2)
    split = (votes != votes[0]).any(axis=0)
    if not split.any():
        return "The members agree on every test image, so the ensemble is no better than any one of them."
    correct = predictions.ensemble_logits.argmax(axis=1) == predictions.labels
    ensemble = (split & correct).sum()
    single = (votes == predictions.labels)[:, split].sum(axis=1).mean()
    return (
        f"The members disagree on {split.sum():,} of {split.size:,} test images. The ensemble classifies "
        f"{ensemble:,} of these correctly; a single member, {_rounded(single)} on average."
    )


def _sentence(clauses: Sequence[str]) -> str:
    text = join_words(clauses)
    return f"{text[0].upper()}{text[1:]}."


def _ratio(ratio: float) -> str:
    return "about as many" if round(ratio, 1) == 1 else f"{_rounded(ratio)} times as many"


def _rounded(number: float) -> str:
    """Return a number as in "2.5" or "3,750"."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
