"""What the report says in words: an answer a question, each from what was recorded."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from convene.ensemble.diagnostics import CalibrationBin, expected_calibration_error, mcnemar_test
from convene.ensemble.selection import EnsembleScore
from convene.ensemble.test_predictions import Predictions
from convene.formatting import interval, join_words, percent, plural, significant
from convene.records.trials import RecordedTrial
from convene.search.trial_state import TrialState
from convene.visualization.figures import Candidate, Figure, simplest, words
from convene.visualization.report.findings import Findings

# What a p-value up to the number is called.
_CHANCE = (
    (0.05, "a difference that chance alone seldom makes"),
    (0.2, "a difference that chance alone sometimes makes"),
    (1.0, "a difference that chance alone often makes"),
)
_FRONT = 12  # trials that are named
_TELLING = 0.05  # importance


def headline(findings: Findings) -> str:
    """The answer, as a title."""
    if findings.result and findings.predictions:
        accuracy = findings.result.ensemble.test_accuracy
        return f"{percent(accuracy, len(findings.predictions.labels))} of the test images right"
    if findings.result:
        return f"{findings.result.ensemble.test_accuracy:.2%} of the test images right"
    ended = [trial for trial in findings.trials if trial.state is not TrialState.RUNNING]
    if findings.ended and ended and all(trial.state is TrialState.FAIL for trial in ended):
        return f"No result: {'the only trial' if len(ended) == 1 else f'all {len(ended)} trials'} failed"
    return f"No result yet: {plural(len(ended), 'trial')} of {findings.space.base.search.trials} ended"


def answer(findings: Findings) -> list[str]:
    """The answer in full: the ensemble, the best single network, and whether they differ."""
    result, predictions = findings.result, findings.predictions
    if not result:
        return [
            _so_far(findings),
            "Nothing is known of the test set: it is opened once, when all trials have ended.",
        ]
    ensemble, single = result.ensemble, result.best_single
    count = len(predictions.labels) if predictions else 10_000
    scores = (
        f"The ensemble of {plural(len(findings.members), 'network')} is right on "
        f"{percent(ensemble.test_accuracy, count)} of the test images "
        f"(95 % interval {interval(ensemble.test_interval, count)}); the best single network, "
        f"trial {single.trial}, on {percent(single.test_accuracy, count)} "
        f"({interval(single.test_interval, count)})."
    )
    return [scores, _difference(predictions, single.trial)] if predictions else [scores]


def _so_far(findings: Findings) -> str:
    ranked = findings.ranked
    if not ranked or not ranked[0].record:
        return "No trial is complete."
    best = ranked[0].record.last
    return (
        f"The best of {plural(len(ranked), 'complete trial')} so far is trial {ranked[0].number}: "
        f"{percent(best.valid_accuracy, findings.valid_images)} of the validation images right."
    )


def _difference(predictions: Predictions, single: int) -> str:
    """What the ensemble changes, on the same images."""
    if len(predictions.members) == 1:
        return "The ensemble is this one network."
    result = mcnemar_test(
        predictions.ensemble_logits, predictions.logits_by_trial[single], predictions.labels
    )
    if not result.first_only + result.second_only:
        return "Both are right on the same images."
    verdict = next(words for most, words in _CHANCE if result.p_value <= most)
    return (
        f"On the same images, the ensemble rights {plural(result.first_only, 'mistake')} of that network "
        f"and adds {result.second_only or 'none'}: {verdict} "
        f"(exact McNemar test, p = {result.p_value:.2g})."
    )


def sizes(ensembled: Sequence[EnsembleScore], chosen: EnsembleScore | None) -> str:
    """What more networks are worth."""
    if len(ensembled) < 2:
        return "There is only one network to choose."
    best = min(ensembled, key=lambda each: each.valid_loss)
    parts = [f"alone the best network has a validation loss of {significant(ensembled[0].valid_loss)}"]
    if chosen and chosen.size > 1:
        parts.append(f"the {chosen.size} that were chosen together {significant(chosen.valid_loss)}")
    if not chosen or best.size != chosen.size:
        parts.append(f"the lowest, {significant(best.valid_loss)}, takes {best.size}")
    sentence = join_words(parts)
    return sentence[0].upper() + sentence[1:] + "."


def search(findings: Findings) -> str:
    """How the trials ended, and which is the best."""
    states = Counter(trial.state for trial in findings.trials)
    stopped = states[TrialState.PRUNED]
    parts = [
        f"{plural(states[TrialState.COMPLETE], 'trial')} ran to the end",
        f"{stopped or 'none'} {'was' if stopped == 1 else 'were'} stopped early",
        f"{states[TrialState.FAIL] or 'none'} failed",
    ]
    if states[TrialState.RUNNING]:
        parts.append(f"{states[TrialState.RUNNING]} had not ended")
    text = join_words(parts)
    sentence = text[0].upper() + text[1:] + "."
    if findings.ranked and (left := findings.ranked[0].record):
        best, value = findings.ranked[0].number, getattr(left.last, findings.objective)
        sentence += f" The best, trial {best}, has a {words(findings.objective)} of {significant(value)}."
    return sentence


def failures(trials: Sequence[RecordedTrial]) -> list[tuple[str, str]]:
    """(reason, trials) of the failed trials, the most frequent reason first."""
    reasons: dict[str, list[int]] = {}
    for trial in trials:
        if trial.state is TrialState.FAIL:
            reasons.setdefault(trial.studied.reason or "no reason was recorded", []).append(trial.number)
    ordered = sorted(reasons.items(), key=lambda item: -len(item[1]))
    return [
        (reason, ", ".join(map(str, numbers[:12])) + (" …" if len(numbers) > 12 else ""))
        for reason, numbers in ordered
    ]


def importance(figure: Figure) -> str:
    """The first of the importances."""
    bars = zip(figure.data[0]["y"], figure.data[0]["x"], strict=True)
    told = [
        f"on {words(name)} ({100 * share:.0f} %)"
        for place, (name, share) in enumerate(bars)
        if place == 0 or share >= _TELLING
    ]
    return f"Most hangs {', then '.join(told[:2])}."


def front(findings: Findings) -> str:
    """Which trials are left where there are several objectives."""
    objectives = join_words([words(objective) for objective in findings.space.base.search.objectives])
    numbers = sorted(findings.front)
    more = [f"{len(numbers) - _FRONT} more"] if len(numbers) > _FRONT else []
    which = join_words([str(number) for number in numbers[:_FRONT]] + more)
    trials = "trial" if len(numbers) == 1 else "trials"
    return f"The search improved {objectives}. No trial beats {trials} {which} in all of these."


def trade_off(candidates: Sequence[Candidate], images: int) -> str:
    """Which network is the simplest that still performs well."""
    chosen = simplest(candidates, images)
    best = max(candidates, key=lambda candidate: (candidate.valid_accuracy, -candidate.parameters))
    what = f"RecordedTrial {chosen.trial}, with {chosen.parameters:,} parameters"
    right = f"it gets {percent(chosen.valid_accuracy, images)} of the validation images right"
    if chosen == best:
        return f"{what}: {right}, and no network with as few or more does better."
    return (
        f"{what}: {right}, within one standard error of the best, trial {best.trial}, with "
        f"{percent(best.valid_accuracy, images)} and {_ratio(best.parameters / chosen.parameters)} "
        "parameters."
    )


def confusions(counts: np.ndarray, classes: Sequence[str]) -> str:
    """The most frequent mistakes."""
    errors = counts - np.diag(np.diag(counts))
    if not errors.any():
        return "No test image is taken for another class."
    order = np.argsort(-errors, axis=None, kind="stable")[:3]
    pairs = [divmod(int(cell), len(classes)) for cell in order if errors.flat[cell]]
    told = [
        f"{classes[truth]} for {classes[said]} ({_times(int(errors[truth, said]))})" for truth, said in pairs
    ]
    return ("Most often it takes " if errors.max() > 1 else "It takes ") + join_words(told) + "."


def calibration(bins: Sequence[CalibrationBin]) -> str:
    """Whether the confidence can be believed."""
    total = sum(each.count for each in bins)
    right = sum(each.correct for each in bins) / total
    sure = sum(each.confidence * each.count for each in bins) / total
    error = expected_calibration_error(list(bins))
    if abs(right - sure) < 0.001:
        tendency = "on the whole it is as sure as it is right"
    else:
        tendency = f"it is {'less' if sure < right else 'more'} sure than it should be"
    return (
        f"Its confidence is {100 * sure:.1f} % on average, and it is right on "
        f"{percent(right, total)}: {tendency}. The expected calibration error is {100 * error:.2g} points."
    )


def hard(predictions: Predictions) -> str:
    """How many images are misclassified."""
    total = len(predictions.labels)
    wrong = int((predictions.ensemble_logits.argmax(axis=1) != predictions.labels).sum())
    return f"{wrong or 'None'} of {total:,} test images {'is' if wrong == 1 else 'are'} misclassified."


def disputes(predictions: Predictions) -> str:
    """How often the members disagree, and what the vote is worth then."""
    votes = predictions.logits.argmax(axis=2)
    split = (votes != votes[0]).any(axis=0)
    if not split.any():
        return "The members agree on every test image: together they are no better than one."
    right = predictions.ensemble_logits.argmax(axis=1) == predictions.labels
    together, alone = (split & right).sum(), (votes == predictions.labels)[:, split].sum(axis=1).mean()
    return (
        f"On {split.sum():,} of {split.size:,} test images the members are not of one mind. "
        f"There the ensemble is right on {together:,}, one member on {_rounded(alone)} on average."
    )


def _ratio(ratio: float) -> str:
    return "as many" if round(ratio, 1) == 1 else f"{_rounded(ratio)} times the"


def _rounded(number: float) -> str:
    """ "2.5", "3,750"."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
