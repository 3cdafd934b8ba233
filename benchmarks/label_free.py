"""Do label-free objectives agree with k-NN accuracy? On the shipped spaces that may have them.

Random configurations of each space run to their last epoch, and are ranked by val/lidar and by val/rankme on
one side and by val/knn_top1 on the other: Spearman's correlation with its interval, and how much accuracy
the best one by the label-free objective lies below the best one by k-NN.
"""

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from hjepa.config import RunConfig
from hjepa.train import train
from orchestrator.analysis.stopping import spearman
from orchestrator.search.sampler import build_sampler
from orchestrator.space import ConfigError, Sweep, load_sweep, read_mapping
from orchestrator.study.study import Study

KNN, LABEL_FREE = "val/knn_top1", ("val/lidar", "val/rankme")
SPACES = Path(__file__).parents[1] / "search_spaces"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=16, help="configurations of each space (default: 16)")
    parser.add_argument("--at-a-time", type=int, default=2, help="processes of one thread (default: 2)")
    parser.add_argument("spaces", nargs="*", help="search spaces (default: all that may have them)")
    arguments = parser.parse_args()
    paths = [Path(path) for path in arguments.spaces] or sorted(SPACES.glob("*.yaml"))
    print("| space | objective | configurations | Spearman with k-NN (95%) | k-NN lost by choosing by it |")
    print("| --- | --- | --- | --- | --- |")
    with ProcessPoolExecutor(arguments.at_a_time, get_context("spawn")) as pool:
        for path in paths:
            allowed: dict[str, Sweep] = {}
            for objective in LABEL_FREE:
                try:
                    allowed[objective] = label_free(path, objective, arguments.trials)
                except ConfigError as error:
                    reason = str(error).partition(": ")[2].splitlines()[0]
                    print(f"| {path.stem} | refused: {reason} | | | |", flush=True)
            if allowed:
                runs = proposed(next(iter(allowed.values())))
                found = [end for end in pool.map(last, runs) if end is not None]
                for line in table(path.stem, found, allowed):
                    print(line, flush=True)


def label_free(path: Path, objective: str, trials: int) -> Sweep:
    """The space with that objective: its design, or configurations drawn at random."""
    changes = {
        "objective.metric": objective,
        "evaluation.lidar.enabled": objective == "val/lidar",
        "scheduler.type": "fifo",
    }
    if "design" in read_mapping(path):  # it lists its configurations itself
        return load_sweep(path, overrides=changes)
    return load_sweep(path, overrides=changes | {"search.algorithm": "random"}, trials=trials)


def proposed(sweep: Sweep) -> Iterator[RunConfig]:
    """The configurations of its trials."""
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder), sweep, build_sampler(sweep))
        for _ in range(sweep.num_trials):
            yield sweep.resolve(study.ask().values)


def last(run: RunConfig) -> dict[str, float] | None:
    """The metrics of a run's last epoch; None of one that collapsed."""
    torch.set_num_threads(1)
    metrics: dict[str, float] = {}
    for report in train(run):
        metrics = report.metrics
        if report.collapsed:
            return None
    return metrics


def table(name: str, found: list[dict[str, float]], objectives: Iterable[str]) -> Iterator[str]:
    """A row for each objective."""
    accuracy = [metrics[KNN] for metrics in found]
    for metric in objectives:
        values = [metrics[metric] for metrics in found]
        rank = spearman(np.array([values, accuracy]).T)
        chosen = accuracy[max(range(len(values)), key=values.__getitem__)]
        shown = "-" if rank is None else f"{rank.value:.2f} ({rank.low:.2f} to {rank.high:.2f})"
        yield f"| {name} | {metric} | {len(found)} | {shown} | {max(accuracy) - chosen:.4f} |"


if __name__ == "__main__":
    main()
