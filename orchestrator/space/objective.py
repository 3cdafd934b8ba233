"""What a sweep may look for."""

from hjepa.metrics import metric_mode


def objective_mode(metric: str) -> str:
    """`max` or `min`: which way `metric` is better."""
    mode = metric_mode(metric)
    assert mode is not None, metric
    return mode
