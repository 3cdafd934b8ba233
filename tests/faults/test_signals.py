"""A sweep asked to stop: once, twice, and by a scheduler."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.workplace import (
    SPACE,
    TINY,
    Workplace,
    end_session,
    records,
    require_none_running,
    wait_for,
    wait_until,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]
# An epoch takes longer than a sweep waits for one that is to stop.
LONG_EPOCHS = TINY | {
    "model": TINY["model"] | {"embed_dim": 192, "depth": 12, "patch_size": 1},
    "data": {"batch_size": 64},
}
SWEEP = SPACE | {
    "search": {"algorithm": "random", "num_trials": 1},
    "scheduler": {"type": "fifo", "max_epochs": 50},
    "resources": {"concurrency": 1},
}


ASKED = [
    (os.kill, signal.SIGINT),
    (os.kill, signal.SIGTERM),
    (os.kill, signal.SIGUSR1),
    (os.killpg, signal.SIGTERM),  # as `timeout` does
]


@pytest.mark.parametrize(("send", "number"), ASKED, ids=["SIGINT", "SIGTERM", "SIGUSR1", "SIGTERM to all"])
@pytest.mark.parametrize("epochs", ["short", "long"])
def test_one_signal_stops_within_15_s(
    workplace: Workplace, send: Callable[[int, int], None], number: signal.Signals, epochs: str
) -> None:
    """One signal to the driver or to its process group, epochs short and long."""
    if epochs == "long":
        workplace.write("base.yaml", LONG_EPOCHS)
    workplace.write("tiny.yaml", SWEEP)
    process = workplace.start_sweep("tiny.yaml")
    trial = workplace.folder / "results/tiny/trials/0000"
    try:
        if epochs == "long":
            wait_until((trial / "config.yaml").exists, process)
        else:
            wait_for(trial / "metrics.jsonl", '"epoch": 1', process)
        time.sleep(1)
        began = time.monotonic()
        send(process.pid, number)
        output, _ = process.communicate(timeout=60)
        took_s = time.monotonic() - began
    finally:
        end_session(process)
    assert process.returncode == 130, output
    assert took_s < 15
    assert f"{number.name}: the sweep stops" in output
    assert "  hjepa-sweep tiny.yaml\n" in output
    assert "Traceback" not in output
    (record, *_) = records(workplace)
    assert record.outcome is None
    if epochs == "short":  # what was reported last is what is on disk
        assert (trial / f"epoch_{max(record.reports):05d}.pt").exists()
        assert record.checkpoint == f"epoch_{max(record.reports):05d}.pt"
    require_none_running(workplace)


def test_two_signals_leave_at_once_and_lose_nothing(workplace: Workplace) -> None:
    """Ctrl-C twice in the middle of a long epoch."""
    workplace.write("base.yaml", LONG_EPOCHS)
    workplace.write("tiny.yaml", SWEEP)
    process = workplace.start_sweep("tiny.yaml")
    try:
        wait_until((workplace.folder / "results/tiny/trials/0000/config.yaml").exists, process)
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(1)
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        took_s = time.monotonic() - began
    finally:
        end_session(process)
    assert process.returncode == 130, output
    assert took_s < 8
    assert "Traceback" not in output
    (record, *_) = records(workplace)
    assert record.outcome is None
    require_none_running(workplace)
