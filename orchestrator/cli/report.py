"""What a sweep found, on one page with figures, while it runs and afterwards.

Writes `results/NAME/report/`: index.html, which needs no network, each figure as PNG, and trials.csv.
--format writes one kind alone. Nothing of the sweep itself is changed or locked. A sweep that ends writes
its report by itself, unless HJEPA_REPORT is off.
"""

import argparse
from pathlib import Path

from orchestrator.cli.going import add_storage

FORMATS = ("html", "md", "latex", "csv", "parquet", "png")
BY_SUFFIX = {".html": "html", ".md": "md", ".tex": "latex", ".csv": "csv", ".parquet": "parquet"}

EPILOG = """\
examples:
  hjepa-sweep report fpn
  hjepa-sweep report fpn -o paper/fpn.tex
  hjepa-sweep report fpn --format parquet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("name", help="name of the sweep; `hjepa-sweep list` shows them")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="one kind alone: the page, Markdown, tables for LaTeX's booktabs, all trials as CSV or Parquet, "
        "the figures (default: page, figures and CSV)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        type=Path,
        help="file to write, whose suffix tells the format, or folder for several (default: in "
        "results/NAME/report)",
    )
    add_storage(parser, "the sweep's")


def run(options: argparse.Namespace) -> int:
    """Write it; the exit status."""
    from orchestrator.definition import REPORT, find_sweep
    from orchestrator.reporting.material import read_material
    from orchestrator.reporting.write import FORMATS, write_report

    kind = options.format or _format_of(options.output)
    material = read_material(find_sweep(Path(options.results), options.name), options.storage)
    if kind is None:
        files = write_report(material, options.output or material.folder / REPORT)
    else:
        name, write = FORMATS[kind]
        path = options.output or material.folder / REPORT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        files = write(material, path)
    for file in files:
        print(file)
    return 0


def _format_of(output: Path | None) -> str | None:
    """The format that the suffix of a file tells; None for a folder."""
    from orchestrator.space import ConfigError

    if output is None or output.is_dir():
        return None
    suffix = output.suffix.lower()
    if suffix not in BY_SUFFIX and suffix[1:].isalpha():  # a folder may be v1.2
        raise ConfigError(
            f"-o {output}: no report is written as {suffix}. Allowed: {', '.join(BY_SUFFIX)}, or a folder; "
            "--format png writes the figures to one."
        )
    return BY_SUFFIX.get(suffix)
