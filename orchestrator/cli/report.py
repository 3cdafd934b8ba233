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

    material = read_material(find_sweep(Path(options.results), options.name), options.storage)
    kind = options.format or (options.output and BY_SUFFIX.get(options.output.suffix))
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
