"""A folder with a tiny config and space, and the commands run in it as a user would."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

TINY = {
    "model": {
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
        "patch_size": 4,
        "num_hierarchies": 2,
        "predictor": {"depth": 1, "num_heads": 2},
    },
    "data": {"batch_size": 256},
    "training": {"epochs": 2, "lr": 1e-3},
    "loss": {"hierarchy_weights": [1.0, 0.5]},
}
SPACE = {
    "name": "tiny",
    "base": "base.yaml",
    "space": {
        "model.fpn.use_fpn": {"choice": [True, False]},
        "model.fpn.fusion_method": {"choice": ["add", "concat"], "when": {"model.fpn.use_fpn": True}},
        "training.lr": {"loguniform": [1e-4, 1e-2]},
    },
    "search": {"algorithm": "tpe", "num_trials": 4, "seed": 0},
    "scheduler": {"type": "asha", "max_epochs": 3, "grace_epochs": 1, "reduction_factor": 3},
}


class Workplace:
    """A folder with a tiny base config and space, and the commands run in it as a user would."""

    def __init__(self, folder: Path, state: Path):
        self.folder = folder
        self.env = os.environ | {
            "HJEPA_STATE_DIR": str(state),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PYTHONWARNINGS": "default",
        }
        self.write("base.yaml", TINY)
        self.write("tiny.yaml", SPACE)

    def write(self, name: str, data: object) -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return path

    def command(self, module: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", module, *arguments]

    def sweep(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("orchestrator.cli", *arguments)

    def train(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("hjepa", *arguments)

    def start_sweep(self, *arguments: str) -> subprocess.Popen[str]:
        # A session of its own, so that what it leaves behind can be found and ended with it.
        return subprocess.Popen(
            self.command("orchestrator.cli", *arguments),
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(module, *arguments),
            cwd=self.folder,
            env=self.env,
            text=True,
            capture_output=True,
            timeout=240,
            check=False,
        )

    def files(self) -> dict[str, bytes]:
        """Everything in the folder but the cache, to compare."""
        return {
            str(file.relative_to(self.folder)): file.read_bytes()
            for file in self.folder.rglob("*")
            if file.is_file() and "cache" not in file.relative_to(self.folder).parts
        }
