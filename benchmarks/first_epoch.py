"""A run's first epoch on a folder of JPEGs beside its second one: decoding while training.

A small encoder learns from photographs of noise (benchmarks/photos.py), with an empty cache at first. Prints
when the first step begins and how many images are decoded by then, and of each epoch its seconds and the
share of them in which the loop waited for images (`data_wait`).
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from benchmarks.photos import write_photos
from hjepa.config import RunConfig
from hjepa.data.filling import Filling
from hjepa.run import build_run
from hjepa.schema import Layers
from hjepa.train import train_run

EPOCHS = 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--width", type=int, default=64, help="of the encoder")
    parser.add_argument("--depth", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_photos(Path(name) / "photos", options.images)
        began_s = time.perf_counter()
        run = build_run(config_of(options, Path(name)))
        store = run.data.train.stored_MCHW
        assert isinstance(store, Filling), "so few images are decoded before the epoch"
        print(
            f"{options.images} JPEGs to {store.shape[-1]} px; first step after "
            f"{time.perf_counter() - began_s:.1f} s, with {store.decoded} images decoded; "
            f"load {os.getloadavg()[0]:.1f}"
        )
        for report in train_run(run):
            took_s, wait = report.metrics["time/epoch_s"], report.metrics["time/data_wait"]
            print(f"epoch {report.epoch}: {took_s:.1f} s of training, data_wait {wait:.4f}", flush=True)
        run.data.fill()


def config_of(options: argparse.Namespace, folder: Path) -> RunConfig:
    layers = Layers()
    layers.add(
        {
            "model": {"embed_dim": options.width, "depth": options.depth, "num_heads": 4, "patch_size": 16},
            "data": {
                "dataset": "imagefolder",
                "data_path": str(folder / "photos"),
                "cache_dir": str(folder / "cache"),
                "image_size": options.image_size,
            },
            "training": {"epochs": EPOCHS, "warmup_epochs": 1},
        },
        "options",
    )
    return layers.build(RunConfig, "first_epoch.py")


if __name__ == "__main__":
    main()
