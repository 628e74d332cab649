"""MLflow's pages of a real sweep, from a real server, in a real browser."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import CLEAN, convene
from tests.support.browser import Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

pytestmark = pytest.mark.browser

WAIT = 120_000  # milliseconds; MLflow's pages take one to ten seconds, and the machine may be shared

# No trial is pruned, so that the ensemble has several members.
SPACE = """
[data]
source = "digits"
train_limit = 400

[network]
depth = 2
width = { choices = [4, 8] }

[training]
epochs = 3
learning_rate = { low = 0.005, high = 0.03, log = true }

[search]
trials = 5
scheduler = "none"
sampler = "random"

[ensemble]
size = 3
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Served:
    """A sweep of a few trials, and an MLflow server for it."""

    storage: Path
    port: int
    home: str
    """The page of the experiment, as `convene ui` printed it."""
    outcome: dict[str, Any]

    def run(self, run_id: str) -> str:
        """Return the page of a run."""
        experiment = self.home.partition("/runs")[0]
        return f"{experiment}/runs/{run_id}?workflowType=machine_learning"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    storage, port = tmp_path_factory.mktemp("browser") / "runs", free_port()
    (storage.parent / "small.toml").write_text(SPACE)
    ended = convene("sweep", storage.parent / "small.toml", "--storage", storage, "--json")
    assert ended.code == 0, ended.err
    server = subprocess.Popen(
        [sys.executable, "-m", "convene.cli", "ui", "--storage", storage, "--port", str(port)],
        env=CLEAN,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert server.stdout
    try:
        home = server.stdout.readline().split()[0]
        wait_for(f"http://127.0.0.1:{port}/health")
        yield Served(storage, port, home, ended.json)
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # it has nothing left to write
        server.wait(timeout=30)
        server.stdout.close()


def wait_for(address: str) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"{address} does not answer")


@pytest.fixture(scope="module")
def context(chromium: "Browser") -> Iterator["BrowserContext"]:
    """Yield one profile for all pages, so that MLflow's scripts are loaded once."""
    context = chromium.new_context(viewport={"width": 1600, "height": 1000})
    # MLflow opens a chat at the very first visit.
    context.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    yield context
    context.close()


def open_page(context: "BrowserContext", address: str, awaited: str) -> Visit:
    """Open a page and wait until it contains a text."""
    page = context.new_page()
    visit = Visit(page)
    page.goto(address)
    page.get_by_text(awaited).first.wait_for(timeout=WAIT)
    return visit


def follow_link(visit: Visit, link: str, awaited: str) -> Visit:
    """Click a link in a description, which opens a new page."""
    with visit.page.context.expect_page(timeout=WAIT) as other:
        visit.page.get_by_role("link", name=link, exact=True).first.click()
    other.value.get_by_text(awaited).first.wait_for(timeout=WAIT)
    return Visit(other.value)


def full_description(visit: Visit) -> str:
    """Unfold the description of a run, and return the page as text."""
    visit.page.get_by_text("Show more").first.click()
    visit.page.get_by_text("convene ").first.wait_for(timeout=WAIT)
    return visit.page.locator("body").inner_text()


def test_the_experiment_opens_with_few_columns_and_trials_under_their_sweep(
    served: Served, context: "BrowserContext"
) -> None:
    visit = open_page(context, served.home, "valid_accuracy")
    page = visit.page
    heads = [
        head for head in page.locator(".ag-header-cell-text, [role=columnheader]").all_inner_texts() if head
    ]
    headings = " ".join(heads)
    for column in (
        "test_accuracy",
        "valid_accuracy",
        "valid_loss",
        "network.width",
        "training.learning_rate",
    ):
        assert column in headings, column
    for noise in ("network.activation", "training.seed", "images_per_second", "convene.id", "Dataset"):
        assert noise not in headings, noise
    assert "Convene sweeps" in page.locator("body").inner_text()
    page.get_by_role("link", name="small", exact=True).first.wait_for(timeout=WAIT)
    assert page.get_by_role("link", name="small/000").count() == 0
    page.locator(".ag-row").first.locator("button, [role=button]").first.click()
    page.get_by_role("link", name="small/000").wait_for(timeout=WAIT)
    page.get_by_role("link", name="small/ensemble").wait_for(timeout=WAIT)
    visit.screenshot("mlflow-experiment")


