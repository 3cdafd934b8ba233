"""Does bfloat16 cost quality? The digits config in float32 and with training.use_amp, seed by seed.

Both runs of a seed see the same images, masks and first weights, for the same epochs. Prints k-NN accuracy of
each, and the mean of the paired differences with its 95% interval by Student's t, beside the spread that the
seeds alone have in float32.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from hjepa.config import load_config
from hjepa.train import train

CONFIG = Path(__file__).parents[1] / "configs/quick/digits.yaml"
KNN = "val/knn_top1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG, help="(default: configs/quick/digits.yaml)")
    parser.add_argument("--seeds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="(default: the config's)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds: at least 2, for an interval")
    pairs = []
    for seed in range(options.seeds):
        pairs.append([final(options, seed, use_amp) for use_amp in (False, True)])
        print("seed {}: float32 {:.4f}, bfloat16 {:.4f}".format(seed, *pairs[-1]), flush=True)
    float32, bfloat16 = np.array(pairs).T
    difference = bfloat16 - float32
    middle, error = difference.mean(), stats.sem(difference)
    low, high = stats.t.interval(0.95, len(difference) - 1, middle, error) if error > 0 else (middle, middle)
    print(
        f"{KNN} of {options.seeds} seeds, torch {torch.__version__}: float32 {float32.mean():.4f} (deviation "
        f"{statistics.stdev(float32):.4f} between seeds), bfloat16 {bfloat16.mean():.4f}\n"
        f"bfloat16 less float32: {middle:+.4f} ({low:+.4f} to {high:+.4f})"
    )


def final(options: argparse.Namespace, seed: int, use_amp: bool) -> float:
    """k-NN accuracy after the last epoch."""
    changes = {
        "seed": seed,
        "training.use_amp": use_amp,
        "device": options.device,
        "threads": options.threads,
    }
    if options.epochs is not None:
        changes["training.epochs"] = options.epochs
    metrics: dict[str, float] = {}
    for report in train(load_config(options.config, changes)):
        metrics = report.metrics
    return metrics[KNN]


if __name__ == "__main__":
    main()
