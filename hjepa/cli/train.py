"""Train by a YAML config, and evaluate after every epoch."""

import argparse
import math
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from hjepa.catalog import find_config, replacement
from hjepa.checkpoint import CheckpointFolder
from hjepa.cli.baselines import measured_once
from hjepa.cli.place import Place, find_place
from hjepa.config import RunConfig, load_config
from hjepa.data import Data, load_test
from hjepa.distributed import LostRankError, Team, team_of
from hjepa.judge import test_accuracy
from hjepa.pictures import epoch_pictures, first_pictures
from hjepa.records import Outcome, Records
from hjepa.run import Run, build_run, joined
from hjepa.schema import parse_overrides, to_yaml
from hjepa.step import NonFiniteError
from hjepa.temporary import whole_file
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
    with find_place(config, team_of(config.distributed)) as place:
        return _train_at(place, config, test)


def _train_at(place: Place, config: RunConfig, test: bool) -> int:
    for note in place.notes:
        print(note)
    if test:
        load_test(config.data)  # what is wrong with it is told before training
    run = build_run(config, pretrained=place.resume is None)
    if place.resume is not None:
        run.load(place.resume)
    _describe(run, place.resume)
    if run.epoch >= config.training.epochs:
        print(
            f"{place.resume}: the run has finished already, {run.epoch} of {config.training.epochs} epochs; "
            "raise training.epochs to go on."
        )
    else:
        status = _record(run, place)
        if status:
            return status
    if test:
        print(f"test/knn_top1 {test_accuracy(run):.6f} (test set, {config.data.evaluated})")
    print(f"records and checkpoints: {place.folder}")
    return 0


def _record(run: Run, place: Place) -> int:
    """Train to the end, with all records; the exit status."""
    config, folder = run.config, place.folder
    records = None
    outcome: Outcome = "failed"
    try:
        if run.team.leads:
            records = Records(config.logging, folder, config.model_dump(mode="json"), after=run.epoch)
            if moved := place.checkpoints.begin(run.epoch):
                print(moved)
            with whole_file(folder / "config.yaml") as file:
                file.write(to_yaml(config).encode())
        run.team.meet()
        for name, value in measured_once(run, folder).items():
            print(f"{name.replace('_', ' ').replace('/', ', ')}: {value:.4f}")
        if records is not None:
            records.draw(run.epoch, first_pictures(run))
        collapsed = _epochs(run, records, place.checkpoints)
        outcome = "failed" if collapsed else "done"
    except (NonFiniteError, LostRankError) as error:
        _tell(run, f"hjepa-train: {error}; the run has failed. Records: {folder}")
        return FAILED
    except KeyboardInterrupt:
        outcome = "interrupted"
        _tell(run, f"\nhjepa-train: interrupted; {_way_on(run, place.checkpoints)}.")
        return INTERRUPTED
    finally:
        if records is not None:
            records.close(outcome)
    if collapsed:
        _tell(run, f"hjepa-train: collapsed at epoch {run.epoch}: {collapsed}.")
        return FAILED
    return 0


def _epochs(run: Run, records: Records | None, checkpoints: CheckpointFolder) -> str | None:
    """Train to the end; why the run counts as collapsed, if it does."""
    config, collapsed = run.config, None
    for report in train_run(run):
        collapsed = report.collapsed
        if records is None:
            continue
        records.write(report.epoch, report.step, report.metrics)
        if "val/knn_top1" in report.metrics:
            records.draw(report.epoch, epoch_pictures(run))
        if checkpoints.due(report.epoch, config.training.epochs):
            report.save(checkpoints.path(report.epoch))
            checkpoints.prune(report.epoch, report.metrics.get(config.checkpoint.metric))
        print(_line(report, config.training.epochs), flush=True)
    return collapsed


def _tell(run: Run, how_it_ended: str) -> None:
    """All processes of a run end alike; one says so."""
    if run.team.leads:
        print(how_it_ended, file=sys.stderr)


def _way_on(run: Run, checkpoints: CheckpointFolder) -> str:
    newest = checkpoints.newest()
    if newest is None:
        return "no checkpoint was due yet"
    lost = run.epoch - int(newest.stem.removeprefix("epoch_"))
    since = f", which is {lost} epochs old" if lost > 0 else ""
    return f"go on with --set {shlex.quote(f'checkpoint.resume={newest}')}{since}"


def _describe(run: Run, resume: Path | None) -> None:
    config = run.config
    count = sum(p.numel() for p in run.model.encoder.parameters())
    shape = config.model.shape
    height, width = run.model.grid
    _describe_data(run.data)
    judged = f" ({config.data.evaluated})" if config.data.use_multi_dataset else ""
    print(
        f"{config.data.title}: {len(run.data.train)} training and {len(run.data.val)} evaluation images"
        f"{judged}, {run.steps_per_epoch} steps of {run.batch} an epoch\n"
        f"encoder: {shape.depth} blocks, width {shape.embed_dim}, {count:,} parameters, "
        f"{height} x {width} patches; device {run.device}"
    )
    if resume is None and config.model.pretrained:
        print(f"weights of {config.model.pretrained}: {'; '.join(run.notes) or 'all taken'}")
    if run.team.grouped:
        print(f"{run.team.size} processes, {run.batch // run.team.size} images of a step each")
    best, epochs = config.checkpoint.keep_best_n, config.training.epochs
    unranked = config.checkpoint.unranked(epochs, config.evaluation.eval_frequency)
    if unranked and best > 0 and config.checkpoint.save_frequency < epochs:
        print(f"checkpoint.keep_best_n {best} keeps none: {unranked}")
    if config.training.use_amp and run.device.type == "mps":
        print("training.use_amp: MPS stays in float32.")
    if resume is not None:
        print(f"goes on after epoch {run.epoch} from {resume}")
        if run.planned_epochs not in (None, epochs):
            print(
                f"training.epochs was {run.planned_epochs}, is {epochs}: learning rate and EMA momentum are "
                f"from here on as after {run.epoch} of {epochs} epochs, not as the checkpoint left them"
            )


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
    waited = report.metrics.get("time/data_wait", math.nan)
    return f"epoch {report.epoch}/{epochs}  {'  '.join(values)}  {speed:.0f} images/s  data_wait {waited:.1%}"
