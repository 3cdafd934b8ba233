"""A trial that learns nothing, for measuring what is around it. Imports no torch: many may run at a time."""

import random
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune

from orchestrator.storage.checkpoints import checkpoint_name


class NullActor(tune.Trainable):
    """In the place of orchestrator.engine.trial.TrialActor: sleeps for an epoch, and reports a made-up value.

    Its checkpoint holds the name of the node that it ran on.
    """

    epochs, epoch_s = 9, 5.0

    def setup(self, config: dict[str, Any]) -> None:
        """Take on a trial."""
        self.task = config["task"]
        self.folder = Path(self.task["folder"])
        self.folder.mkdir(parents=True, exist_ok=True)
        resume = self.task["resume"]
        self.epoch = int(Path(resume[0]).stem.partition("_")[2]) if resume else 0
        self.level = random.Random(self.task["number"]).random()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take on the next one."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch."""
        began = time.time()
        time.sleep(self.epoch_s)
        self.epoch += 1
        file = self.folder / checkpoint_name(self.epoch)
        file.write_text(ray.get_runtime_context().get_node_id(), encoding="utf-8")
        value = self.level * self.epoch / (self.epoch + 1)
        outcome = {
            "epoch": self.epoch,
            "metrics": {"val/knn_top1": value},
            "checkpoint": file.name,
            "finished": self.epoch == self.epochs,
            "began": began,
            "seconds": time.time() - began,
        }
        return {"outcome": (outcome,), "done": outcome["finished"]}
