"""Writing a report to disk, whole files only."""

from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.definition import PAGE, REPORT, beside, write_whole
from orchestrator.process.environment import read_environments
from orchestrator.reporting.contents import contents
from orchestrator.reporting.material import Material
from orchestrator.reporting.page import to_html, to_markdown
from orchestrator.reporting.style import to_png
from orchestrator.reporting.tables import trials_csv, write_parquet
from orchestrator.space import Sweep
from orchestrator.study.record import TrialRecord

TRIALS = "trials.csv"


def write_report(material: Material, folder: Path) -> list[Path]:
    """The page, its figures for papers and the trials, in `folder`; the files."""
    found = contents(material)
    folder.mkdir(parents=True, exist_ok=True)
    for drawing in found.drawings:
        write_whole(folder / f"{drawing.name}.png", to_png(drawing.figure))
    write_whole(folder / TRIALS, trials_csv(material))
    write_whole(folder / PAGE, to_html(found))
    return [folder / PAGE, folder / TRIALS, *(folder / f"{d.name}.png" for d in found.drawings)]


def draw_end(folder: Path, sweep: Sweep, records: list[TrialRecord], budgets: Sequence[str]) -> Path:
    """The report of a sweep that has come to its end in this process; the report's folder."""
    material = Material(folder, sweep, "finished", records, read_environments(folder), budgets)
    write_report(material, folder / REPORT)
    return folder / REPORT


def write_html(material: Material, path: Path) -> list[Path]:
    """The page alone."""
    write_whole(path, to_html(contents(material)))
    return [path]


def write_markdown(material: Material, path: Path) -> list[Path]:
    """The report as Markdown, its figures beside it."""
    found = contents(material)
    for drawing in found.drawings:
        write_whole(path.parent / f"{drawing.name}.png", to_png(drawing.figure))
    write_whole(path, to_markdown(found))
    return [path, *(path.parent / f"{d.name}.png" for d in found.drawings)]


def write_latex(material: Material, path: Path) -> list[Path]:
    """The tables, for a paper that uses booktabs."""
    head = "% \\usepackage{booktabs}\n"
    write_whole(path, head + "\n\n".join(table.latex() for table in contents(material).tables) + "\n")
    return [path]


def write_csv(material: Material, path: Path) -> list[Path]:
    """All trials as CSV."""
    write_whole(path, trials_csv(material))
    return [path]


def write_trials_parquet(material: Material, path: Path) -> list[Path]:
    """All trials as Parquet."""
    with beside(path) as temporary:
        write_parquet(material, temporary)
    return [path]


def write_pngs(material: Material, folder: Path) -> list[Path]:
    """The figures, for papers and slides."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for drawing in contents(material).drawings:
        files.append(folder / f"{drawing.name}.png")
        write_whole(files[-1], to_png(drawing.figure))
    return files


FORMATS: dict[str, tuple[str, Callable[[Material, Path], list[Path]]]] = {
    "html": (PAGE, write_html),
    "md": ("report.md", write_markdown),
    "latex": ("report.tex", write_latex),
    "csv": (TRIALS, write_csv),
    "parquet": ("trials.parquet", write_trials_parquet),
    "png": ("", write_pngs),
}
"""Each format's file in the report's folder (of png the folder itself), and what writes it."""
