"""A wall clock that jumps while a sweep runs."""

from pathlib import Path

import pytest

from tests.workplace import SPACE, Workplace, end_session, learnt, records, uninterrupted, wait_for

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
HOURS_2 = 7200
SWEEP = SPACE | {
    "search": {"algorithm": "random", "num_trials": 1, "time_budget": "1h", "cost_budget": 1},
    "scheduler": {"type": "fifo", "max_epochs": 12},
    "resources": {"concurrency": 1, "trial_timeout": 600},
}

# Read by every Python process of the sweep at its start: Ray's, Tune's, MLflow's and Optuna's Python ask this
# clock as ours does. A clock faked below Python (libfaketime) would part from the kernel's, by which Ray's
# compiled part waits, and hold it up for hours; a real jump moves both.
CLOCK = """
import os, time
_time, _time_ns, _file = time.time, time.time_ns, {file!r}

def _offset_s():
    try:
        with open(_file) as file:
            return int(file.read() or 0)
    except OSError:
        return 0

time.time = lambda: _time() + _offset_s()
time.time_ns = lambda: _time_ns() + _offset_s() * 1_000_000_000
"""


@pytest.mark.slow
def test_a_clock_that_jumps_two_hours_each_way_changes_nothing(workplace: Workplace):
    """The wall clock of all Python processes set forward by two hours, then back by four."""
    offset = workplace.folder / "offset"
    (workplace.folder / "clock").mkdir()
    (workplace.folder / "clock/sitecustomize.py").write_text(CLOCK.format(file=str(offset)))
    root = str(Path(__file__).parents[2])
    workplace.env |= {"PYTHONPATH": f"{workplace.folder / 'clock'}:{root}"}
    workplace.write("tiny.yaml", SWEEP)
    metrics = workplace.folder / "results/tiny/trials/0000/metrics.jsonl"
    process = workplace.start_sweep("tiny.yaml")
    try:
        for epoch, seconds in ((3, HOURS_2), (7, -HOURS_2)):
            wait_for(metrics, f'"epoch": {epoch}', process)
            offset.write_text(str(seconds))
        output, _ = process.communicate(timeout=240)
    finally:
        end_session(process)
    assert process.returncode == 0, output
    found = records(workplace)
    times = [facts.time_ms for facts in found[0].facts.values()]
    assert max(times) - min(times) > 3 * HOURS_2 * 500, "the clock did not jump"
    for record in found:
        assert (record.outcome, record.notes) == ("completed", [])
        kept = uninterrupted(workplace, record)
        assert [{k: m[k] for k in kept[0]} for m in map(learnt, record.reports.values())] == kept
