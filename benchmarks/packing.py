"""Trials/hour of a machine by how many trials run at a time: sharing a GPU, or a CPU's cores.

On a GPU 1, 2, 4, 8 and 16 trials share it, each a process. On a CPU all its cores are at work on each side:
two cores as two trials of one thread, or one trial of two. Real steps and evaluations of a config by the
same processes that `resources.pack: auto` measures with.
"""

import argparse
import os
import statistics
import sys
from dataclasses import dataclass, field

import torch

from hjepa.config import RunConfig, load_config
from hjepa.run import check_run_data, pick_device
from hjepa.schema import ConfigError
from orchestrator.engine.capacity import this_machine
from orchestrator.planning.crew import Crew, Load
from orchestrator.space import parse_overrides

TRIALS = (1, 2, 4, 8, 16)

EPILOG = """\
The sides alternate, in turn from the first to the last and back, and every round gives ratios to the first
side: neighbours on the machine slow all of them, so trust the ratios and not the trials/hour alone. On a busy
CPU several threads of a trial wait for one another, by default spinning, which counts as CPU seconds too;
OMP_WAIT_POLICY=PASSIVE lets them sleep instead.
Trials/hour are of whole trials of the config's epochs, evaluations included, none stopped early.

examples:
  python -m benchmarks.packing
  python -m benchmarks.packing --config configs/m1_max/m1_max_quick_val.yaml --set data.dataset=digits \\
      --set data.data_path=null --seconds 8 --training-only
  python -m benchmarks.packing --device cuda
  python -m benchmarks.packing --device cuda --config configs/core/default.yaml --set data.data_path=DIR
"""


@dataclass
class Side:
    """So many trials at a time, of so many threads each."""

    trials: int
    threads: int
    loads: list[Load] = field(default_factory=list)
    failed: str | None = None

    def __str__(self) -> str:
        return f"{self.trials} x {self.threads} thread{'s' if self.threads > 1 else ''}"


def sides_of(options: argparse.Namespace, device: str) -> list[Side]:
    """What is compared on that kind of device."""
    (node,) = this_machine()
    cores = int(node["CPU"])
    if device == "cuda":
        return [Side(trials, options.threads) for trials in options.trials]
    threads = [2**power for power in range(cores.bit_length())]
    return [Side(cores // count, count) for count in threads]


def measure(run: RunConfig, sides: list[Side], options: argparse.Namespace, on_gpu: bool) -> None:
    """Let each side train for some seconds, in turn, `options.rounds` times."""
    with Crew(run, on_gpu) as crew:
        for number in range(options.rounds):
            for side in reversed(sides) if number % 2 else sides:
                if side.failed is None:
                    _measure_once(crew, side, options)


def _measure_once(crew: Crew, side: Side, options: argparse.Namespace) -> None:
    try:
        load = crew.measure(side.trials, side.threads, options.seconds, not options.training_only)
    except ConfigError as error:
        if not side.loads and side.trials == 1:
            raise
        side.failed = str(error).splitlines()[0]
    else:
        side.loads.append(load)


def trials_per_hour(load: Load, run: RunConfig) -> float:
    """Of whole trials, each as fast as in `load`; without their evaluations where none was measured."""
    batch = run.data.batch_size * run.training.accumulation_steps
    epoch_s = load.steps_per_epoch * batch * load.trials / load.images_per_s
    epoch_s += load.evaluation_s / run.evaluation.eval_frequency
    return load.trials * 3600 / (epoch_s * run.training.epochs)


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    if len(values) == 1:
        return _figure(values[0])
    low, middle, high = map(_figure, statistics.quantiles(values, n=4, method="inclusive"))
    return f"{middle} ({low} to {high})"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def show(run: RunConfig, sides: list[Side], options: argparse.Namespace, place: str) -> None:
    """Print the figures."""
    what = "trials/hour, without evaluations" if options.training_only else "trials/hour"
    print(
        f"{options.config} {' '.join(options.set)}\n{place}, torch {torch.__version__}, "
        f"load {os.getloadavg()[0]:.1f}; {options.rounds} rounds of {options.seconds:g} s; medians, quartiles"
    )
    first = sides[0]
    for side in sides:
        if side.failed is not None:
            print(f"{side}: {side.failed}")
            continue
        hourly = [trials_per_hour(load, run) for load in side.loads]
        print(
            f"{side}: {spread(hourly)} {what}; {spread([load.images_per_s for load in side.loads])} images/s "
            f"of all, {spread([load.images_per_cpu_s for load in side.loads])} by CPU second"
            + _of_gpu(side.loads[-1])
        )
        if side is not first and first.failed is None:
            before = [trials_per_hour(load, run) for load in first.loads]
            cpu = [
                b.images_per_cpu_s / a.images_per_cpu_s for a, b in zip(first.loads, side.loads, strict=True)
            ]
            print(
                f"  {spread([b / a for a, b in zip(before, hourly, strict=True)])} times {first}; "
                f"images by CPU second {spread(cpu)} times"
            )


def _of_gpu(load: Load) -> str:
    if not load.gpu_total_bytes:
        return ""
    used, total = load.gpu_used_bytes / 1e9, load.gpu_total_bytes / 1e9
    return f"; GPU {load.gpu_busy_percent} % busy, {used:.1f} of {total:.1f} GB"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; exits on a wrong one."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.packing",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", default="configs/quick/digits.yaml", help="of the trials (default %(default)s)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of it; may be repeated",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default %(default)s")
    parser.add_argument(
        "--trials", type=_positive, nargs="+", default=TRIALS, help="on a GPU at a time (default 1 2 4 8 16)"
    )
    parser.add_argument(
        "--threads", type=_positive, default=1, help="of each trial on a GPU (default %(default)s)"
    )
    parser.add_argument("--rounds", type=_positive, default=5, help="default %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="that each side trains in a round (default %(default)s)"
    )
    parser.add_argument("--training-only", action="store_true", help="measure no evaluation")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 1")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    options = parse(arguments)
    try:
        device = pick_device(options.device).type
        run = load_config(options.config, {**parse_overrides(options.set), "device": device})
        check_run_data(run)
        sides = sides_of(options, device)
        measure(run, sides, options, on_gpu=device == "cuda")
    except ConfigError as error:
        print(f"packing: {error}", file=sys.stderr)
        return 2
    show(run, sides, options, torch.cuda.get_device_name() if device == "cuda" else "cpu")
    return 0


if __name__ == "__main__":
    sys.exit(main())
