"""A report of every shipped space at every stage of its sweep: made-up figures of values that it may draw."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.analysis import analyse
from orchestrator.reporting.contents import contents
from orchestrator.reporting.material import Material, read_material
from orchestrator.reporting.page import to_html, to_markdown
from orchestrator.reporting.space_plots import parallel_coordinates
from orchestrator.reporting.style import styled
from orchestrator.reporting.tables import trial_rows
from orchestrator.reporting.terminal import SweepResult, summary
from orchestrator.space import Sweep, load_sweep
from orchestrator.space.satisfiable import draws
from orchestrator.study.reading import read_study
from orchestrator.study.record import TrialRecord
from orchestrator.study.study import Study
from tests.recorded import begun, space

SPACES = sorted((Path(__file__).parents[3] / "search_spaces").glob("*.yaml"))
# Trials proposed; trials listed; keys that determine others, and several seeds.
KINDS = ("fpn", "augmentation", "hierarchy")


def proposals(sweep: Sweep) -> Iterator[dict[str, Any]]:
    return (values for values in draws(sweep, 1000) if sweep.broken(values) is None)


def trained(study: Study, record: TrialRecord, epochs: int, rng: np.random.Generator) -> None:
    for epoch in range(1, epochs + 1):
        metrics = {study.metric: 0.5 + 0.02 * epoch + 0.01 * float(rng.normal()), "time/epoch_s": 1.0}
        study.report(record.number, epoch, metrics, None)


def searched(study: Study, values: dict[str, Any], rng: np.random.Generator) -> None:
    """A trial that stops at a rung, or at the end."""
    record = study.ask("search", values)
    epochs = study.sweep.looks[record.number % len(study.sweep.looks)]
    trained(study, record, epochs, rng)
    study.end(record.number, "completed" if epochs == study.sweep.max_epochs else "pruned")


def told(folder: Path, sweep: Sweep) -> None:
    """Everything is written of the sweep as it stands but importances, which take seconds."""
    material = Material(folder, sweep, "running", read_study(folder, None), [])
    vars(material)["findings"] = analyse(sweep, material.records, with_importances=False)
    found = contents(material)
    page = to_html(found)
    assert page.count("<svg") == len(found.drawings)
    assert to_markdown(found)
    result = SweepResult(folder, list(material.records), material.best, material.base, 0)
    assert summary(result, sweep, "sqlite:///mlflow.db")
    assert all(table.text() and table.latex() for table in found.tables)
    assert len(trial_rows(material)[1]) == len(material.records)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.stem in KINDS else pytest.mark.slow) for path in SPACES],
    ids=lambda path: path.stem,
)
def test_a_shipped_space_has_a_report_at_every_stage(path: Path, tmp_path: Path) -> None:
    sweep, rng = load_sweep(path), np.random.default_rng(0)
    folder, study = begun(tmp_path, sweep)
    told(folder, sweep)
    base = study.ask("base", sweep.base_values())
    trained(study, base, 1, rng)  # the first rung is not reached
    told(folder, sweep)
    for values in islice(proposals(sweep), 3):
        searched(study, values, rng)
    told(folder, sweep)
    for values in islice(proposals(sweep), 3, 32):
        searched(study, values, rng)
    study.end(base.number, "completed")
    for seed in (1, 2):
        for of in (study.trials[0], study.trials[1]):
            again = study.ask_again(of, seed)
            trained(study, again, sweep.max_epochs, rng)
            study.end(again.number, "completed")
    told(folder, sweep)


def test_every_weight_of_a_list_has_an_axis_of_its_own(tmp_path: Path) -> None:
    loss = next(path for path in SPACES if path.stem == "loss")
    sweep, rng = load_sweep(loss), np.random.default_rng(0)
    folder, study = begun(tmp_path, sweep)
    for values in islice(proposals(sweep), 4):
        searched(study, values, rng)
    with styled():
        figure = parallel_coordinates(read_material(folder))
    assert figure is not None
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert [name for name in names if "hierarchy_weights" in name] == [
        f"loss.hierarchy_weights[{weight}]" for weight in range(3)
    ]


def test_a_logarithmic_range_that_no_trial_had_is_drawn_from_end_to_end(tmp_path: Path) -> None:
    vicreg = {
        "loss.use_vicreg": {"choice": [True, False]},
        "loss.vicreg.weight": {"loguniform": [0.1, 10.0], "when": {"loss.use_vicreg": True}},
    }
    folder, study = begun(tmp_path / "results", space(tmp_path, space=vicreg))
    searched(study, {"loss.use_vicreg": False}, np.random.default_rng(0))
    with styled():
        figure = parallel_coordinates(read_material(folder))
    assert figure is not None
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written[2:5] == ["0.1", "1", "10"]
