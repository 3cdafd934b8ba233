"""Train by a YAML config, and evaluate after every epoch."""

import argparse
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from hjepa.catalog import find_config, replacement
from hjepa.checkpoint import CheckpointFolder
from hjepa.config import RunConfig, load_config
from hjepa.data import Data
from hjepa.distributed import LostRankError, Team, team_of
from hjepa.judge import baselines, test_accuracy
from hjepa.records import Records, free_folder
from hjepa.run import Run, build_run, joined
from hjepa.schema import parse_overrides, to_yaml
from hjepa.step import NonFiniteError
from hjepa.train import Report, train_run

FAILED, INTERRUPTED = 1, 130

EPILOG = """\
examples:
  hjepa-train configs/quick/digits.yaml
  hjepa-train digits --set seed=7
  hjepa-train configs/quick/digits.yaml --set training.lr=1e-3 --set model.fpn.use_fpn=true
  hjepa-train results/fpn/best.yaml --test
  hjepa-train configs/quick/digits.yaml --set checkpoint.resume=auto
  torchrun --nproc-per-node 2 -m hjepa train configs/quick/digits.yaml --set distributed.enabled=true

Every key that a config may hold stands in configs/canonical.yaml with its meaning and range.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("config", help="YAML config, or the bare name of one below configs/")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override one key, e.g. training.lr=1e-3; may be repeated",
    )
    parser.add_argument(
        "--test",
        action="store_true",
        help="at the end, evaluate on the test set, which nothing else touches",
    )


def run(options: argparse.Namespace) -> int:
    """Train; the exit status."""
    path = find_config(options.config)
    config = load_config(path, parse_overrides(options.set))
    with joined(config), _one_voice(team_of(config.distributed)):
        if str(path) != options.config:
            print(f"config: {path}")
        if other := replacement(path):
            print(f"{path} is replaced by {other}, which it extends.")
        return _train(config, test=options.test)


@contextmanager
def _one_voice(team: Team) -> Iterator[None]:
    """Within, only the first of several processes prints; what goes wrong any of them may tell."""
    if team.leads:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def _train(config: RunConfig, test: bool) -> int:
    folder, resume = team_of(config.distributed).agree(_place(config))
    checkpoints = CheckpointFolder(config.checkpoint, _checkpoint_dir(config, folder))
    run = build_run(config, pretrained=resume is None)
    if resume is not None:
        run.load(resume)
    elif folder != config.logging.folder:
        print(f"{config.logging.folder} holds an earlier run; this one goes to {folder}.")
    _describe(run, resume)
    records = None
    if run.team.leads:
        records = Records(config.logging, folder, config.model_dump(mode="json"))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    for name, value in baselines(config).items():
        print(f"{name.replace('_', ' ').replace('/', ', ')}: {value:.4f}")
    last: Report | None = None
    try:
        for report in train_run(run):
            last = report
            if records is None:
                continue
            records.write(report.epoch, report.step, report.metrics)
            if checkpoints.due(report.epoch, config.training.epochs):
                report.save(checkpoints.path(report.epoch))
                checkpoints.prune(report.epoch, report.metrics.get(config.checkpoint.metric))
            print(_line(report, config.training.epochs), flush=True)
    except (NonFiniteError, LostRankError) as error:
        _tell(run, f"hjepa-train: {error}; the run has failed. Records: {folder}")
        return FAILED
    except KeyboardInterrupt:
        newest = checkpoints.newest()
        hint = f"go on with --set checkpoint.resume={newest}" if newest else "no checkpoint was due yet"
        _tell(run, f"\nhjepa-train: interrupted; {hint}.")
        return INTERRUPTED
    finally:
        if records is not None:
            records.close()
    if last is not None and last.collapsed:
        _tell(run, f"hjepa-train: collapsed at epoch {last.epoch}: {last.collapsed}.")
        return FAILED
    if test:
        print(f"test/knn_top1 {test_accuracy(run):.6f} (test set, {config.data.title})")
    print(f"records and checkpoints: {folder}")
    return 0


def _tell(run: Run, how_it_ended: str) -> None:
    """All processes of a run end alike; one says so."""
    if run.team.leads:
        print(how_it_ended, file=sys.stderr)


def _place(config: RunConfig) -> tuple[Path, Path | None]:
    """Folder of the records, and the checkpoint to go on from, if any."""
    folder = config.logging.folder
    resume = CheckpointFolder(config.checkpoint, _checkpoint_dir(config, folder)).resume_path()
    return (folder if resume is not None else free_folder(folder)), resume


def _checkpoint_dir(config: RunConfig, folder: Path) -> Path:
    given = config.checkpoint.checkpoint_dir
    return Path(given) if given else folder / "checkpoints"


def _describe(run: Run, resume: Path | None) -> None:
    config = run.config
    count = sum(p.numel() for p in run.model.encoder.parameters())
    shape = config.model.shape
    height, width = run.model.grid
    _describe_data(run.data)
    print(
        f"{config.data.title}: {len(run.data.train)} training and {len(run.data.val)} evaluation images, "
        f"{run.steps_per_epoch} steps of {run.batch} an epoch\n"
        f"encoder: {shape.depth} blocks, width {shape.embed_dim}, {count:,} parameters, "
        f"{height} x {width} patches; device {run.device}"
    )
    if resume is None and config.model.pretrained:
        print(f"weights of {config.model.pretrained}: {'; '.join(run.notes) or 'all taken'}")
    if run.team.grouped:
        print(f"{run.team.size} processes, {run.batch // run.team.size} images of a step each")
    if config.training.use_amp and run.device.type == "mps":
        print("training.use_amp: MPS stays in float32.")
    if resume is not None:
        print(f"goes on after epoch {run.epoch} from {resume}")


def _describe_data(data: Data) -> None:
    for place, share in zip(data.places, data.mixture.shares, strict=True):
        drawn = f", {share.share:.1%} of the draws" if len(data.places) > 1 else ""
        print(f"{place.name}: {share.images} training images{drawn}; {place.reason}")
    if data.bad:
        print(f"images that cannot be decoded, skipped: {data.bad}")


def _line(report: Report, epochs: int) -> str:
    shown = ("val/knn_top1", "val/linear_probe_top1", "train/loss", "val/rankme", "val/feature_std")
    values = [f"{name} {report.metrics[name]:.6g}" for name in shown if name in report.metrics]
    speed = report.metrics.get("time/images_per_s", math.nan)
    return f"epoch {report.epoch}/{epochs}  {'  '.join(values)}  {speed:.0f} images/s"
