"""The metrics that may judge a run, and which way is better. Without torch, for many ask who need none."""

import re

# A loss is comparable only between runs that minimise the same one. `metric_mode` knows val/knn_top1_k<n>
# besides.
METRIC_MODES: dict[str, str] = {
    "val/knn_top1": "max",
    "val/linear_probe_top1": "max",
    "val/rankme": "max",
    "val/feature_std": "max",
    "val/lidar": "max",
    "val/loss": "min",
    "train/loss": "min",
    "time/images_per_s": "max",
}
# Of a config the parts that change one metric alone, which begins so, and are of no account for another.
MEASURED_BY: dict[str, str] = {
    "evaluation.knn": "val/knn_top1",
    "evaluation.linear_probe": "val/linear_probe_top1",
    "evaluation.lidar": "val/lidar",
    "evaluation.val_loss": "val/loss",
}
KNN_OF_K = re.compile(r"val/knn_top1_k([1-9]\d*)")


def metric_mode(metric: str) -> str | None:
    """`max` or `min`: which way a metric is better; None where no run reports it."""
    return "max" if KNN_OF_K.fullmatch(metric) else METRIC_MODES.get(metric)
