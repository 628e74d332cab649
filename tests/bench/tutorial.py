"""The baseline: a sweep as in the tutorials of Ray Tune, Optuna and MLflow, with reused workers.

Run it as `python -m tests.bench.tutorial TRIALS FOLDER`. A trial does not train and reports once.
"""

import os
import sys
from typing import Any

os.environ["RAY_AIR_NEW_OUTPUT"] = "0"

import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch


class NoTraining(tune.Trainable):
    def setup(self, config: dict[str, Any]) -> None:
        import torch  # noqa: F401  # as in any trial

    def step(self) -> dict[str, Any]:
        return {"valid_loss": self.config["learning_rate"], "valid_accuracy": 0.5, "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        return True


def main(trials: int, folder: str) -> None:
    ray.init(include_dashboard=False, log_to_driver=False)
    tune.Tuner(
        tune.with_resources(NoTraining, {"cpu": 1}),
        param_space={
            "kernel_size": tune.choice([3, 5]),
            "depth": tune.randint(1, 4),
            "width": tune.choice([8, 16, 32]),
            "dropout": tune.uniform(0, 0.5),
            "learning_rate": tune.loguniform(1e-4, 3e-2),
        },
        tune_config=tune.TuneConfig(
            metric="valid_loss",
            mode="min",
            search_alg=OptunaSearch(),
            scheduler=ASHAScheduler(),
            num_samples=trials,
            max_concurrent_trials=2,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=f"{folder}/ray",
            verbose=0,
            callbacks=[
                MLflowLoggerCallback(
                    tracking_uri=f"sqlite:///{folder}/mlflow.db",
                    experiment_name="tutorial",
                    save_artifact=False,
                )
            ],
        ),
    ).fit()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
