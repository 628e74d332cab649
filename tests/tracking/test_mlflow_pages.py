"""MLflow's own pages of a real sweep, in a real browser, on the real server."""

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

WAIT = 120_000  # milliseconds: MLflow's pages take one to ten seconds here, and the machine may be shared

# All trials are complete, so that there are members to look at.
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
    """A sweep of a few trials, and MLflow's server on it."""

    storage: Path
    port: int
    home: str
    """What `convene ui` printed: the page of the experiment."""
    outcome: dict[str, Any]

    def run(self, run_id: str) -> str:
        """The page of a run."""
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
        os.killpg(server.pid, signal.SIGKILL)  # there is nothing left that it should write
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
    """One profile for all pages, so that MLflow's scripts are read once."""
    context = chromium.new_context(viewport={"width": 1600, "height": 1000})
    # MLflow opens a chat at the first visit of all; a person closes it, once.
    context.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    yield context
    context.close()


def opened(context: "BrowserContext", address: str, awaited: str) -> Visit:
    """A page, once a text that is waited for is on it."""
    page = context.new_page()
    visited = Visit(page)
    page.goto(address)
    page.get_by_text(awaited).first.wait_for(timeout=WAIT)
    return visited


def followed(visited: Visit, link: str, awaited: str) -> Visit:
    """Where a link of a description leads: to a page of its own."""
    with visited.page.context.expect_page(timeout=WAIT) as other:
        visited.page.get_by_role("link", name=link, exact=True).first.click()
    other.value.get_by_text(awaited).first.wait_for(timeout=WAIT)
    return Visit(other.value)


def unfolded(visited: Visit) -> str:
    """A run's whole description, as text."""
    visited.page.get_by_text("Show more").first.click()
    visited.page.get_by_text("convene ").first.wait_for(timeout=WAIT)
    return visited.page.locator("body").inner_text()


def test_the_experiment_opens_with_few_columns_and_trials_under_their_sweep(
    served: Served, context: "BrowserContext"
) -> None:
    visited = opened(context, served.home, "valid_accuracy")
    page = visited.page
    heads = [
        head for head in page.locator(".ag-header-cell-text, [role=columnheader]").all_inner_texts() if head
    ]
    said = " ".join(heads)
    for column in (
        "test_accuracy",
        "valid_accuracy",
        "valid_loss",
        "network.width",
        "training.learning_rate",
    ):
        assert column in said, column
    for noise in ("network.activation", "training.seed", "images_per_second", "convene.id", "Dataset"):
        assert noise not in said, noise
    assert "Convene's sweeps" in page.locator("body").inner_text()
    page.get_by_role("link", name="small", exact=True).first.wait_for(timeout=WAIT)
    assert page.get_by_role("link", name="small/000").count() == 0
    page.locator(".ag-row").first.locator("button, [role=button]").first.click()
    page.get_by_role("link", name="small/000").wait_for(timeout=WAIT)
    page.get_by_role("link", name="small/ensemble").wait_for(timeout=WAIT)
    visited.screenshot("mlflow-experiment")


def test_the_leaderboard_is_sorted_by_what_the_search_improved(
    served: Served, context: "BrowserContext"
) -> None:
    home = opened(context, served.home, "Leaderboard")
    visited = followed(home, "Leaderboard", "Sort: valid_loss")
    visited.page.get_by_role("link", name="small/ensemble").wait_for(timeout=WAIT)
    links = visited.page.get_by_role("link").all_inner_texts()
    names = [link for link in links if link.startswith("small/")]
    ranked = sorted(runs(served).items(), key=lambda run: valid_loss(run[1]))
    assert names == [name for name, _ in ranked if name != "small"]
    visited.screenshot("mlflow-leaderboard")


def test_a_sweep_says_what_came_of_it_and_holds_its_report(served: Served, context: "BrowserContext") -> None:
    answered = convene("ui", "small", "--storage", served.storage, "--port", str(served.port), "--json")
    assert (answered.code, answered.err) == (0, ""), answered.err
    address = answered.json["url"]
    assert address == served.run(served.outcome["mlflow"]["run_id"])

    visited = opened(context, address, "The ensemble of 3 networks")
    said = unfolded(visited)
    scores = served.outcome["ensemble"], served.outcome["best_single"]
    assert all(f"{100 * score['test_accuracy']:.2f} %" in said for score in scores)
    assert "5 trials: 5 complete, 0 stopped early, 0 failed" in said
    assert "0.005 to 0.03, by its logarithm" in said
    assert "convene resume small" in said
    visited.screenshot("mlflow-sweep")

    visited.page.get_by_role("tab", name="Artifacts").click()
    for name in ("trials.parquet", "search_space.toml"):
        visited.page.get_by_text(name).first.wait_for(timeout=WAIT)
    visited.page.get_by_text("report.html").first.click()
    report = visited.page.frame_locator("iframe")
    report.locator("html[data-drawn]").wait_for(state="attached", timeout=WAIT)
    assert "of the test" in report.locator("h1").inner_text()
    visited.screenshot("mlflow-report")


def test_a_trial_says_how_good_it_is_and_shows_its_curve(served: Served, context: "BrowserContext") -> None:
    best = served.outcome["best_single"]
    address = served.run(runs(served)[f"small/{best['trial']:03d}"]["info"]["run_id"])
    visited = opened(context, address, f"Trial {best['trial']} of sweep small")
    said = unfolded(visited)
    assert f"{100 * best['valid_accuracy']:.2f} % of the validation images right" in said
    assert "Rank 1 of" in said
    assert "A member of the ensemble, with weight 0.333" in said
    assert "digits (" in said, "its data set"
    visited.screenshot("mlflow-trial")
    visited.page.get_by_role("tab", name="Model metrics").click()
    visited.page.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=WAIT)
    visited.page.wait_for_timeout(1000)  # the curves are drawn after their frames
    visited.screenshot("mlflow-trial-curve")


def test_the_ensemble_has_its_members_and_its_model(served: Served, context: "BrowserContext") -> None:
    sweep = opened(context, served.run(served.outcome["mlflow"]["run_id"]), "The ensemble")
    ensemble = followed(sweep, "The ensemble", "The ensemble of sweep small")
    said = unfolded(ensemble)
    for member in served.outcome["ensemble"]["members"]:
        assert re.search(rf"trial {member['trial']}: weight {member['weight']:.3f}", said), member
    assert 'load_model("models:/digits-ensemble/1")' in said
    assert "digits-ensemble" in said
    ensemble.screenshot("mlflow-ensemble")
    followed(ensemble, f"trial {served.outcome['best_single']['trial']}", "Rank 1 of")


def test_the_registered_model_says_what_it_is(served: Served, context: "BrowserContext") -> None:
    address = f"http://127.0.0.1:{served.port}/#/models/digits-ensemble"
    visited = opened(context, address, "Ensembles of convolutional networks for digits")
    said = visited.page.locator("body").inner_text()
    assert "uint8, 0 to 255, grey, [example, 1, 8, 8]" in said
    assert "the classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in said
    assert "champion" in said
    assert "Version 1" in said
    assert "Sweep small, trials" in said
    visited.screenshot("mlflow-model")


def runs(served: Served) -> dict[str, dict[str, Any]]:
    """Each run by its name, as the server tells."""
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
