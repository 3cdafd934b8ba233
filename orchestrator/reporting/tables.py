"""Tables of a report, and how each format writes one."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.reporting.caption import NONE, in_short, number
from orchestrator.reporting.material import Material
from orchestrator.reporting.space_plots import outcome_of
from orchestrator.reporting.trade_offs import cost_s
from orchestrator.space.distribution import label
from orchestrator.study.record import TrialRecord
from orchestrator.watching.table import DATA_WAIT

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
_NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?%?")


@dataclass(frozen=True)
class Table:
    """A heading, what to know of it, and rows of text."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def is_numeric(self, column: int) -> bool:
        """Whether a column's entries are numbers, which stand to the right."""
        entries = [row[column] for row in self.rows if row[column] not in ("", NONE)]
        return bool(entries) and all(_NUMBER.fullmatch(entry) for entry in entries)

    def markdown(self) -> str:
        """As GitHub's Markdown has it."""
        rule = ["---:" if self.is_numeric(i) else "---" for i in range(len(self.columns))]
        lines = [self.columns, rule, *self.rows]
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
        )

    def text(self) -> str:
        """For a terminal."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def latex(self) -> str:
        """By booktabs."""
        kinds = "".join("r" if self.is_numeric(i) else "l" for i in range(len(self.columns)))
        lines = [" & ".join(map(latex, line)) + r" \\" for line in (self.columns, *self.rows)]
        return "\n".join(
            [
                r"\begin{table}",
                rf"  \caption{{{latex(self.title)}. {latex(self.note)}}}",
                r"  \centering",
                rf"  \begin{{tabular}}{{{kinds}}}",
                r"    \toprule",
                f"    {lines[0]}",
                r"    \midrule",
                *(f"    {line}" for line in lines[1:]),
                r"    \bottomrule",
                r"  \end{tabular}",
                r"\end{table}",
            ]
        )


def latex(text: str) -> str:
    """`text` with what LaTeX would take for a command written out."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def leading_trials(material: Material, limit: int = 15) -> Table:
    """The best trials of the search, those that ran longest first."""
    keys = [key for key in material.sweep.config.space if any(key in r.values for r in material.ranking)]
    found = {record.number: record.figure(DATA_WAIT) for record in material.ranking[:limit]}
    waits = found if any(wait is not None for wait in found.values()) else None
    rows = []
    for record in material.ranking[:limit]:
        values = material.values_of(record)
        shown = [label_of(values[key]) if key in values else NONE for key in keys]
        name = f"{record.id} (base)" if record.role == "base" else record.id
        waited = [] if waits is None else [_share(waits[record.number])]
        value = number(material.value(record))
        rows.append([name, *shown, str(material.epochs(record)), value, outcome_of(record), *waited])
    of = f"{len(rows)} of {len(material.ranking)}" if len(material.ranking) > limit else f"all {len(rows)}"
    return Table(
        f"Trials of the search, {of}",
        "Those that ran longest first, then by value. A dash: the key has no meaning for that trial. "
        "The first figures are too good on average, since they stand first for being good."
        + ("" if waits is None else " data_wait: the share of its steps' time that it waited for images."),
        ["trial", *keys, "epochs", material.metric, "ended", *([] if waits is None else ["data_wait"])],
        rows,
    )


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.1%}"


def label_of(value: Any) -> str:
    """A swept value in few letters."""
    return in_short(value) if isinstance(value, float) else label(value)


def trial_rows(material: Material) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns, and all trials, for whoever goes on with them elsewhere."""
    keys = [key for key in material.sweep.config.space if key != "seed"]  # which is a column anyway
    metrics = sorted({name for record in material.records for last in _last(record) for name in last})
    own = [
        "trial",
        "role",
        "outcome",
        "epochs",
        "objective",
        "seconds_of_training",
        "seed",
        "confirms",
        "retries",
    ]
    columns = [*own, *keys, *(f"last/{name}" for name in metrics), "began", "ended", "reason", "notes"]
    rows = []
    for record in material.records:
        last = record.last(material.metric)
        row: dict[str, Any] = dict.fromkeys(columns)
        values = material.values_of(record)
        row |= {
            "trial": record.number,
            "role": record.role,
            "outcome": record.outcome,
            "epochs": material.epochs(record),
            "objective": last[1] if last else None,
            "seconds_of_training": cost_s(record),
            "seed": values.get("seed", material.sweep.base.seed) if record.seed is None else record.seed,
            "confirms": record.confirms,
            "retries": record.retries,
            "began": record.began.isoformat() if record.began else None,
            "ended": record.ended.isoformat() if record.ended else None,
            "reason": record.reason or None,
            "notes": "; ".join(record.notes) or None,
        }
        row |= {key: _plain(values[key]) for key in keys if key in values}
        row |= {f"last/{name}": value for last in _last(record) for name, value in last.items()}
        rows.append(row)
    return columns, rows


def _last(record: TrialRecord) -> list[Mapping[str, float]]:
    return [record.reports[max(record.reports)]] if record.reports else []


def _plain(value: Any) -> Any:
    """Numbers stay numbers; lists and the like become their labels."""
    return value if isinstance(value, int | float | str | bool) else label(value)


def trials_csv(material: Material) -> str:
    """All trials as CSV."""
    columns, rows = trial_rows(material)
    with io.StringIO(newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue()


def write_parquet(material: Material, path: Path) -> None:
    """All trials as Parquet. A key whose values are of several types becomes text."""
    import pyarrow
    from pyarrow import parquet

    columns, rows = trial_rows(material)
    data: dict[str, list[Any]] = {}
    for name in columns:
        values = [row[name] for row in rows]
        kinds = {type(value) for value in values if value is not None}
        mixed = len(kinds) > 1 and not kinds <= {int, float}
        data[name] = [None if v is None else label(v) for v in values] if mixed else values
    parquet.write_table(pyarrow.table(data), path)