def test_the_leaderboard_is_sorted_by_the_objective(served: Served, context: "BrowserContext") -> None:
    home = open_page(context, served.home, "Leaderboard")
    visit = follow_link(home, "Leaderboard", "Sort: valid_loss")
    visit.page.get_by_role("link", name="small/ensemble").wait_for(timeout=WAIT)
    links = visit.page.get_by_role("link").all_inner_texts()
    names = [link for link in links if link.startswith("small/")]
    ranked = sorted(runs(served).items(), key=lambda run: valid_loss(run[1]))
    assert names == [name for name, _ in ranked if name != "small"]
    visit.screenshot("mlflow-leaderboard")


def test_the_page_of_a_sweep_has_its_results_and_its_report(
    served: Served, context: "BrowserContext"
) -> None:
    answered = convene("ui", "small", "--storage", served.storage, "--port", str(served.port), "--json")
    assert (answered.code, answered.err) == (0, ""), answered.err
    address = answered.json["url"]
    assert address == served.run(served.outcome["mlflow"]["run_id"])

    visit = open_page(context, address, "Ensemble of 3 networks")
    text = full_description(visit)
    scores = served.outcome["ensemble"], served.outcome["best_single"]
    assert all(f"{100 * score['test_accuracy']:.2f} %" in text for score in scores)
    assert "5 trials: 5 complete, 0 pruned, 0 failed" in text
    assert "0.005 to 0.03, log scale" in text
    assert "convene resume small" in text
    visit.screenshot("mlflow-sweep")

    visit.page.get_by_role("tab", name="Artifacts").click()
    for name in ("trials.parquet", "search_space.toml"):
        visit.page.get_by_text(name).first.wait_for(timeout=WAIT)
    visit.page.get_by_text("report.html").first.click()
    report = visit.page.frame_locator("iframe")
    report.locator("html[data-drawn]").wait_for(state="attached", timeout=WAIT)
    assert report.locator("h1").inner_text().startswith("Test accuracy: ")
    visit.screenshot("mlflow-report")


def test_the_page_of_a_trial_has_its_scores_and_its_curve(served: Served, context: "BrowserContext") -> None:
    best = served.outcome["best_single"]
    address = served.run(runs(served)[f"small/{best['trial']:03d}"]["info"]["run_id"])
    visit = open_page(context, address, f"Trial {best['trial']} of sweep small")
    text = full_description(visit)
    assert f"Validation accuracy: {100 * best['valid_accuracy']:.2f} %" in text
    assert "Rank 1 of" in text
    assert "Ensemble member with weight 0.333" in text
    assert "digits (" in text, "its data set"
    visit.screenshot("mlflow-trial")
    visit.page.get_by_role("tab", name="Model metrics").click()
    visit.page.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=WAIT)
    visit.page.wait_for_timeout(1000)  # the curves are drawn after their frames
    visit.screenshot("mlflow-trial-curve")


def test_the_page_of_an_ensemble_has_its_members_and_its_model(
    served: Served, context: "BrowserContext"
) -> None:
    sweep = open_page(context, served.run(served.outcome["mlflow"]["run_id"]), "Ensemble of 3 networks")
    ensemble = follow_link(sweep, "Ensemble", "Ensemble of sweep small")
    text = full_description(ensemble)
    for member in served.outcome["ensemble"]["members"]:
        assert re.search(rf"trial {member['trial']}: weight {member['weight']:.3f}", text), member
    assert 'load_model("models:/digits-ensemble/1")' in text
    assert "digits-ensemble" in text
    ensemble.screenshot("mlflow-ensemble")
    follow_link(ensemble, f"trial {served.outcome['best_single']['trial']}", "Rank 1 of")


def test_the_page_of_the_registered_model_describes_it(served: Served, context: "BrowserContext") -> None:
    address = f"http://127.0.0.1:{served.port}/#/models/digits-ensemble"
    visit = open_page(context, address, "Ensembles of convolutional networks for digits")
    text = visit.page.locator("body").inner_text()
    assert "uint8, 0 to 255, greyscale, [example, 1, 8, 8]" in text
    assert "the classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in text
    assert "champion" in text
    assert "Version 1" in text
    assert "Sweep small, trials" in text
    visit.screenshot("mlflow-model")


def runs(served: Served) -> dict[str, dict[str, Any]]:
    """Return the server's runs by name."""
    experiment = served.home.partition("/experiments/")[2].partition("/")[0]
    request = urllib.request.Request(
        f"http://127.0.0.1:{served.port}/api/2.0/mlflow/runs/search",
        json.dumps({"experiment_ids": [experiment], "max_results": 100}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return {run["info"]["run_name"]: run for run in json.load(answer)["runs"]}


def valid_loss(run: dict[str, Any]) -> float:
    return next(float(metric["value"]) for metric in run["data"]["metrics"] if metric["key"] == "valid_loss")
