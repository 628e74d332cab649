"""One sweep with everything on servers: a job on a cluster, files in a bucket, PostgreSQL for all records."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import create_engine, text

from convene.storage import Storage
from tests.conftest import CLEAN, convene
from tests.support.ray_cluster import RayCluster, three_nodes
from tests.support.servers import mlflow_server, object_store, postgres

pytestmark = pytest.mark.cluster

METRICS = ("train_loss", "valid_loss", "valid_accuracy", "images_per_second")
SPACE = """
[data]
source = "digits"

[network]
depth = { low = 1, high = 2 }
width = { choices = [8, 16] }

[training]
epochs = 15
learning_rate = { low = 1e-3, high = 1e-2, log = true }

[search]
trials = 8
sampler = "random"
scheduler = "none"

[ensemble]
size = 3
"""


@dataclass(frozen=True)
class Site:
    """A cluster with its servers."""

    cluster: RayCluster
    root: str
    database: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        store = stack.enter_context(object_store())
        database = stack.enter_context(postgres("optuna"))
        studies = f"{database.rpartition('/')[0]}/optuna"  # MLflow and Optuna each want a database
        bucket = store.bucket()
        uri = stack.enter_context(mlflow_server(database, f"s3://{bucket}/mlflow", store.environment))
        known = {**store.environment, "MLFLOW_TRACKING_URI": uri, "OPTUNA_STORAGE": studies}
        cluster = stack.enter_context(three_nodes(folder, **known))
        os.environ.update(store.environment)
        yield Site(cluster, f"s3://{bucket}/team", database, {**known, **cluster.environment})
        for name in store.environment:
            del os.environ[name]


def test_a_node_is_killed_and_every_epoch_is_there_once(site: Site, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SPACE)
    where = ("--address", site.cluster.dashboard, "--storage", site.root)
    job = subprocess.Popen(
        [sys.executable, "-m", "convene.cli", "submit", "s.toml", "--name", "s", *where],
        cwd=tmp_path,
        env={**CLEAN, **site.cluster.environment},  # the client has no other credential
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    files = Storage(f"{site.root}/sweeps/s")
    end = time.monotonic() + 180
    while len(files.names("trials")) < 4:  # so that two have ended, or nearly, and two are at work
        assert job.poll() is None and time.monotonic() < end, job.communicate(timeout=10)[0]
        time.sleep(0.2)
    site.cluster.kill_last_node()
    said, _ = job.communicate(timeout=400)
    assert job.returncode == 0, said

    with files.local_copy("trials.parquet") as file:
        table = pd.read_parquet(file)
    assert sorted(table.trial) == list(range(8))
    assert set(table.state) == {"COMPLETE"} and set(table.epochs) == {15}
    engine = create_engine(site.database)
    with engine.connect() as connection:
        runs = connection.execute(text("select name, status from runs order by name")).fetchall()
        rows = connection.execute(
            text(
                "select r.name, m.key, m.step from metrics m join runs r using (run_uuid) "
                "where r.name like 's/0%' order by 1, 2, 3"
            )
        ).fetchall()
    engine.dispose()
    trials = [f"s/{number:03d}" for number in range(8)]
    assert sorted(map(tuple, runs)) == sorted((name, "FINISHED") for name in ("s", "s/ensemble", *trials))
    assert list(map(tuple, rows)) == [
        (trial, metric, epoch) for trial in trials for metric in sorted(METRICS) for epoch in range(1, 16)
    ]

    for verb in (["export", "s", "--to", "out"], ["show", "s", "samples", "--to", "pictures"]):
        ended = convene(*verb, "--storage", site.root, folder=tmp_path, **site.environment)
        assert ended.code == 0, ended.err
    [picture] = (tmp_path / "pictures").iterdir()
    assert convene("predict", tmp_path / "out", picture, "--json").code == 0
    assert not (tmp_path / "mlruns").exists()

    # On one machine the same seed tries the same, and on this one it finds the same numbers.
    alone = convene("sweep", "s.toml", "--name", "alone", folder=tmp_path)
    assert alone.code == 0, alone.err
    network = [name for name in table.columns if name.startswith("network.")]
    same = ["trial", "valid_loss", "valid_accuracy", *network]
    here = pd.read_parquet(tmp_path / "mlruns/sweeps/alone/trials.parquet")
    pd.testing.assert_frame_equal(
        table[same].sort_values("trial", ignore_index=True),
        here[same].sort_values("trial", ignore_index=True),
    )
