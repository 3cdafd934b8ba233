"""What figures show."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.analysis import findings as plain
from orchestrator.analysis.front import front
from orchestrator.reporting import effects
from orchestrator.reporting.curves import learning_curves, usual_values
from orchestrator.reporting.drawings import drawings
from orchestrator.reporting.material import Material, read_material
from orchestrator.reporting.style import ON_SHADES, SHADES, canvas, styled, to_png, to_svg
from orchestrator.reporting.trade_offs import cost_s, objectives, pareto_front
from orchestrator.study.record import TrialRecord
from tests.recorded import BROAD, finished, space


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_front_is_what_nothing_beats_in_both(material: Material) -> None:
    points = {r.number: (cost_s(r), material.value(r)) for r in material.full}
    beaten = {
        n
        for n, (cost, value) in points.items()
        for c, v in points.values()
        if cost is not None and c is not None and c <= cost and v >= value and (c, v) != (cost, value)
    }
    assert {record.number for record in pareto_front(material)} == points.keys() - beaten


def test_several_objectives_are_drawn_against_each_other(tmp_path: Path, material: Material) -> None:
    both = {"metric": "val/knn_top1", "beside": ["time/images_per_s"]}
    folder = finished(tmp_path / "results", space(tmp_path, BROAD, objective=both))
    with styled():
        figure = objectives(read_material(folder))
        assert objectives(material) is None
    assert figure is not None
    (axes,) = figure.axes
    drawn = {line.get_label(): len(np.asarray(line.get_xdata())) for line in axes.get_lines()}
    found = read_material(folder)
    unbeaten = front(found.records, ["val/knn_top1", "time/images_per_s"])
    assert drawn["none beats it in all"] == len(unbeaten) > 0
    assert drawn["completed"] == len(found.full)


def test_effects_and_rungs_are_drawn_where_they_are_known(material: Material) -> None:
    estimate = plain.Estimate(0.02, 0.01, 0.03, 12)
    wide = replace(estimate, low=-0.01, high=0.05)
    levels = (
        plain.Level("false", True, 10, 4, 0, None, None, estimate),
        plain.Level("true", False, 12, 5, 0, estimate, wide, estimate),
    )
    key = plain.Effect("model.fpn.use_fpn", "false", levels, None, None, False, 22, 0.01, 0.02, {}, (), "")
    importances = plain.Importances(9, 22, (plain.Importance("model.fpn.use_fpn", 0.8, 0.7),), 0.2, 0.3)
    rungs = (plain.RungAgreement(1, estimate, None), plain.RungAgreement(3, None, estimate))
    found = plain.Findings(
        "val/knn_top1",
        "max",
        9,
        {"completed": 9},
        None,
        plain.Effects(9, 42, 1, 22, {9: 9}, (key,), 6, (), ""),
        (),
        importances,
        plain.Stopping(rungs, 20, 9, 2, 1, estimate),
    )
    with styled():
        figures = [effects.effects(found), effects.importance(found), effects.rung_agreement(found)]
    for figure in figures:
        assert figure is not None
        assert "<text" in to_svg(figure, "x", 'a "quoted" word')
    row = effects.effects_table(found).rows[1]
    assert list(row[4:7]) == ["+0.0200", "-0.0100 to +0.0500", "+0.0100 to +0.0300"]


def test_a_key_of_too_few_trials_is_named_where_importances_leave_it_out(tmp_path: Path) -> None:
    sweep, records = space(tmp_path, BROAD), list[TrialRecord]()
    rng = np.random.default_rng(0)
    for number in range(14):
        values = {"model.fpn.use_fpn": number < 4, "loss.type": ["mse", "cosine"][number % 2]}
        values |= {"model.fpn.fusion_method": "add"} if number < 4 else {}
        values |= {"loss.hierarchy_weights": [1.0, 0.5], "training.lr": float(10 ** rng.uniform(-4, -2))}
        reports = {1: {"val/knn_top1": float(rng.random())}}
        records.append(TrialRecord(number, "search", values, reports=reports, outcome="pruned"))
    (drawing,) = [
        one
        for one in drawings(Material(tmp_path, sweep, "finished", records, []))
        if one.name == "importance"
    ]
    assert drawing.caption.endswith("too few trials had a value, or all alike: model.fpn.fusion_method.")


def test_a_run_that_diverged_does_not_flatten_the_learning_curves(tmp_path: Path) -> None:
    sweep, records = space(tmp_path), list[TrialRecord]()
    for number in range(12):
        reports = {epoch: {"val/knn_top1": 0.5 + number / 100} for epoch in (1, 2, 3)}
        records.append(TrialRecord(number, "search", {}, reports=reports, outcome="completed"))
    assert usual_values(Material(tmp_path, sweep, "finished", records, [])) is None
    records[5].reports[2] = {"val/knn_top1": -1e9}
    records.append(
        TrialRecord(
            12, "search", {}, reports={1: {"val/knn_top1": -1e9}}, outcome="pruned", reason="diverged"
        )
    )
    material = Material(tmp_path, sweep, "finished", records, [])
    with styled():
        figure = learning_curves(material)
        (drawing,) = [one for one in drawings(material) if one.name == "learning_curves"]
    assert figure is not None
    assert figure.axes[0].get_ylim() == pytest.approx((0.4945, 0.6155), abs=1e-3)
    assert "Values far from all others are left out." in drawing.caption


def test_no_label_of_an_axis_is_cut_off_where_its_marks_change_with_its_length() -> None:
    with styled():
        figure, axes = canvas(3.5)
        axes.plot([1, 6], [0.5109, 4.2334], label="best of the search")
        axes.plot([1, 6], [1.9, 1.5], label="base config")
        axes.plot([1], [1.2], label="stopped early")
        axes.set(xlabel="epoch", ylabel="val/loss")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
    to_png(figure)
    assert axes.yaxis.label.get_window_extent().x0 >= 0


def test_letters_on_a_shade_can_be_read() -> None:
    for shade, letters in zip(SHADES, ON_SHADES, strict=True):
        light, dark = sorted((luminance(shade), luminance(letters)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5
