"""Sweeps as jobs of a real SLURM: sent, run, requeued in the middle, gone on with, finished."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.profile import load_profile
from orchestrator.space import ConfigError
from tests.orchestrator.cluster.standin import StandIn
from tests.programs.slurm import Slurm, missing, slurm_cluster
from tests.workplace import SPACE, Workplace, learnt, records, uninterrupted

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
CHECKOUT = str(Path(__file__).parents[3])
SERIAL = SPACE | {
    "search": {"algorithm": "random", "num_trials": 2},
    "scheduler": {"type": "fifo", "max_epochs": 40},
    "resources": {"concurrency": 1},
}


@pytest.fixture
def slurm(workplace: Workplace) -> Iterator[Slurm]:
    if reason := missing():
        pytest.skip(reason)
    with slurm_cluster() as cluster:
        workplace.env |= cluster.env
        yield cluster


def write_profile(workplace: Workplace, **changes: Any) -> None:
    (workplace.folder / "clusters").mkdir(exist_ok=True)
    (workplace.folder / "bin").mkdir(exist_ok=True)
    command = workplace.folder / "bin/hjepa-sweep"
    command.write_text('#!/bin/sh\nexec python -m orchestrator.cli "$@"\n')
    command.chmod(0o755)
    # This environment's own Python and Ray, whatever the shell that runs the tests has on its path.
    path = f"{command.parent}:{Path(sys.executable).parent}:$PATH"
    profile = {
        "type": "slurm",
        "cpus_per_node": 2,
        "setup": [f"export PATH={path} PYTHONPATH={CHECKOUT} HJEPA_REPORT=off"],
    }
    workplace.write("clusters/here.yaml", profile | changes)


@pytest.mark.slow
def test_a_job_that_is_requeued_in_the_middle_loses_nothing(workplace: Workplace, slurm: Slurm):
    """A job is put back into the queue by scontrol."""
    write_profile(workplace)
    workplace.write("tiny.yaml", SERIAL)
    done = workplace.sweep("submit", "tiny.yaml", "--to", "here")
    assert done.returncode == 0, done.stderr
    job = done.stdout.split("job ")[1].split()[0]
    again = workplace.sweep("submit", "tiny.yaml", "--to", "here")
    assert f"sent already: job {job}" in again.stdout, again.stdout + again.stderr

    metrics = workplace.folder / "results/tiny/trials/0000/metrics.jsonl"
    slurm.until(lambda: metrics.exists() and '"epoch": 3' in metrics.read_text(), 150)
    before = {r.number: dict(r.reports) for r in records(workplace)}
    slurm.call("scontrol", "requeue", job)
    slurm.until(lambda: "Restarts=1" in slurm.call("scontrol", "show", "job", job), 60)
    slurm.until(told(slurm, job, "COMPLETED"), 240)

    found = records(workplace)
    assert {record.outcome for record in found} == {"completed"}
    for record in found:
        kept = uninterrupted(workplace, record)
        assert [{k: m[k] for k in kept[0]} for m in map(learnt, record.reports.values())] == kept
        for epoch, report in before.get(record.number, {}).items():
            assert record.reports[epoch] == report
    assert not list(Path("/tmp").glob(f"hjepa-{job}"))
    assert not list((workplace.folder / "results").glob(".token-*"))


@pytest.mark.slow
def test_a_job_whose_time_is_nearly_over_stops_in_order_and_goes_on(workplace: Workplace, slurm: Slurm):
    """A job is warned by USR1 as SLURM does it before the end of its time."""
    write_profile(workplace)
    workplace.write("tiny.yaml", SERIAL)
    job = workplace.sweep("submit", "tiny.yaml", "--to", "here").stdout.split("job ")[1].split()[0]
    metrics = workplace.folder / "results/tiny/trials/0000/metrics.jsonl"
    slurm.until(lambda: metrics.exists() and '"epoch": 3' in metrics.read_text(), 150)
    slurm.call("scancel", "--batch", "--signal=USR1", job)
    slurm.until(lambda: "Restarts=1" in slurm.call("scontrol", "show", "job", job), 60)
    log = next((workplace.folder / "results/.submitted").glob(f"*/job-{job}.log"))
    assert "interrupted; what was reported is kept" in log.read_text()
    slurm.until(told(slurm, job, "COMPLETED"), 240)
    assert {record.outcome for record in records(workplace)} == {"completed"}


@pytest.mark.slow
def test_doctor_asks_slurm_whether_it_would_take_the_job(workplace: Workplace, slurm: Slurm):
    write_profile(workplace)
    done = workplace.sweep("doctor", "tiny.yaml", "--to", "here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok   job: SLURM would take it" in done.stdout.splitlines()
    assert "is up, 1 nodes" in done.stdout
    write_profile(workplace, partition="nowhere", cpus_per_node=2000)
    done = workplace.sweep("doctor", "tiny.yaml", "--to", "here", "--json")
    assert done.returncode == 1
    found = {one["check"]: one for one in json.loads(done.stdout)["findings"]}
    assert not found["slurm"]["ok"]
    assert not found["job"]["ok"]
    assert slurm.call("squeue", "--noheader") == ""


@pytest.mark.slow
def test_stop_takes_that_sweeps_waiting_job_out_of_the_queue_and_no_other(workplace: Workplace, slurm: Slurm):
    write_profile(workplace, options=["--hold"])
    jobs: list[str] = []
    for name in ("tiny", "tiny-2"):
        workplace.write("tiny.yaml", SERIAL | {"name": name})
        done = workplace.sweep("submit", "tiny.yaml", "--to", "here")
        assert done.returncode == 0, done.stderr
        jobs.append(done.stdout.split("job ")[1].split()[0])
    done = workplace.sweep("stop", "tiny", "--to", "here")
    assert done.stdout == f"tiny: job {jobs[0]} is out of the queue.\n", done.stdout + done.stderr
    assert [slurm.state(job) for job in jobs] == ["CANCELLED", "PENDING"]
    assert "no job in the queue" in workplace.sweep("stop", "tiny", "--to", "here").stdout


@pytest.mark.slow
def test_stop_ends_a_running_job_in_order_and_it_does_not_queue_itself_again(
    workplace: Workplace, slurm: Slurm
):
    write_profile(workplace)
    workplace.write("tiny.yaml", SERIAL | {"scheduler": {"type": "fifo", "max_epochs": 10_000}})
    job = workplace.sweep("submit", "tiny.yaml", "--to", "here").stdout.split("job ")[1].split()[0]
    metrics = workplace.folder / "results/tiny/trials/0000/metrics.jsonl"
    slurm.until(lambda: metrics.exists() and '"epoch": 3' in metrics.read_text(), 150)
    done = workplace.sweep("stop", "tiny", "--to", "here")
    assert f"job {job} has been asked to stop" in done.stdout, done.stdout + done.stderr
    slurm.until(lambda: slurm.state(job) in ("FAILED", "COMPLETED", "CANCELLED"), 90)
    log = next((workplace.folder / "results/.submitted").glob(f"*/job-{job}.log"))
    assert "interrupted; what was reported is kept" in log.read_text()
    assert "Restarts=0" in slurm.call("scontrol", "show", "job", job)
    assert not list(Path("/tmp").glob(f"hjepa-{job}"))


def test_stop_finds_the_sweeps_jobs_among_those_of_other_names(workplace: Workplace):
    """Of which some have spaces in their names, and some none."""
    write_profile(workplace)
    squeue, scancel = StandIn(workplace, "squeue"), StandIn(workplace, "scancel")
    ours = "hjepa-tiny-0123456789"
    squeue.answer("", f"7 RUNNING my analysis\n8 PENDING \n9 RUNNING {ours}\n10 PENDING a {ours}\n")
    done = workplace.ask("stop", "tiny", "--to", "here")
    assert done.stdout == "tiny: job 9 has been asked to stop.\n", done.stdout + done.stderr
    assert scancel.calls() == [["--signal=TERM", "--batch", "9"]]


def told(slurm: Slurm, job: str, state: str) -> Callable[[], bool]:
    def found() -> bool:
        now = slurm.state(job)
        assert now not in ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), slurm.log()
        return now == state

    return found


def test_dry_run_prints_the_script_and_sends_nothing(workplace: Workplace):
    write_profile(
        workplace, nodes=2, gpus_per_node=4, time="12h", secret_files={"HJEPA_STORAGE": "~/my file"}
    )
    before = workplace.files()
    done = workplace.ask("submit", "tiny.yaml", "--to", "here", "--dry-run", "--trials", "3")
    assert done.returncode == 0, done.stderr
    assert workplace.files() == before
    lines = done.stdout.splitlines()
    for line in (
        "#SBATCH --nodes=2",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --time=720",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@120",
        'HJEPA_STORAGE="$(cat "$HOME"/\'my file\')" && export HJEPA_STORAGE || exit',
    ):
        assert line in lines
    assert "ray symmetric-run" in done.stdout
    assert os.system(f"bash -n <<'END'\n{done.stdout}\nEND") == 0


def test_a_job_keeps_its_token_to_its_user_and_leaves_other_files_to_the_umask(workplace: Workplace):
    write_profile(workplace)
    done = workplace.ask("submit", "tiny.yaml", "--to", "here", "--dry-run")
    (makes_token,) = (line for line in done.stdout.splitlines() if "umask" in line or "urandom" in line)
    token, other = workplace.folder / "token", workplace.folder / "other"
    script = f"umask 022\n{makes_token}\ntouch {other}"
    subprocess.run(["bash", "-c", script], env=os.environ | {"RAY_AUTH_TOKEN_PATH": str(token)}, check=True)
    assert [stat.S_IMODE(file.stat().st_mode) for file in (token, other)] == [0o600, 0o644]
    assert re.fullmatch("[0-9a-f]{64}", token.read_text())


def test_where_there_is_no_slurm_it_is_said_in_words(workplace: Workplace):
    write_profile(workplace)
    workplace.env["PATH"] = str(workplace.folder)
    done = workplace.ask("submit", "tiny.yaml", "--to", "here")
    assert done.returncode == 2
    assert "squeue: no such program: submit from a login node of SLURM." in done.stderr
    done = workplace.ask("doctor", "--to", "here")
    assert done.returncode == 1
    assert "FAIL slurm: sinfo: no such program" in done.stdout
    assert not (workplace.folder / "results").exists()


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"nodess": 2}, "clusters/here.yaml: nodess: no such config key.\nNearest: nodes."),
        ({"type": "slrm"}, "clusters/here.yaml: type: 'slrm' is not allowed: one of slurm"),
        ({"nodes": 0}, "clusters/here.yaml: nodes: 0 is not allowed"),
        ({"setup": ["a\nb"]}, "clusters/here.yaml: setup"),
        ({"partition": "a\nb"}, "clusters/here.yaml: partition"),
        ({"options": ["-p gpu"]}, "must be an option of sbatch"),
        ({"environment": ["TOKEN=abc"]}, "must be the name of an environment variable"),
    ],
)
def test_what_is_wrong_with_a_profile_is_said(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, profile: dict[str, Any], message: str
):
    write_profile(workplace, **profile)
    monkeypatch.chdir(workplace.folder)
    with pytest.raises(ConfigError) as error:
        load_profile("here")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"set": {"training.lrr": 1}}, "Nearest: training.lr"),
        ({"cpus_per_node": 1}, "resources.cpus_per_worker"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_touches_nothing(
    workplace: Workplace, profile: dict[str, Any], message: str
):
    write_profile(workplace, **profile)
    workplace.write("tiny.yaml", SPACE | {"resources": {"cpus_per_worker": 2}})
    before = workplace.files()
    done = workplace.ask("submit", "tiny.yaml", "--to", "here")
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert workplace.files() == before


def test_a_profile_that_is_not_there_gets_the_nearest_name(workplace: Workplace):
    write_profile(workplace)
    done = workplace.ask("submit", "tiny.yaml", "--to", "her")
    assert done.returncode == 2
    assert "--to her: no such profile" in done.stderr
    assert "Nearest: here." in done.stderr


def test_the_users_own_profiles_stand_by_name_in_one_file(workplace: Workplace):
    own = workplace.folder / "config/hjepa"
    own.mkdir(parents=True)
    workplace.write("config/hjepa/clusters.yaml", {"lab": {"type": "slurm", "cpus_per_node": 2}})
    workplace.env["XDG_CONFIG_HOME"] = str(own.parent)
    done = workplace.ask("submit", "tiny.yaml", "--to", "lab", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "--cpus-per-task=2" in done.stdout
