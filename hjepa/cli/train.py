"""Train by a YAML config, and evaluate after every epoch."""

import argparse
import math
import sys
from pathlib import Path

from hjepa.checkpoint import CheckpointFolder
from hjepa.cli.place import Place, find_place
from hjepa.config import RunConfig, load_config
from hjepa.judge import baselines, test_accuracy
from hjepa.pictures import epoch_pictures, first_pictures
from hjepa.records import Outcome, Records
from hjepa.run import Run, build_run
from hjepa.schema import parse_overrides, to_yaml
from hjepa.step import NonFiniteError
from hjepa.train import Report, train_run

FAILED, INTERRUPTED = 1, 130

EPILOG = """\
examples:
  hjepa-train configs/quick/digits.yaml
  hjepa-train configs/quick/digits.yaml --set training.lr=1e-3 --set model.fpn.use_fpn=true
  hjepa-train results/fpn/best.yaml --test
  hjepa-train configs/quick/digits.yaml --set checkpoint.resume=auto

Every key that a config may hold stands in configs/canonical.yaml with its meaning and range.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("config", help="YAML config; one may extend another by `extends: FILE`")
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
    config = load_config(options.config, parse_overrides(options.set))
    return _train(config, test=options.test)


def _train(config: RunConfig, test: bool) -> int:
    place = find_place(config)
    for note in place.notes:
        print(note)
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
        print(f"test/knn_top1 {test_accuracy(run):.6f} (test set, {config.data.dataset})")
    print(f"records and checkpoints: {place.folder}")
    return 0


def _record(run: Run, place: Place) -> int:
    """Train to the end, with all records; the exit status."""
    config, folder = run.config, place.folder
    records = Records(config.logging, folder, config.model_dump(mode="json"), after=run.epoch)
    outcome: Outcome = "failed"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        for name, value in baselines(config).items():
            print(f"{name.replace('_', ' ').replace('/', ', ')}: {value:.4f}")
        records.draw(run.epoch, first_pictures(run))
        collapsed = _epochs(run, records, place.checkpoints)
        outcome = "failed" if collapsed else "done"
    except NonFiniteError as error:
        print(f"hjepa-train: {error}; the run has failed. Records: {folder}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        outcome = "interrupted"
        print(f"\nhjepa-train: interrupted; {_way_on(run, place.checkpoints)}.", file=sys.stderr)
        return INTERRUPTED
    finally:
        records.close(outcome)
    if collapsed:
        print(f"hjepa-train: collapsed at epoch {run.epoch}: {collapsed}.", file=sys.stderr)
        return FAILED
    return 0


def _epochs(run: Run, records: Records, checkpoints: CheckpointFolder) -> str | None:
    """Train to the end; why the run counts as collapsed, if it does."""
    config, collapsed = run.config, None
    for report in train_run(run):
        collapsed = report.collapsed
        records.write(report.epoch, report.step, report.metrics)
        if "val/knn_top1" in report.metrics:
            records.draw(report.epoch, epoch_pictures(run))
        if checkpoints.due(report.epoch, config.training.epochs):
            report.save(checkpoints.path(report.epoch))
            checkpoints.prune(report.epoch, report.metrics.get(config.checkpoint.metric))
        print(_line(report, config.training.epochs), flush=True)
    return collapsed


def _way_on(run: Run, checkpoints: CheckpointFolder) -> str:
    newest = checkpoints.newest()
    if newest is None:
        return "no checkpoint was due yet"
    lost = run.epoch - int(newest.stem.removeprefix("epoch_"))
    since = f", which is {lost} epochs old" if lost > 0 else ""
    return f"go on with --set checkpoint.resume={newest}{since}"


def _describe(run: Run, resume: Path | None) -> None:
    config = run.config
    count = sum(p.numel() for p in run.model.encoder.parameters())
    shape = config.model.shape
    height, width = run.model.grid
    print(
        f"{config.data.dataset}: {len(run.data.train)} training and {len(run.data.val)} evaluation images, "
        f"{run.steps_per_epoch} steps of {run.batch} an epoch\n"
        f"encoder: {shape.depth} blocks, width {shape.embed_dim}, {count:,} parameters, "
        f"{height} x {width} patches; device {run.device}"
    )
    if resume is None and config.model.pretrained:
        print(f"weights of {config.model.pretrained}: {'; '.join(run.notes) or 'all taken'}")
    if config.training.use_amp and run.device.type == "mps":
        print("training.use_amp: MPS stays in float32.")
    if resume is not None:
        print(f"goes on after epoch {run.epoch} from {resume}")


def _line(report: Report, epochs: int) -> str:
    shown = ("val/knn_top1", "val/linear_probe_top1", "train/loss", "val/rankme", "val/feature_std")
    values = [f"{name} {report.metrics[name]:.6g}" for name in shown if name in report.metrics]
    speed = report.metrics.get("time/images_per_s", math.nan)
    return f"epoch {report.epoch}/{epochs}  {'  '.join(values)}  {speed:.0f} images/s"
