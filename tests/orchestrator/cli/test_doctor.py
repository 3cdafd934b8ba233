"""`hjepa-sweep doctor` on a real Ray of its own, on a cluster of two nodes, and where things are wrong."""

import json
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest
from optuna.study import StudyDirection

from orchestrator.doctor.connection import _known
from orchestrator.doctor.stores import marked, study, tracking
from orchestrator.space import ConfigError
from orchestrator.storage.disk import Patience
from orchestrator.study.database import open_database
from orchestrator.study.database import told as refusing
from orchestrator.study.place import Place
from tests.programs.nodes import LOOPBACK, Nodes
from tests.programs.s3 import S3
from tests.workplace import OUTSIDE, SPACE, Workplace, free_port, wait_until


def told(workplace: Workplace, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and findings."""
    done = workplace.ask("doctor", *arguments, "--json")
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["ok"] == (done.returncode == 0)
    return done.returncode, found["findings"]


def wrong(findings: list[dict[str, Any]]) -> dict[str, str]:
    """What does not pass, by its check; each says what mends it, and nothing else does."""
    assert all(bool(one["fix"]) != one["ok"] for one in findings)
    return {one["check"]: one["said"] for one in findings if not one["ok"]}


def test_a_machine_that_is_all_right_passes_and_nothing_stays_written(workplace: Workplace):
    before = workplace.files()
    done = workplace.ask("doctor", "tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert all(line.startswith("ok   ") for line in lines[:-1])
    looked_at = {line.split()[1].rstrip(":") for line in lines[:-1]}
    assert looked_at >= {"python", "torch", "results", "tracking", "nodes", "data", "clock", "placement"}
    assert lines[-1] == f"{len(lines) - 1} looked at, all right"
    assert workplace.files() == before


@pytest.mark.slow
def test_what_is_wrong_is_said_with_what_mends_it(workplace: Workplace, s3: S3, bucket: str):
    """Data that are not there, a dead MLflow, a bucket that does not exist."""
    workplace.env |= s3.env
    missing = bucket.replace("s3://b", "s3://none")
    data = ["--set=data.dataset=cifar10", "--set=data.data_path=nowhere"]
    settings = [f"--set=resources.checkpoints={missing}", *data]
    status, found = told(workplace, "tiny.yaml", *settings, "--tracking-uri", "http://me:canary@127.0.0.1:9")
    assert status == 1
    failed = wrong(found)
    assert failed.keys() == {"data", "tracking", "checkpoints"}
    assert "'nowhere' does not exist" in failed["data"]
    assert "http://me@127.0.0.1:9 cannot be reached" in failed["tracking"]
    assert "NO_SUCH_BUCKET" in failed["checkpoints"]
    assert "canary" not in str(found)


def test_a_trial_that_can_never_fit_is_told_with_the_arithmetic(workplace: Workplace):
    workplace.write("tiny.yaml", SPACE | {"resources": {"cpus_per_worker": 1024}})
    status, found = told(workplace, "tiny.yaml")
    assert status == 1
    assert "a trial asks for 1024 cores" in wrong(found)["placement"]


def test_an_address_at_which_nobody_listens(workplace: Workplace):
    status, found = told(workplace, "--address", "127.0.0.1:1")
    assert status == 1
    assert "no Ray cluster can be reached there" in wrong(found)["ray"]


def test_changes_without_a_space_are_refused(workplace: Workplace):
    done = workplace.ask("doctor", "--set", "training.lr=1")
    assert done.returncode == 2
    assert "name one" in done.stderr


def test_a_results_folder_that_is_not_there_yet_is_not_made(tmp_path: Path):
    with marked(tmp_path / "new" / "results") as (marker, finding):
        assert finding.ok
        assert marker is not None
        assert marker.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_tracking_database_that_is_none(tmp_path: Path):
    (tmp_path / "mlflow.db").write_text("no database at all, but some text of a length")
    found = tracking(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert not found.ok
    assert "is no database of MLflow's" in found.said


def test_a_new_database_is_fit_for_a_study_unless_its_user_may_make_no_tables(database: str):
    new = Place.parse(database, "test")
    assert study(new).ok
    stranger = f"canary{uuid.uuid4().hex}"
    with psycopg.connect(database, autocommit=True) as connection:
        assert connection.execute("SELECT 1 FROM pg_tables WHERE schemaname = 'public'").fetchone() is None
        connection.execute(f"CREATE ROLE {stranger} LOGIN PASSWORD '{stranger}'".encode())
        theirs = Place(new.url.set(username=stranger, password=stranger))
        found = study(theirs)
        assert not found.ok
        assert "its user may not make its tables of sweeps" in found.said
        with pytest.raises(ConfigError, match=f"GRANT CREATE ON SCHEMA public TO {stranger}"):
            open_database(theirs, Patience())
        open_database(new, Patience()).engine.dispose()
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {stranger}".encode())
        assert "its user may only read its tables of sweeps" in study(theirs).said
        read = open_database(theirs, Patience())
        grant = f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {stranger}"
        with pytest.raises(ConfigError, match=grant), refusing(theirs):
            read.create_new_study([StudyDirection.MAXIMIZE], "mine")
        read.remove_session()
        read.engine.dispose()
        connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {stranger}".encode())
        assert study(theirs).ok
        connection.execute(f"DROP OWNED BY {stranger}; DROP ROLE {stranger}".encode())


def test_a_file_for_studies_that_is_not_there_yet_is_not_made(tmp_path: Path):
    found = study(Place.parse(f"sqlite:///{tmp_path / 'studies.db'}", "test"))
    assert found.ok
    assert list(tmp_path.iterdir()) == []
    found = study(Place.parse(f"sqlite:///{tmp_path / 'nowhere' / 'studies.db'}", "test"))
    assert "cannot be made" in found.said


def test_other_versions_are_named_on_both_sides():
    """Ray's words, as ray._private.utils.check_version_info has them, on one line."""
    words = (
        "REFUSED RuntimeError Version mismatch: The cluster was started with: Ray: 2.50.0 Python: 3.12.1 "
        "This process on node 10.0.0.1 was started with: Ray: 2.60.0 Python: 3.11.7"
    )
    found = _known("10.0.0.1:6379", words)
    assert found is not None
    assert "runs Ray 2.50.0 on Python 3.12.1, this client Ray 2.60.0 on Python 3.11.7" in found.said
    assert "ray==2.50.0" in found.fix


# The clock of the machine that asks is wrong by ten seconds.
SKEWED = """
import sys, time
from types import SimpleNamespace
from orchestrator import use_cluster
use_cluster(sys.argv[1])
from orchestrator.doctor import nodes
from orchestrator.doctor.node import Question
from orchestrator.engine.engine import connected
from orchestrator.space import ResourcesConfig

nodes.time = SimpleNamespace(time=lambda: time.time() + 10)
with connected(sys.argv[1]):
    for finding in nodes.nodes(ResourcesConfig(), Question("/nowhere/at/all", "/")):
        print(finding.check, finding.ok, finding.said)
"""


@pytest.mark.slow
def test_every_node_of_a_cluster_is_asked(workplace: Workplace, cluster: Nodes):
    cluster.add(1), cluster.add(3)
    status, found = told(workplace, "tiny.yaml", "--address", cluster.address)
    assert status == 0, wrong(found)
    asked = [one["node"] for one in found if one["check"] == "nodes"]
    assert len(set(asked)) == 3
    assert sum(one["check"] == "data" for one in found) == 2  # not of the head, which has no cores
    (placed,) = [one["said"] for one in found if one["check"] == "placement"]
    assert placed == "a trial of 1 x 1 CPU was placed; 4 at a time have room"
    workplace.write("tiny.yaml", SPACE | {"resources": {"workers": 2, "cpus_per_worker": 2}})
    status, found = told(workplace, "tiny.yaml", "--address", cluster.address)
    assert status == 1
    assert "the nodes have 3, 1, 0" in wrong(found)["placement"]
    command = [sys.executable, "-c", SKEWED, cluster.address]
    done = subprocess.run(command, env=workplace.env, capture_output=True, text=True, timeout=120, check=True)
    lines = done.stdout.splitlines()
    assert sum(line.startswith(("clock False -10.", "clock False -9.")) for line in lines) == 3
    assert sum(line.startswith("results False does not see") for line in lines) == 2


@pytest.mark.slow
def test_a_token_that_does_not_agree_is_told_from_a_cluster_that_is_away(
    workplace: Workplace,
):
    folder, port = Path(tempfile.mkdtemp(prefix="hn")), free_port()
    workplace.env |= LOOPBACK
    settings = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(folder)}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--port", str(port), "--node-ip-address", "127.0.0.1", "--num-cpus", "1"]
    command += ["--include-dashboard", "false"]
    with (folder / "said").open("w") as said:
        head = subprocess.Popen(
            command,
            env=OUTSIDE | LOOPBACK | settings | {"RAY_AUTH_TOKEN": "a" * 64},
            stdout=said,
            stderr=said,
            text=True,
        )
    address = f"127.0.0.1:{port}"
    try:
        wait_until(lambda: "Ray runtime started" in (folder / "said").read_text(), head)
        for token in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64}):
            workplace.env = {k: v for k, v in workplace.env.items() if not k.startswith("RAY_AUTH")} | token
            status, found = told(workplace, "--address", address)
            assert status == 1
            assert "refuses this client's token" in wrong(found)["ray"]
            assert "b" * 64 not in str(found)
        workplace.env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
        status, found = told(workplace, "--address", address)
        assert status == 0, wrong(found)
    finally:
        head.terminate()
        head.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)
