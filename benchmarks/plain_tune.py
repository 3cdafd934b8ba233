"""The yardstick of benchmarks/trials_per_hour.py: search_spaces/fpn.yaml as a script for plain Ray Tune.

What a user would write by Ray's own guides: `ASHAScheduler`, `OptunaSearch`, `MLflowLoggerCallback`, a
function as trainable, so a process for each trial, and in it a DataLoader with torchvision's transforms, at
its default of no worker processes. Model, optimizer, training step and evaluation are ours, so that nothing
but the orchestration and the loading differ. A checkpoint is saved after every epoch, as ours does.

    python -m benchmarks.plain_tune FOLDER --trials 24

prints the trials, the epochs that they ran, and the best value.
"""

import argparse
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optuna import Trial
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from hjepa.config import load_config
from hjepa.judge import evaluate
from hjepa.masking import sample_masks
from hjepa.run import Run, build_run
from hjepa.step import optimize

BASE = Path(__file__).parent.parent / "configs/quick/digits.yaml"
METRIC, EPOCHS, GRACE, FACTOR = "knn_top1", 18, 2, 3


def space(trial: Trial) -> None:
    """The search space, as Optuna has it."""
    if trial.suggest_categorical("model.fpn.use_fpn", [True, False]):
        trial.suggest_categorical("model.fpn.fusion_method", ["add", "concat"])
    trial.suggest_categorical("loss.type", ["mse", "smoothl1", "cosine"])
    weights = ["[1.0, 0.5, 0.25]", "[1.0, 0.7, 0.5]", "[1.0, 1.0, 1.0]"]
    trial.suggest_categorical("loss.hierarchy_weights", weights)
    trial.suggest_float("training.lr", 2e-4, 4e-3, log=True)


class Views(Dataset[Tensor]):
    """Training images, each cut and normalised anew when it is asked for."""

    def __init__(self, run: Run):
        self.data = run.data
        augmentation = run.config.data.augmentation
        side = run.config.data.image_size
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(side, scale=augmentation.crop_scale, antialias=True),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(self.data.mean_C.tolist(), self.data.std_C.tolist()),
            ]
        )

    def __len__(self) -> int:
        return len(self.data.train)

    def __getitem__(self, index: int) -> Tensor:
        (image_CHW,) = torch.from_numpy(self.data.train.images(np.array([index])))
        return self.transform(image_CHW)


def train_trial(values: dict[str, Any]) -> None:
    """A trial: trains, and reports after every epoch."""
    torch.manual_seed(0)
    weights = {"loss.hierarchy_weights": json.loads(values["loss.hierarchy_weights"])}
    run = build_run(load_config(BASE, {**values, **weights, "training.epochs": EPOCHS, "threads": 1}))
    loader = DataLoader(Views(run), run.config.data.batch_size, shuffle=True, drop_last=True)
    while run.epoch < EPOCHS:
        run.model.train()
        for images_BCHW in loader:
            masks = sample_masks(
                run.config.masking, len(images_BCHW), run.model.grid, torch.default_generator
            )
            optimize(run, images_BCHW, masks)
            run.step += 1
        run.epoch += 1
        metrics, _ = evaluate(run)
        with tempfile.TemporaryDirectory() as folder:
            run.save(Path(folder) / "run.pt")
            tune.report({METRIC: metrics["val/knn_top1"]}, checkpoint=tune.Checkpoint(folder))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where results lie, and MLflow's database")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    logging.getLogger("ray").setLevel(logging.ERROR)
    tuner = tune.Tuner(
        tune.with_resources(train_trial, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            num_samples=arguments.trials,
            search_alg=OptunaSearch(space, metric=METRIC, mode="max", seed=arguments.seed),
            scheduler=ASHAScheduler(max_t=EPOCHS, grace_period=GRACE, reduction_factor=FACTOR),
            max_concurrent_trials=len(os.sched_getaffinity(0)),
        ),
        run_config=tune.RunConfig(
            name="plain",
            storage_path=str(folder),
            verbose=0,
            callbacks=[MLflowLoggerCallback(f"sqlite:///{folder}/mlflow.db", experiment_name="plain")],
        ),
    )
    results = tuner.fit()
    assert not results.errors, results.errors[0]
    epochs = sum(result.metrics["training_iteration"] for result in results if result.metrics)
    best = results.get_best_result().metrics
    assert best is not None
    print(json.dumps({"trials": len(results), "epochs": epochs, "best": best[METRIC]}))


if __name__ == "__main__":
    main()
