"""Trials on a cluster whose nodes come and go."""

import time
from collections.abc import Callable

import pytest

from tests.programs.nodes import Nodes
from tests.workplace import (
    SPACE,
    Workplace,
    end_session,
    learnt,
    records,
    uninterrupted,
    wait_for,
    wait_until,
)

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
LONG = SPACE | {
    "search": {"algorithm": "random", "num_trials": 1},
    "scheduler": {"type": "fifo", "max_epochs": 80},
    "resources": {"max_failures": 0},
}


def swept_while(fault: Callable[[str], None], workplace: Workplace, cluster: Nodes) -> str:
    """A sweep on two nodes to its end, to one of which `fault` happens; what it printed.

    Every trial runs to its end with its numbers, and the one on that node has been noted.
    """
    first, _ = cluster.add(), cluster.add()
    workplace.write("tiny.yaml", LONG)
    process = workplace.start_sweep("tiny.yaml", "--address", cluster.address)
    try:
        for number in ("0000", "0001"):
            wait_for(workplace.folder / f"results/tiny/trials/{number}/metrics.jsonl", '"epoch": 2', process)
        fault(first)
        output, _ = process.communicate(timeout=240)
    finally:
        end_session(process)
    assert process.returncode == 0, output
    found = records(workplace)
    assert [record.outcome for record in found] == ["completed"] * 2
    lost = [record.notes for record in found if record.notes]
    assert lost == [["its node was lost; goes on elsewhere"]], output
    _require_uninterrupted(workplace)
    return output


def _require_uninterrupted(workplace: Workplace) -> None:
    """Every trial has the numbers of a run without a fault."""
    for record in records(workplace):
        kept = uninterrupted(workplace, record)
        assert [{k: m[k] for k in kept[0]} for m in map(learnt, record.reports.values())] == kept


@pytest.mark.slow
def test_a_lost_node_costs_its_trial_no_report_and_no_failure(workplace: Workplace, cluster: Nodes):
    """A node of two vanishes, and another is added."""

    def vanish(node: str) -> None:
        cluster.kill(node)
        cluster.add()

    assert "on a cluster of 3 nodes" in swept_while(vanish, workplace, cluster)


@pytest.mark.slow
def test_a_node_that_is_taken_back_costs_its_trial_no_failure(workplace: Workplace, cluster: Nodes):
    """A node of two is drained, as a spot instance is, and then vanishes."""

    def take_back(node: str) -> None:
        cluster.drain(node)
        cluster.kill(node)

    swept_while(take_back, workplace, cluster)


@pytest.mark.slow
def test_nodes_that_are_added_are_used(workplace: Workplace, cluster: Nodes):
    """A second node is added to the only one; trials under Ray Train then run two at a time."""
    cluster.add()
    endless = {"scheduler": {"type": "fifo", "max_epochs": 10_000}, "resources": {"engine": "train"}}
    workplace.write("tiny.yaml", LONG | endless)
    printed = workplace.folder / "printed"
    process = workplace.start_sweep("tiny.yaml", "--address", cluster.address, output=printed)
    first, second = (workplace.folder / f"results/tiny/trials/{n}/metrics.jsonl" for n in ("0000", "0001"))
    try:
        wait_for(printed, "trial 0000 begins", process)
        time.sleep(2)  # two that are let begin do so at once
        assert "trial 0001 begins" not in printed.read_text()
        cluster.add()
        wait_for(second, '"epoch": 1', process)
        before = len(first.read_text())
        wait_until(lambda: len(first.read_text()) > before, process)
        process.terminate()
        process.wait(timeout=60)
    finally:
        end_session(process)
    output = printed.read_text()
    assert process.returncode == 130, output


@pytest.mark.slow
def test_a_cluster_whose_first_node_is_lost_is_left_in_words(workplace: Workplace, cluster: Nodes):
    """All of Ray on the head node is killed; the sweep goes on with a Ray of its own."""
    cluster.add()
    workplace.write("tiny.yaml", LONG)
    process = workplace.start_sweep("tiny.yaml", "--address", cluster.address)
    try:
        wait_for(workplace.folder / "results/tiny/trials/0000/metrics.jsonl", '"epoch": 2', process)
        cluster.behead()
        output, _ = process.communicate(timeout=120)
    finally:
        end_session(process)
    assert process.returncode == 1, output
    assert f"the Ray cluster at {cluster.address} has not answered for 4" in output
    assert "what was reported is kept. Go on with:\n  hjepa-sweep tiny.yaml" in output
    assert f"--address {cluster.address}" in output
    assert "Traceback" not in output
    done = workplace.sweep("tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    _require_uninterrupted(workplace)


@pytest.mark.slow
def test_what_can_never_fit_is_refused_with_the_arithmetic(workplace: Workplace, cluster: Nodes):
    """A trial of two workers of two cores on nodes of one and three."""
    cluster.add(1), cluster.add(3)
    workplace.write("tiny.yaml", LONG | {"resources": {"workers": 2, "cpus_per_worker": 2}})
    done = workplace.sweep("tiny.yaml", "--address", cluster.address)
    assert done.returncode == 2, done.stdout + done.stderr
    assert (
        "asks for 2 workers x 2 = 4 cores, the nodes have 3, 1, 0, and a worker's lie on one" in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert not (workplace.folder / "results").exists()


def test_a_cluster_that_is_not_there_is_an_error_in_words(workplace: Workplace):
    """An address at which no cluster listens."""
    done = workplace.ask("tiny.yaml", "--address", "127.0.0.1:1")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "RAY_ADDRESS 127.0.0.1:1: no Ray cluster can be reached there" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (workplace.folder / "results").exists()
