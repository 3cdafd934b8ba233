"""Train by a YAML config, and evaluate after every epoch."""

import argparse
import math
import sys
from pathlib import Path

from hjepa.checkpoint import CheckpointFolder
from hjepa.config import RunConfig, load_config
from hjepa.judge import baselines, test_accuracy
from hjepa.records import Records, free_folder
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
    folder = config.logging.folder
    checkpoints = CheckpointFolder(config.checkpoint, _checkpoint_dir(config, folder))
    resume = checkpoints.resume_path()
    run = build_run(config, pretrained=resume is None)
    if resume is not None:
        run.load(resume)
    elif (moved := free_folder(folder)) != folder:
        print(f"{folder} holds an earlier run; this one goes to {moved}.")
        folder = moved
        checkpoints = CheckpointFolder(config.checkpoint, _checkpoint_dir(config, folder))
    _describe(run, resume)
    records = Records(config.logging, folder, config.model_dump(mode="json"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    for name, value in baselines(config).items():
        print(f"{name.replace('_', ' ').replace('/', ', ')}: {value:.4f}")
    last: Report | None = None
    try:
        for report in train_run(run):
            last = report
            records.write(report.epoch, report.step, report.metrics)
            if checkpoints.due(report.epoch, config.training.epochs):
                report.save(checkpoints.path(report.epoch))
                checkpoints.prune(report.epoch, report.metrics.get(config.checkpoint.metric))
            print(_line(report, config.training.epochs), flush=True)
    except NonFiniteError as error:
        print(f"hjepa-train: {error}; the run has failed. Records: {folder}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        newest = checkpoints.newest()
        hint = f"go on with --set checkpoint.resume={newest}" if newest else "no checkpoint was due yet"
        print(f"\nhjepa-train: interrupted; {hint}.", file=sys.stderr)
        return INTERRUPTED
    finally:
        records.close()
    if last is not None and last.collapsed:
        print(f"hjepa-train: collapsed at epoch {last.epoch}: {last.collapsed}.", file=sys.stderr)
        return FAILED
    if test:
        print(f"test/knn_top1 {test_accuracy(run):.6f} (test set, {config.data.dataset})")
    print(f"records and checkpoints: {folder}")
    return 0


def _checkpoint_dir(config: RunConfig, folder: Path) -> Path:
    given = config.checkpoint.checkpoint_dir
    return Path(given) if given else folder / "checkpoints"


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
