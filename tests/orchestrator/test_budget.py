"""Budgets: what counts as spent, what is kept for fresh seeds, and sweeps that a budget ends."""

import re
from pathlib import Path

import pytest
import yaml

from orchestrator.budget import BRIDGE_S, Budget, Ledger, is_over
from orchestrator.space import ConfigError, load_sweep
from orchestrator.study.record import Facts, TrialRecord
from tests.workplace import SPACE, TINY, Workplace, records


def trial(number: int, *ends_s: float, seconds: float = 10.0, **fields: object) -> TrialRecord:
    """A trial with an epoch of `seconds` that ends at each of `ends_s`."""
    record = TrialRecord(number, "search", {}, **fields)  # pyright: ignore[reportArgumentType]
    for epoch, end_s in enumerate(ends_s, start=1):
        record.reports[epoch] = {"val/knn_top1": 0.5}
        record.facts[epoch] = Facts(epoch, int(end_s * 1000), None, seconds)
    return record


def test_epochs_side_by_side_count_once_in_time_and_each_in_cost() -> None:
    ledger = Ledger.of([trial(0, 110, 120), trial(1, 112, 122)], workers=2)
    spent = ledger.spent()
    assert spent.time_s == pytest.approx(22)
    assert spent.worker_s == pytest.approx(80)


def test_a_night_between_two_processes_is_not_spent() -> None:
    night_s = 30_000
    ledger = Ledger.of([trial(0, 110, 120, 120 + night_s, 130 + night_s)], workers=1)
    assert ledger.spent().time_s == pytest.approx(40)
    assert Ledger.of([trial(0, 110, 120 + BRIDGE_S / 2)], 1).spent().time_s == pytest.approx(
        20 + BRIDGE_S / 2
    )


def test_the_order_in_which_epochs_are_entered_does_not_matter() -> None:
    ends = [(110.0, 10.0), (400.0, 300.0), (1000.0, 20.0), (130.0, 5.0), (990.0, 400.0)]
    totals = []
    for order in (ends, ends[::-1], sorted(ends)):
        ledger = Ledger(1)
        for end_s, seconds in order:
            ledger.enter(end_s, seconds)
        totals.append(ledger.spent().time_s)
    assert totals == [pytest.approx(300 + 410)] * 3


def test_what_was_taken_over_or_taken_up_again_is_not_paid_for_twice() -> None:
    taken_over = trial(0, 110, origin="trial 0000 of other")
    failed, again = trial(1, 110), trial(2, 110, 120, retries=1)
    assert Ledger.of([taken_over, failed, again], 1).spent().worker_s == pytest.approx(20)


def test_an_epoch_that_still_runs_is_spent_as_well() -> None:
    ledger = Ledger.of([trial(0, 110)], workers=1)
    spent = ledger.spent(now=150, running_s=[40, 15])
    assert spent.time_s == pytest.approx(50)
    assert spent.worker_s == pytest.approx(65)


def test_the_search_leaves_what_the_fresh_seeds_will_take() -> None:
    budget = Budget(time_s=1000, cost_h=1.0, max_epochs=10, top_k=1, seeds=2)
    ledger = Ledger.of([trial(0, 110, 120), trial(1, 110, 120)], workers=1)  # two at a time, 10 s an epoch
    time, cost = budget.left(ledger)
    assert time.reserved == pytest.approx(1.1 * 2 * 10 * 10)
    assert time.for_search == pytest.approx(1000 - 20 - 220)
    assert cost.reserved == pytest.approx(1.1 * 4 * 10 * 10 / 3600)
    assert budget.left(ledger, confirmed=4)[0].for_search == pytest.approx(980)


def test_a_raised_budget_no_longer_ends_the_search() -> None:
    ended = {"key": "search.time_budget", "whole": 60.0, "spent": 61.0}
    assert is_over(Budget(60, None), ended)
    assert is_over(Budget(30, 5.0), ended)
    assert not is_over(Budget(61, None), ended)
    assert not is_over(Budget(None, 5.0), ended)


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90 m", 5400), ("1h30m", 5400), (45, 45), ("1.5d", 129_600)]
)
def test_time_may_be_written_in_words(tmp_path: Path, text: object, seconds: float) -> None:
    assert load(tmp_path, text).config.search.time_budget == seconds


@pytest.mark.parametrize("text", ["2 hours", "h", "-1h", 0, "1:30"])
def test_what_is_no_time_is_refused(tmp_path: Path, text: object) -> None:
    with pytest.raises(ConfigError, match=r"search\.time_budget"):
        load(tmp_path, text)


def load(folder: Path, time_budget: object):
    (folder / "base.yaml").write_text(yaml.safe_dump(TINY))
    space = SPACE | {"search": {"num_trials": 4, "time_budget": time_budget}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(space))
    return load_sweep(folder / "tiny.yaml")


@pytest.mark.slow
def test_a_sweep_ends_with_its_budget_and_goes_on_when_it_is_raised(workplace: Workplace) -> None:
    # Microseconds: used up by the first epochs, however fast the machine is.
    workplace.write(
        "tiny.yaml",
        SPACE
        | {
            "scheduler": {"type": "fifo", "max_epochs": 3},
            "search": {"num_trials": 2, "cost_budget": 1e-9},
        },
    )
    done = workplace.sweep("tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(
        r"best seen: trial \d+.* after epoch 1\n", done.stdout
    )  # not even the base came to its end
    assert "search.cost_budget ended the search" in done.stdout
    first = records(workplace)
    assert [record.outcome for record in first] == [None] * len(first)
    assert all(len(record.reports) <= 1 for record in first)
    assert sum(len(record.reports) for record in first) >= 1
    status = workplace.sweep("status", "tiny")
    assert "finished" in status.stdout
    assert "held" in status.stdout

    told = workplace.sweep("tiny.yaml")
    assert told.returncode == 0
    assert records(workplace) == first

    raised = workplace.sweep("tiny.yaml", "--set", "search.cost_budget=10")
    assert raised.returncode == 0, raised.stdout + raised.stderr
    assert "ended the search" not in raised.stdout
    found = records(workplace)
    assert [record.outcome for record in found] == ["completed"] * 3
    assert all(found[record.number].reports[1] == record.reports[1] for record in first if record.reports)
