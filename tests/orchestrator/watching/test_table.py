"""The sweep's table: what it says of a record, on wide and narrow terminals."""

import io

import pytest
from rich.console import Console

from orchestrator.study.holder import Holder
from orchestrator.study.record import Facts, TrialRecord
from orchestrator.watching.status import Status
from orchestrator.watching.table import SweepTable, sparkline, speed_of, time_left

METRIC = "val/knn_top1"


def trial(number: int, found: list[float], every_s: float = 10, **fields: object) -> TrialRecord:
    """A trial that reported `found`, 1,000 images each in half a second, `every_s` seconds apart."""
    speed = {"time/epoch_s": 0.5, "time/images_per_s": 2000.0}
    reports = {epoch: {METRIC: value, **speed} for epoch, value in enumerate(found, 1)}
    facts = {epoch: Facts(epoch, int(1e12 + 1000 * every_s * epoch)) for epoch in reports}
    kept: dict[str, object] = {"role": "search", "values": {"training.lr": 0.001 * number}} | fields
    return TrialRecord(number, reports=reports, facts=facts, **kept)  # pyright: ignore[reportArgumentType]


TRIALS = [
    trial(0, [0.1, 0.2, 0.3, 0.4], role="base", values={}, outcome="completed"),
    trial(1, [0.5, 0.6]),
    trial(2, [0.4], outcome="pruned", reason="place 3 of 3 at epoch 1"),
    trial(3, []),
]


def drawn(width: int, height: int = 40, trials: list[TrialRecord] = TRIALS) -> str:
    status = Status("s", METRIC, "max", 9, 4, [1, 2], trials, {0, 1, 2}, Holder.this(), 0, 2)
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    console.print(SweepTable(status))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_table_names_running_trials_rungs_best_base_and_why_one_was_stopped() -> None:
    lines = [line.split() for line in drawn(120).splitlines()]
    assert ["0001", "2/4", "0.6000", "running", "0:00:20", "▁█", "lr=0.001"] in lines
    assert ["0003", "0/4", "-", "waiting", "-", "lr=0.003"] in lines
    page = drawn(120)
    assert "rung at epoch 1: 3 trials, the best 1 at 0.5000 or above" in page
    assert "rung at epoch 2: 2 trials, the best 1 at 0.6000 or above" in page
    assert "best 0.4000 (trial 0000, epoch 4); base 0.4000 (trial 0000, epoch 4)" in page
    assert "0002 pruned (place 3 of 3 at epoch 1), 0.4000  lr=0.002" in page
    assert "2 of 9 trials over (1 completed, 1 pruned, 1 running, 1 waiting)" in page
    assert "\x1b" not in page


@pytest.mark.parametrize("width", [24, 40, 79, 100, 200])
def test_no_line_is_wider_or_lower_than_the_terminal_and_trials_that_do_not_fit_are_counted(
    width: int,
) -> None:
    many = [*TRIALS, *(trial(number, [0.1] * 3) for number in range(4, 60))]
    lines = drawn(width, 24, many).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= 26
    assert any(line.startswith("and ") and line.endswith(" more") for line in lines)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_many_values_take_nothing_from_a_trials_number_epoch_figure_and_state(width: int) -> None:
    values = {f"model.key_{i}": "a long value" for i in range(12)}
    lines = drawn(
        width, trials=[trial(1, [0.1] * 4, values=values), trial(3, [], values=values)]
    ).splitlines()
    rows = {line[:5].strip(): line for line in lines if line[:5].strip() in ("trial", "0001", "0003")}
    assert rows["trial"].split()[:4] == ["trial", "epoch", METRIC, "state"]
    assert rows["0001"].split()[:4] == ["0001", "4/4", "0.1000", "running"]
    assert rows["0003"].split()[:4] == ["0003", "0/4", "-", "waiting"]
    assert ("key_0=" in rows["0003"]) == (width > 40)
    base = drawn(width, trials=[trial(0, [0.1] * 4, role="base"), trial(1, [], values=values)])
    assert "base config…" not in base.replace(" ", "")


def test_time_left_is_the_median_epochs_and_passes_over_the_gap_of_an_interruption() -> None:
    record = trial(1, [0.1] * 6)
    gone_on = {e: Facts(f.order, f.time_ms + 10**7 * (e > 3)) for e, f in record.facts.items()}
    record.facts.update(gone_on)
    left = time_left(record, 10)
    assert left is not None
    assert left.total_seconds() == pytest.approx(40)
    assert time_left(trial(1, []), 10) is None


def test_speed_counts_epochs_and_images_of_all_trials_by_the_clock() -> None:
    speed = speed_of([trial(1, [0.1] * 4), trial(2, [0.1] * 4)])
    assert speed is not None
    # Eight reports of 1,000 images in 30 s, of which the first only says when these began.
    assert speed.epochs_per_min == pytest.approx(7 / 30 * 60)
    assert speed.images_per_s == pytest.approx(7000 / 30)
    assert speed.data_wait is None
    assert speed_of([]) is None


def test_speed_has_the_median_of_what_was_waited_for_images() -> None:
    record = trial(1, [0.1] * 3)
    for metrics, share in zip(record.reports.values(), (0.01, 0.5, 0.02), strict=True):
        metrics["time/data_wait"] = share
    speed = speed_of([record])
    assert speed is not None
    assert speed.data_wait == 0.02
    assert "data_wait 2.0%" in drawn(120, trials=[record])


def test_sparkline_leaves_blank_what_is_no_number() -> None:
    assert sparkline([0.0, float("nan"), 1.0, float("inf"), 1 / 7]) == "▁ █ ▂"
    assert sparkline([0.5, 0.5]) == "▁▁"
    assert sparkline([float("nan")]) == ""


def test_small_values_and_keys_that_end_alike_are_told_apart() -> None:
    values = {"model.depth": 2, "model.predictor.depth": 3}
    record = trial(1, [2e-5], values=values)
    status = Status("s", METRIC, "min", 9, 4, [1], [record], {1}, None, 0, 2, keys=tuple(values))
    console = Console(file=io.StringIO(), width=120, height=40, force_terminal=False)
    console.print(SweepTable(status))
    assert isinstance(console.file, io.StringIO)
    for page in (console.file.getvalue(), status.words()):
        assert "2e-05" in page
        assert "model.depth=2  predictor.depth=3" in page
