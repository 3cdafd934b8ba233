"""A sweep killed at random moments, against one that nobody touched."""

import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from tests.programs.postgres import PASSWORD, Postgres, require_no_password
from tests.workplace import (
    SPACE,
    Workplace,
    children,
    end_session,
    learnt,
    mlflow_runs,
    records,
    sweep_to_kill,
    wait_for,
)

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

# One at a time, so that who meets whom at a rung does not depend on the clock.
SWEEP = SPACE | {
    "search": {"algorithm": "random", "num_trials": 5, "seed": 3},
    "scheduler": {"type": "asha", "max_epochs": 4, "grace_epochs": 1, "reduction_factor": 2, "audit": 0},
    "resources": {"concurrency": 1},
    "confirm": {"top_k": 1, "seeds": 2},
}


def told(workplace: Workplace) -> list[dict[str, Any]]:
    """Everything that a sweep says of its trials, but for times."""
    return [
        {
            "trial": record.id,
            "role": record.role,
            "values": record.values,
            "of": (record.confirms, record.seed),
            "outcome": record.outcome,
            "reason": record.reason,
            "notes": record.notes,
            "reports": {epoch: learnt(metrics) for epoch, metrics in record.reports.items()},
        }
        for record in records(workplace)
    ]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory, state_folder: Path) -> list[dict[str, Any]]:
    workplace = Workplace(tmp_path_factory.mktemp("untouched"), state_folder)
    workplace.write("tiny.yaml", SWEEP)
    done = workplace.sweep("tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return told(workplace)


def kill_at_random(workplace: Workplace, kills: int, seed: int, up_to_s: float) -> None:
    """Start the sweep and kill its driver, `kills` times; each time it does a little more."""
    rng = random.Random(seed)
    for _ in range(kills):
        with sweep_to_kill(workplace, "tiny.yaml") as process:
            # The moments lie from the start of Python, through that of Ray, into the trials.
            time.sleep(rng.uniform(0.5, up_to_s))
            over = process.poll() is not None
        if over:
            return


def require_as_untouched(workplace: Workplace, untouched: list[dict[str, Any]]) -> None:
    done = workplace.sweep("tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert told(workplace) == untouched
    found = children(workplace)
    assert set(found) == {record["trial"] for record in untouched}
    assert {run.info.status for run in mlflow_runs(workplace)} == {"FINISHED"}
    client = MlflowClient(f"sqlite:///{workplace.folder / 'results' / 'mlflow.db'}")
    for record in untouched:
        history = client.get_metric_history(found[record["trial"]].info.run_id, "val/knn_top1")
        reported = {epoch: metrics["val/knn_top1"] for epoch, metrics in record["reports"].items()}
        assert [(point.step, point.value) for point in history] == list(reported.items())


def test_a_sweep_killed_at_its_start_and_in_the_middle_ends_as_if_nothing_had_happened(
    workplace: Workplace, untouched: list[dict[str, Any]]
) -> None:
    """SIGKILL of the driver before its first trial, and again between two rungs."""
    workplace.write("tiny.yaml", SWEEP)
    folder = workplace.folder / "results/tiny"
    for file, text in (("definition.json", "{"), ("trials/0002/metrics.jsonl", '"epoch": 1')):
        with sweep_to_kill(workplace, "tiny.yaml") as process:
            wait_for(folder / file, text, process)
    require_as_untouched(workplace, untouched)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_in_postgresql_killed_in_the_middle_ends_as_one_in_a_journal(
    workplace: Workplace, untouched: list[dict[str, Any]], database: str
) -> None:
    """SIGKILL of the driver of a sweep whose study is in PostgreSQL."""
    workplace.write("tiny.yaml", SWEEP)
    # The password on the command line goes to the environment at once.
    log = workplace.folder / "log"
    with sweep_to_kill(workplace, "tiny.yaml", "--storage", database, output=log) as process:
        wait_for(workplace.folder / "results/tiny/trials/0001/metrics.jsonl", '"epoch": 1', process)
        seen = " ".join(psutil.Process(process.pid).cmdline())
        require_no_password(workplace.folder, Path(workplace.env["HJEPA_STATE_DIR"]))
    assert "--storage" in seen
    assert PASSWORD not in seen + log.read_text()
    assert not (workplace.folder / "results/tiny/study.journal").exists()
    workplace.env["HJEPA_STORAGE"] = database
    status = workplace.sweep("status", "tiny")
    assert status.stdout.startswith("tiny: interrupted"), status.stdout + status.stderr
    require_as_untouched(workplace, untouched)
    require_no_password(workplace.folder, Path(workplace.env["HJEPA_STATE_DIR"]))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_a_sweep_in_postgresql_killed_at_random_ends_as_one_in_a_journal(
    workplace: Workplace, untouched: list[dict[str, Any]], database: str, seed: int
) -> None:
    """SIGKILL of the driver at two random moments, the study in PostgreSQL."""
    workplace.write("tiny.yaml", SWEEP)
    workplace.env["HJEPA_STORAGE"] = database
    kill_at_random(workplace, kills=2, seed=seed, up_to_s=20)
    require_as_untouched(workplace, untouched)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_database_that_crashes_in_the_middle_is_waited_for(
    workplace: Workplace, untouched: list[dict[str, Any]], database: str, postgres: Postgres
) -> None:
    """The PostgreSQL server killed in the middle of a sweep, and started again."""
    workplace.write("tiny.yaml", SWEEP)
    workplace.env["HJEPA_STORAGE"] = database
    log = workplace.folder / "log"
    process = workplace.start_sweep("tiny.yaml", output=log)
    try:
        wait_for(workplace.folder / "results/tiny/trials/0001/metrics.jsonl", '"epoch": 1', process)
        postgres.stop(signal.SIGQUIT)
        try:
            wait_for(log, "until the study's database answers", process)
        finally:
            postgres.start()
        process.wait(timeout=200)
    finally:
        end_session(process)
    assert process.returncode == 0, log.read_text()
    assert PASSWORD not in log.read_text()
    require_as_untouched(workplace, untouched)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1, 10))
def test_a_sweep_killed_at_more_moments_ends_as_if_nothing_had_happened(
    workplace: Workplace, untouched: list[dict[str, Any]], seed: int
) -> None:
    """SIGKILL of the driver at two more random moments."""
    workplace.write("tiny.yaml", SWEEP)
    kill_at_random(workplace, kills=2, seed=seed, up_to_s=20)
    require_as_untouched(workplace, untouched)
