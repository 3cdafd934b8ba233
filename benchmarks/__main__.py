"""Runs the benchmarks one after another, and keeps what they print in docs/performance.md.

Each has a part of its own there, with the date, the commit, the machine and its load; a benchmark that fails
leaves its part as it was. All together take some hours: name those that are wanted.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/performance.md"
HEAD = """<!-- `make bench` writes what follows. -->
## As last printed
"""
BENCHMARKS = {
    "step": "benchmarks.step",
    "step on one thread": "benchmarks.step --threads 1",
    "memory": "benchmarks.step_memory --threads 1",
    "quality": "benchmarks.bf16_quality",
    "shared data": "benchmarks.shared_data",
    "decoding": "benchmarks.decoding",
    "first epoch": "benchmarks.first_epoch",
    "overhead": "benchmarks.trial_overhead",
    "trials per hour": "benchmarks.trials_per_hour",
    "packing": "benchmarks.packing",
    "scale": "benchmarks.scale",
    "cluster": "benchmarks.cluster",
    "search, table": "benchmarks.search --worlds table",
    "search, prior": "benchmarks.search --worlds prior",
}
"""Module and options of each, by its name."""


def run(command: str, say: Callable[[str], None]) -> tuple[int, str]:
    """Exit status, and what a benchmark printed; `say` hears each line of it as it comes."""
    words, lines = [sys.executable, "-m", *command.split()], []
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            say(line.rstrip())
            lines.append(line.rstrip())
    return process.returncode, "\n".join(lines)


def with_part(page: str, name: str, text: str) -> str:
    """The page with the part of one benchmark put in, in the place of the one before or at its end."""
    part = f"### {name}\n\n{text}\n"
    if HEAD not in page:
        return f"{page.rstrip()}\n\n{HEAD}\n{part}"
    before, _, after = page.partition(HEAD)
    parts = dict(re.findall(r"^### (.+)\n((?:(?!### ).*\n)*)", after, flags=re.MULTILINE))
    parts[name] = f"\n{text}\n"
    shown = [f"### {title}\n\n{body.strip()}\n" for title, body in parts.items()]
    return f"{before}{HEAD}\n" + "\n".join(shown)


def circumstances(load: float) -> str:
    """When, on what code, and where."""
    described = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(described, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{date.today()}, commit {commit}, {_processor()}, {len(os.sched_getaffinity(0))} cores, "
        f"{memory:.0f} GiB, load {load:.1f} before it began."
    )


def _processor() -> str:
    try:
        told = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        told = None
    return told.group(1).strip() if told else platform.processor() or platform.machine()


def main() -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="names: " + "; ".join(BENCHMARKS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the benchmarks; default: all")
    wanted = parser.parse_args().names or list(BENCHMARKS)
    unknown = [name for name in wanted if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark is named {unknown[0]}; there are: {'; '.join(BENCHMARKS)}")
    failed = []
    for name in wanted:
        command, load = BENCHMARKS[name], os.getloadavg()[0]
        print(f"python -m {command}", flush=True)
        status, printed = run(command, lambda line: print(f"  {line}", flush=True))
        if status:
            failed.append(name)
            print(f"{name}: exit status {status}; its part of {PAGE.name} stays as it was", file=sys.stderr)
            continue
        text = f"`python -m {command}`, {circumstances(load)}\n\n```\n{printed}\n```"
        PAGE.write_text(with_part(PAGE.read_text(encoding="utf-8"), name, text), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
