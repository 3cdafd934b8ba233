"""Reports of sweeps in every state, and what each format says."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from orchestrator.analysis import findings as plain
from orchestrator.definition import write_definition
from orchestrator.ending import ended_by
from orchestrator.reporting import effects, sentences
from orchestrator.reporting.contents import contents
from orchestrator.reporting.material import Material, read_material
from orchestrator.reporting.tables import Table, latex, trial_rows
from orchestrator.reporting.terminal import SweepResult
from orchestrator.reporting.terminal import summary as said_at_the_end
from orchestrator.reporting.words import summary
from orchestrator.reporting.write import draw_end
from orchestrator.study.record import TrialRecord, rank
from tests.recorded import BROAD, begun, command, finished, space
from tests.workplace import Workplace, mlflow_runs


def test_one_page_holds_everything_and_fetches_nothing(
    broad: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {
        file: file.read_bytes() for file in broad.rglob("*") if file.is_file() and "report" not in file.parts
    }
    assert command(broad.parent, "report", "broad") == 0
    files = {Path(line).name for line in capsys.readouterr().out.splitlines()}
    drawn = {"learning_curves", "parallel_coordinates", "heat_map", "cost_and_quality", "seeds"}
    assert files >= {"index.html", "trials.csv", *(f"{name}.png" for name in drawn)}
    page = (broad / "report/index.html").read_text()
    assert page.count('role="img" aria-label="') == len(files) - 2
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', page)
    assert "<script" not in page
    assert "The search&#39;s trials were proposed by random." in page
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', page)) <= set(ids)
    assert all(file.read_bytes() == content for file, content in before.items())


def test_every_trial_is_in_csv_and_parquet_with_its_values(
    broad: Path, material: Material, tmp_path: Path
) -> None:
    assert command(broad.parent, "report", "broad", "--format", "csv", "-o", str(tmp_path / "t.csv")) == 0
    assert (
        command(broad.parent, "report", "broad", "--format", "parquet", "-o", str(tmp_path / "t.parquet"))
        == 0
    )
    rows = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
    table = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert len(rows) == len(table) == len(material.records) == 31 + 9
    for record, row, entry in zip(material.records, rows, table, strict=True):
        last = record.last("val/knn_top1")
        assert last is not None
        assert float(row["objective"]) == entry["objective"] == last[1]
        assert (int(row["epochs"]), row["outcome"]) == (last[0], record.outcome)
        if "training.lr" in record.values:
            assert float(row["training.lr"]) == entry["training.lr"] == record.values["training.lr"]
        assert (row["model.fpn.fusion_method"] == "") == ("model.fpn.fusion_method" not in record.values)


def test_a_swept_seed_stands_once_and_a_fresh_one_in_its_place(tmp_path: Path) -> None:
    sweep = space(tmp_path, space={"seed": {"choice": [1, 2]}, "training.lr": {"choice": [1e-3, 2e-3]}})
    values = {"seed": 2, "training.lr": 1e-3}
    records = [
        TrialRecord(0, "base", {}),
        TrialRecord(1, "search", values),
        TrialRecord(2, "confirm", values, 1, 77),
    ]
    columns, rows = trial_rows(Material(tmp_path, sweep, "finished", records, []))
    assert [row["seed"] for row in rows] == [sweep.base.seed, 2, 77]
    assert columns.count("seed") == columns.count("training.lr") == 1


def test_markdown_and_latex_hold_the_same_figures(broad: Path, tmp_path: Path, material: Material) -> None:
    assert command(broad.parent, "report", "broad", "--format", "md", "-o", str(tmp_path / "r.md")) == 0
    assert command(broad.parent, "report", "broad", "-o", str(tmp_path / "r.tex")) == 0
    words, tex = (tmp_path / "r.md").read_text(), (tmp_path / "r.tex").read_text()
    assert material.best is not None
    value = f"{material.value(material.best):.4f}"
    assert value in words
    assert value in tex
    for picture in re.findall(r"\]\((.*?\.png)\)", words):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert tex.count(r"\toprule") == tex.count(r"\begin{tabular}") == tex.count(r"\bottomrule") >= 2
    assert "fusion_method" not in tex.replace(r"fusion\_method", "")


def test_the_suffix_of_a_file_tells_its_format_and_one_that_is_none_makes_no_folder(
    broad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("broad.png", "broad.pdf"):
        assert command(broad.parent, "report", "broad", "-o", str(tmp_path / name)) == 2
        assert f"{name}: no report is written as {name[-4:]}. Allowed: .html, .md" in capsys.readouterr().err
        assert not (tmp_path / name).exists()
    (tmp_path / "made.by").mkdir()
    for name, written in (("R.TEX", "R.TEX"), ("v1.2", "v1.2/index.html"), ("made.by", "made.by/index.html")):
        assert command(broad.parent, "report", "broad", "-o", str(tmp_path / name)) == 0
        assert (tmp_path / written).is_file()


def test_latex_takes_any_text_for_text() -> None:
    assert latex(r"a_b & 50% {x} \y ~z^2 #1 $") == (
        r"a\_b \& 50\% \{x\} \textbackslash{}y \textasciitilde{}z\textasciicircum{}2 \#1 \$"
    )
    table = Table("t", "n", ["name", "value"], [["a|b", "+0.5"], ["c", "-"]])
    assert table.markdown().splitlines()[1:3] == ["| --- | ---: |", r"| a\|b | +0.5 |"]


@pytest.mark.parametrize("reports", [None, 0, 1])
def test_a_sweep_that_has_hardly_begun_has_a_report(tmp_path: Path, reports: int | None) -> None:
    sweep = space(tmp_path, search={"num_trials": 3}, space={"training.lr": {"loguniform": [1e-4, 1e-2]}})
    folder, study = begun(tmp_path / "results", sweep)
    if reports is not None:
        record = study.ask("base", sweep.base_values())
        if reports:
            study.report(record.number, 1, {"val/knn_top1": float("nan"), "train/loss": 1.0}, None)
    assert command(folder.parent, "report", "tiny") == 0
    page = (folder / "report/index.html").read_text()
    assert "No trial has come to an end with a value yet" in page
    assert "interrupted" in page


def test_names_and_reasons_are_text_in_the_page(tmp_path: Path) -> None:
    sweep = space(tmp_path)
    folder, study = begun(tmp_path / "results", sweep)
    record = study.ask("base", sweep.base_values())
    study.report(record.number, 1, {"val/knn_top1": 0.5}, None)
    study.end(record.number, "pruned", "<b>&")
    (folder / "environment.json").write_text(
        json.dumps([{"since": "2026-01-01T00:00:00+00:00", "host": "<i>"}])
    )
    assert command(folder.parent, "report", "tiny") == 0
    page = (folder / "report/index.html").read_text()
    assert "&lt;i&gt;" in page
    assert "<i>" not in page


def test_the_verdict_comes_first_and_the_best_figure_is_not_an_estimate(material: Material) -> None:
    lines = summary(material)
    assert material.findings.confirmation is not None
    first = material.findings.confirmation.configs[0]
    assert f"{first.trial:04d}" in lines[0]
    assert first.difference is not None
    assert f"{first.difference.value:+.4f}" in lines[0]
    assert any("chosen for being the best" in line for line in lines)


def test_page_and_terminal_say_the_same_of_what_was_found(material: Material) -> None:
    result = SweepResult(material.folder, list(material.records), material.best, material.base, 0)
    terminal = said_at_the_end(result, material.sweep, "http://m").splitlines()
    for told in (sentences.effects, sentences.stopping):
        assert told(material.findings)
        assert set(told(material.findings)) <= set(terminal)
        assert set(told(material.findings)) <= set(summary(material))
    verdicts = set(sentences.verdicts(material.findings, 2))
    assert verdicts <= set(terminal)
    assert verdicts <= set(summary(material))


def test_small_losses_and_their_differences_keep_their_digits(tmp_path: Path) -> None:
    keys = {"training.lr": {"loguniform": [1e-4, 1e-2]}, "training.weight_decay": {"choice": [0.0, 0.1]}}
    confirm = {"top_k": 1, "seeds": 3}
    sweep = space(tmp_path, objective={"metric": "train/loss"}, space=keys, confirm=confirm)
    rng, records = np.random.default_rng(0), list[TrialRecord]()

    def add(number: int, role: str, values: dict[str, Any], *again: int) -> None:
        loss = 2e-5 * (1 - 0.1 * (values["training.weight_decay"] > 0) + 0.01 * rng.standard_normal())
        reports = {epoch: {"train/loss": loss / epoch} for epoch in range(1, sweep.max_epochs + 1)}
        records.append(
            TrialRecord(number, role, values, *again, reports=reports, outcome="completed")  # pyright: ignore[reportArgumentType]
        )

    for number in range(16):
        values = {"training.lr": 10 ** rng.uniform(-4, -2), "training.weight_decay": 0.1 * (number % 2)}
        add(number, "search" if number else "base", values)
    best = rank(records, "train/loss", "min")[0]
    for number in range(6):
        chosen = (records[0], best)[number % 2]
        add(16 + number, "confirm", chosen.values, chosen.number, number // 2)
    found = Material(tmp_path, sweep, "finished", records, [])
    tables = (effects.effects_table(found.findings), effects.confirmation_table(found.findings))
    result = SweepResult(tmp_path, records, best, records[0], 0)
    said = [*summary(found), *(cell for table in tables for row in table.rows for cell in row)]
    said += said_at_the_end(result, sweep, "http://m").splitlines()
    assert f"Trial {best.id} is better than the base config" in said[0]
    assert any("training.weight_decay against" in line for line in said)
    assert not [line for line in said if "0.0000" in line]


def test_a_trial_taken_up_again_counts_once_with_its_epochs(tmp_path: Path) -> None:
    sweep = space(tmp_path, search={"num_trials": 1})
    folder, study = begun(tmp_path / "results", sweep)
    base = study.ask("base", sweep.base_values())
    for epoch in range(1, sweep.max_epochs + 1):
        study.report(base.number, epoch, {"val/knn_top1": 0.5}, None)
    study.end(base.number, "completed")
    failed = study.ask("search")
    study.report(failed.number, 1, {"val/knn_top1": 0.5}, None)
    study.end(failed.number, "failed", "out of memory")
    again = study.take_up(failed)
    for epoch in range(2, sweep.max_epochs + 1):
        study.report(again.number, epoch, {"val/knn_top1": 0.5}, None)
    study.end(again.number, "completed")
    material = read_material(folder)
    assert contents(material).standing.startswith("2 of 2 trials begun (2 completed), 6 epochs in all.")
    assert not [line for line in summary(material) if "failed" in line]
    result = SweepResult(folder, list(material.records), material.best, material.base, 0)
    assert "2 trials: 2 completed; 6 epochs in all" in said_at_the_end(result, sweep, "http://m").splitlines()


def test_more_trials_than_are_asked_for_now_are_counted(tmp_path: Path) -> None:
    folder = finished(tmp_path / "results", space(tmp_path, search={"num_trials": 3}))
    write_definition(folder, space(tmp_path, search={"num_trials": 2}))
    assert contents(read_material(folder)).standing.startswith("4 of 4 trials begun (")


def test_the_page_says_what_ended_the_search_early(tmp_path: Path) -> None:
    sweep = space(tmp_path, search={"num_trials": 9, "time_budget": 100.0})
    folder, study = begun(tmp_path / "results", sweep)
    study.end_search({"key": "search.time_budget", "whole": 100.0, "spent": 101.0})
    spent = "search.time_budget: 0:00:00 of 0:01:40 spent."
    told = f"How the search stands: search.time_budget ended the search; {spent}"
    assert told in contents(read_material(folder)).standing
    draw_end(folder, sweep, [], ended_by(sweep, study))
    assert told in (folder / "report/index.html").read_text()


def test_a_base_that_alone_was_run_again_is_not_said_to_wait(tmp_path: Path) -> None:
    sweep = space(tmp_path, confirm={"top_k": 1, "seeds": 2})
    reports = {3: {"val/knn_top1": 0.5}}
    records = [
        TrialRecord(0, "base", {}, reports=reports, outcome="completed"),
        TrialRecord(1, "search", {}, outcome="failed"),
        *(
            TrialRecord(
                2 + seed, "confirm", {}, 0, seed, reports={3: {"val/knn_top1": value}}, outcome="completed"
            )
            for seed, value in enumerate((0.5, 0.6))
        ),
    ]
    said = summary(Material(tmp_path, sweep, "finished", records, []))
    assert said[0] == (
        "Nothing is confirmed: no config of the search has been run with fresh seeds, the base config alone "
        "has."
    )
    assert said[1].startswith("The base config has a mean of 0.5500")


def test_a_finalist_that_equals_the_base_is_not_said_to_differ(tmp_path: Path) -> None:
    sweep = space(tmp_path, confirm={"top_k": 1, "seeds": 2})
    records = [
        TrialRecord(number, role, {}, confirms, seed, reports={3: {"val/knn_top1": 0.5}}, outcome="completed")
        for number, (role, confirms, seed) in enumerate(
            [
                ("base", None, None),
                ("search", None, None),
                *(("confirm", of, s) for of in (0, 1) for s in (5, 6)),
            ]
        )
    ]
    said = summary(Material(tmp_path, sweep, "finished", records, []))
    assert said[0].startswith(
        "Trial 0001 has the same val/knn_top1 as the base config with every fresh seed:"
    )


def test_a_value_whose_effect_is_shown_is_told_before_larger_ones_that_are_not() -> None:
    def level(name: str, value: float, half: float) -> plain.Level:
        found = plain.Estimate(value, value - half, value + half, 9)
        return plain.Level(name, False, 9, 9, 0, found, found, found)

    reference = plain.Level("a", True, 9, 9, 0, None, None, None)
    levels = (reference, *(level(name, 0.05, 0.06) for name in "bcd"), level("e", -0.02, 0.01))
    key = plain.Effect("loss.type", "a", levels, None, None, False, 45, 0.01, 0.02, {}, (), "")
    found = plain.Effects(9, 42, 1, 45, {9: 45}, (key,), 6, (), "")
    line = sentences.effects(plain.Findings("val/knn_top1", "max", 9, {}, None, found, (), None, None))[1]
    assert line.startswith("  loss.type against a: e -0.0200 (-0.0300 to -0.0100), b ")


def test_best_and_export_give_the_config_that_was_run(
    broad: Path, material: Material, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hjepa.config import load_config

    assert material.best is not None
    assert command(broad.parent, "best", "broad", "--yaml") == 0
    (tmp_path / "best.yaml").write_text(capsys.readouterr().out)
    assert load_config(tmp_path / "best.yaml") == material.sweep.resolve(material.best.values)
    again = next(record for record in material.records if record.seed is not None)
    assert (
        command(broad.parent, "export", "broad", "--trial", str(again.number), "-o", str(tmp_path / "t.yaml"))
        == 0
    )
    assert load_config(tmp_path / "t.yaml").seed == again.seed
    capsys.readouterr()
    assert command(broad.parent, "best", "broad", "--json") == 0
    assert json.loads(capsys.readouterr().out)["best"]["trial"] == material.best.id
    assert command(broad.parent, "export", "broad", "--trial", "999") == 2
    assert "no such trial in sweep broad. There: 0000 to 0039." in capsys.readouterr().err
    assert command(broad.parent, "export", "broad", "--trial", "²") == 2
    assert "--trial ²: no such trial" in capsys.readouterr().err
    assert (
        command(broad.parent, "export", "broad", "--trial", "2", "--checkpoint", str(tmp_path / "c.pt")) == 2
    )
    assert "pruned" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_a_sweep_that_ends_has_drawn_its_report_and_a_trial_reproduces(workplace: Workplace) -> None:
    del workplace.env["HJEPA_REPORT"]
    done = workplace.sweep("tiny.yaml", "--trials", "2", "--set", "scheduler.max_epochs=2")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = workplace.folder / "results/tiny"
    assert "tiny" in (folder / "report/index.html").read_text()
    (parent,) = (run for run in mlflow_runs(workplace) if "mlflow.parentRunId" not in run.data.tags)
    artifacts = Path(parent.info.artifact_uri.removeprefix("file://"))
    assert (artifacts / "report/index.html").read_bytes() == (folder / "report/index.html").read_bytes()
    assert (artifacts / "environment.json").exists()

    same = workplace.sweep("reproduce", "tiny", "--trial", "0")
    assert same.returncode == 0, same.stdout + same.stderr
    assert "identical: " in same.stdout
    journal = folder / "study.journal"
    value = read_material(folder).records[0].reports[1]["val/knn_top1"]
    journal.write_text(journal.read_text().replace(repr(value), repr(value + 1e-12)))
    other = workplace.sweep("reproduce", "tiny", "--trial", "0")
    assert other.returncode == 1, other.stdout + other.stderr
    assert "val/knn_top1" in other.stdout
    assert "not identical: " in other.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)  # most of it to write the study: 120,000 lines, each flushed
def test_ten_thousand_trials_are_drawn_within_a_minute(tmp_path: Path) -> None:
    """Of CPU time, which is up to half as much again beside other work; `benchmarks.scale` holds 30 s."""
    import time

    sweep = space(tmp_path, BROAD, search={"algorithm": "random", "num_trials": 10_000, "seed": 0})
    folder = finished(tmp_path / "results", sweep)
    began = time.process_time()
    assert command(folder.parent, "report", "broad") == 0
    assert time.process_time() - began < 60
    assert "400 of the" in (folder / "report/index.html").read_text()
    assert len(trial_rows(read_material(folder))[1]) == 10_010
