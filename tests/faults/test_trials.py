"""Trials that go bad by themselves, and two sweeps of one name."""

import pytest

from tests.workplace import SPACE, Workplace, end_session, held_still, records, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]


def test_one_bad_trial_in_a_hundred_costs_the_others_nothing(workplace: Workplace) -> None:
    """One trial in 100 whose loss is no number (NaN)."""
    rates = [round(1e-4 * 1.02**i, 9) for i in range(99)]
    rates.insert(50, 1e30)
    space = {
        "space": {"training.lr": {"grid_search": rates}},
        "search": {"algorithm": "grid"},
        "scheduler": {"type": "fifo", "max_epochs": 1},
    }
    workplace.write("tiny.yaml", {key: value for key, value in SPACE.items() if key not in space} | space)
    process = workplace.start_sweep("tiny.yaml", output=workplace.folder / "log")
    try:
        process.wait(timeout=280)
    finally:
        end_session(process)
    output = (workplace.folder / "log").read_text()
    assert process.returncode == 3, output  # done, but some trials failed
    found = {record.values.get("training.lr"): record for record in records(workplace)}
    assert set(rates) <= set(found)
    bad = found.pop(1e30)
    assert bad.outcome == "failed"
    assert "nan" in bad.reason or "finite" in bad.reason or "number" in bad.reason, bad.reason
    assert {record.outcome for record in found.values()} == {"completed"}
    assert {tuple(record.reports) for record in found.values()} == {(1,)}


def test_two_sweeps_of_one_name_at_once_are_one(workplace: Workplace) -> None:
    """Two sweeps of one name at once."""
    workplace.write("tiny.yaml", SPACE | {"scheduler": {"type": "fifo", "max_epochs": 8}})
    process = workplace.start_sweep("tiny.yaml", output=workplace.folder / "log")
    try:
        wait_for(workplace.folder / "results/tiny/trials/0000/metrics.jsonl", '"epoch": 1', process)
        with held_still(process):
            second = workplace.sweep("tiny.yaml")
        process.wait(timeout=250)
    finally:
        end_session(process)
    assert second.returncode == 2
    assert f"this sweep is running already: process {process.pid} on" in second.stderr
    assert process.returncode == 0, (workplace.folder / "log").read_text()
    assert {record.outcome for record in records(workplace)} == {"completed"}
    assert len(records(workplace)) == 5
