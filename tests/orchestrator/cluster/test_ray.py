"""Sweeps as jobs of a real Ray cluster: sent from outside, through lost nodes, and fetched."""

import os
import re
import sys
import time
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.bundle import FETCHED, NotACopyError, from_text, main, to_lines
from orchestrator.cluster.package import pack, requirements
from orchestrator.space import ConfigError
from orchestrator.storage.checkpoints import UNREADABLE, checkpoint_name
from orchestrator.study.record import TrialRecord
from tests.programs.networked import Networked, missing, networked_cluster, status_of
from tests.workplace import SPACE, Workplace, learnt, records

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.timeout(600),
]
PLAIN = SPACE | {
    "search": {"algorithm": "random", "num_trials": 3},
    "scheduler": {"type": "fifo", "max_epochs": 40},
    "resources": {"max_failures": 0},
}
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def cluster(workplace: Workplace) -> Iterator[Networked]:
    if reason := missing():
        pytest.skip(reason)
    with networked_cluster() as cluster:
        cluster.add(cpus=1)
        write_profile(workplace, address=cluster.dashboard, token_file=str(cluster.token))
        yield cluster


def write_profile(workplace: Workplace, **changes: Any) -> None:
    (workplace.folder / "clusters").mkdir(exist_ok=True)
    profile = {"type": "ray", "address": NOWHERE, "install": False, "python": sys.executable}
    workplace.write("clusters/here.yaml", profile | changes)


def asked(workplace: Workplace, *words: str) -> str:
    """What a command prints that has to succeed."""
    done = workplace.sweep(*words, "--to", "here")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def until_printed(workplace: Workplace, text: str, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while text not in (printed := asked(workplace, "logs", "tiny")):
        assert time.monotonic() < deadline, printed
        time.sleep(1)


def told(found: list[TrialRecord]) -> list[tuple[Any, ...]]:
    """What two runs of a sweep have in common."""
    return [(r.number, r.values, r.outcome, {e: learnt(m) for e, m in r.reports.items()}) for r in found]


@pytest.mark.slow
def test_a_sweep_sent_from_outside_outlives_its_nodes_and_comes_back_as_if_run_here(
    workplace: Workplace, cluster: Networked
):
    """A node is killed, and another cut off from the network for 20 s."""
    lost, cut = cluster.add(cpus=1), cluster.add(cpus=1)
    assert status_of(f"{cluster.dashboard}/api/jobs/") == 401
    workplace.write("tiny.yaml", PLAIN)
    assert "is sent" in asked(workplace, "submit", "tiny.yaml")
    assert "sent already" in asked(workplace, "submit", "tiny.yaml")
    until_printed(workplace, "trial 0002 epoch 3/")
    lost.kill()
    cut.cut_off(20)
    *_, last = asked(workplace, "logs", "tiny", "--follow").splitlines()
    assert last.startswith("compare: hjepa-sweep ui")
    assert "succeeded" in asked(workplace, "status", "tiny")
    assert "is a copy of the sweep there" in asked(workplace, "fetch", "tiny")
    there = records(workplace)
    assert workplace.sweep("report", "tiny", "--format", "md").returncode == 0

    done = workplace.sweep("tiny.yaml", "--results", "local")
    assert done.returncode == 0, done.stderr
    (workplace.folder / "results").rename(workplace.folder / "fetched")
    (workplace.folder / "local").rename(workplace.folder / "results")
    assert {record.outcome for record in there} == {"completed"}
    assert told(there) == told(records(workplace))


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_when_it_is_sent_again(workplace: Workplace, cluster: Networked):
    long = {
        "search": {"algorithm": "random", "num_trials": 1},
        "scheduler": {"type": "fifo", "max_epochs": 150},
    }
    workplace.write("tiny.yaml", PLAIN | long)
    asked(workplace, "submit", "tiny.yaml")
    until_printed(workplace, "trial 0000 epoch 5/")
    assert "tiny has stopped" in asked(workplace, "stop", "tiny")
    assert "interrupted; what was reported is kept" in asked(workplace, "logs", "tiny")
    assert "does not run" in asked(workplace, "stop", "tiny")
    asked(workplace, "fetch", "tiny")
    before = {record.number: dict(record.reports) for record in records(workplace)}
    assert len(before[0]) >= 5
    assert "goes on where it was" in asked(workplace, "submit", "tiny.yaml", "--results", "elsewhere")
    printed = asked(workplace, "logs", "tiny", "-f")
    assert printed.count("trial 0000 epoch 1/") == 1  # Ray goes on with the log of the job of that name
    asked(workplace, "fetch", "tiny")
    now = {record.number: record for record in records(workplace)}
    assert {record.outcome for record in now.values()} == {"completed"}
    for number, reports in before.items():
        assert reports.items() <= now[number].reports.items()

    # Its job is over, and there is more to do.
    assert "goes on where it was" in asked(workplace, "submit", "tiny.yaml", "--trials", "2")
    asked(workplace, "logs", "tiny", "-f")
    asked(workplace, "fetch", "tiny")
    more = {record.number: record for record in records(workplace)}
    assert len(more) == len(now) + 1
    assert {record.outcome for record in more.values()} == {"completed"}
    assert told([more[number] for number in now]) == told(list(now.values()))


@pytest.mark.slow
def test_doctor_looks_from_the_head(workplace: Workplace, cluster: Networked):
    found = asked(workplace, "doctor", "tiny.yaml")
    assert "all right" in found, found
    assert "hjepa-results" in found
    (workplace.folder / "other").write_text("0" * 64)
    write_profile(workplace, address=cluster.dashboard, token_file=str(workplace.folder / "other"))
    done = workplace.sweep("status", "tiny", "--to", "here")
    assert done.returncode == 2
    assert f"{cluster.dashboard} does not take this token" in done.stderr


@pytest.mark.slow
def test_where_no_dashboard_answers_it_is_said_and_nothing_changes(workplace: Workplace):
    write_profile(workplace)
    workplace.env["HOME"] = str(workplace.folder)  # which has no token
    before = workplace.files()
    for words in (["submit", "tiny.yaml"], ["stop", "tiny"], ["fetch", "tiny"], ["logs", "tiny"], ["doctor"]):
        done = workplace.ask(*words, "--to", "here")
        assert done.returncode == 2
        assert f"{NOWHERE}: Failed to connect" in done.stderr
        assert "Traceback" not in done.stderr
    assert workplace.files() == before


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"address": "head:8265"}, "address: 'head:8265' is not allowed"),
        ({"address": "http://me:secret@head:8265"}, "address: "),
        ({"token_file": "nowhere"}, "token_file: nowhere: No such file"),
        ({"token_file": "tiny.yaml"}, "token_file: tiny.yaml: holds no token"),
        ({"environment": ["NOT_SET_HERE"]}, "environment: NOT_SET_HERE is not set here"),
        ({"files": ["weights/*"]}, "files: weights/*: no such file"),
    ],
)
def test_what_is_wrong_with_a_profile_is_said(workplace: Workplace, profile: dict[str, Any], message: str):
    write_profile(workplace, **profile)
    done = workplace.ask("submit", "tiny.yaml", "--to", "here")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_dry_run_tells_the_job_and_its_packages_and_sends_nothing(workplace: Workplace):
    write_profile(workplace, install=True, secret_files={"HJEPA_STORAGE": "~/my file"})
    before = workplace.files()
    done = workplace.ask("submit", "tiny.yaml", "--to", "here", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert (
        'HJEPA_STORAGE="$(cat "$HOME"/\'my file\')" && export HJEPA_STORAGE || exit; '
        "exec python -m orchestrator.cli run" in done.stdout
    )
    assert "optuna==" in done.stdout
    assert workplace.files() == before


def test_packages_are_asked_for_in_the_versions_that_run_here():
    found = dict(text.split("==") for text in requirements())
    assert {"torch", "timm", "optuna", "mlflow", "psycopg[binary]"} <= found.keys()
    assert "ray" not in found
    assert "pytest" not in found
    assert all("+" not in version for version in found.values())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("notes/a.txt", "data/images.bin", "results/old/b.txt", ".git/c", "notes/__pycache__/d.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(range(256)) * 20)
    return tmp_path


def test_a_package_has_the_code_and_what_is_asked_for_and_never_data_or_results(folder: Path):
    packed = pack(None, ["**/*"], folder / "results", limit=1 << 30)
    names = set(zipfile.ZipFile(BytesIO(packed)).namelist())
    assert {"hjepa/train.py", "hjepa/data/config.py", "orchestrator/cli/__main__.py", "notes/a.txt"} <= names
    assert not [name for name in names if name.startswith(("data", "results", ".git")) or "pyc" in name]
    (folder / "notes/a.txt").touch()
    assert pack(None, ["**/*"], folder / "results", limit=1 << 30) == packed


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("weights/*.pt", "no such file below"),
        ("/etc/*.conf", "is no glob of files below"),
        ("data/*.bin", "all that it finds stays here"),
        ("../*/notes/a.txt", "all that it finds stays here"),
    ],
)
def test_a_glob_that_sends_nothing_is_refused(folder: Path, pattern: str, said: str):
    with pytest.raises(ConfigError, match=f"^files: {re.escape(pattern)}: {said}"):
        pack(None, ["notes/*", pattern], folder / "results", limit=1 << 30)


def test_a_package_that_is_too_large_is_refused_by_its_largest_files(folder: Path):
    (folder / "large.bin").write_bytes(b"x" * 3_000_000)
    with pytest.raises(ConfigError, match="Ray takes less than 1 kB") as error:
        pack(None, ["*.bin"], folder / "results", limit=1000)
    assert "The largest:\n        3 MB  large.bin\n" in str(error.value)


def bundle(folder: Path) -> str:
    return "\n".join(to_lines(folder))


def test_a_bundle_brings_all_but_the_checkpoints(tmp_path: Path):
    there, here = tmp_path / "there", tmp_path / "here/tiny"
    (there / "trials/0000").mkdir(parents=True)
    newest = checkpoint_name(1)
    stays = ("lock", f"trials/0000/{newest}", f"trials/0000/{newest}{UNREADABLE}")
    for name in ("study.journal", "trials/0000/metrics.jsonl", *stays):
        (there / name).write_text("line\n" * 5000)
    from_text(bundle(there), here)
    assert (here / "study.journal").read_text() == "line\n" * 5000
    kept = {str(file.relative_to(here)) for file in here.rglob("*") if file.is_file()}
    assert kept == {"study.journal", "trials/0000/metrics.jsonl", FETCHED}

    with (there / "study.journal").open("a") as journal:
        journal.write("more\n")
    from_text(bundle(there), here)
    assert (here / "study.journal").read_text().endswith("more\n")
    assert [file.name for file in here.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o002, 0o664)])
def test_who_may_read_what_a_bundle_brings_is_the_umasks_to_say(tmp_path: Path, umask: int, mode: int):
    (tmp_path / "there/trials").mkdir(parents=True)
    (tmp_path / "there/trials/config.yaml").write_text("seed: 1")
    was = os.umask(umask)
    try:
        from_text(bundle(tmp_path / "there"), tmp_path / "here")
    finally:
        os.umask(was)
    assert (tmp_path / "here/trials/config.yaml").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("damage", [slice(0, -100), slice(0, 70)])
def test_a_bundle_that_is_not_whole_changes_nothing(tmp_path: Path, damage: slice):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    (there / "study.journal").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"what arrived is not what was sent|base64"):
        from_text(bundle(there)[damage], here)
    assert not here.exists()


def test_a_copy_stays_where_its_successor_is_not_put_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    (there / "study.journal").write_text("one\n")
    from_text(bundle(there), here)
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == "fresh":
            raise KeyboardInterrupt
        return rename(self, target)

    text = bundle(there)
    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        from_text(text, here)
    assert (here / "study.journal").read_text() == "one\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["here", "there"]


def test_a_bundle_of_nothing_is_no_sweep(tmp_path: Path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="nothing in it"):
        from_text(bundle(tmp_path / "there"), tmp_path / "here")
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


def test_a_sweep_that_has_written_nothing_is_said_to_be_absent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(tmp_path / "fpn") == 2
    assert capsys.readouterr().out == (
        f"there is no {tmp_path / 'fpn'} there: its job has not begun, or could not; `logs` tells.\n"
    )


def test_a_bundle_replaces_no_sweep_that_was_run_here_and_no_copy_that_has_gone_on(tmp_path: Path):
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        folder.mkdir()
        (folder / "study.journal").write_text("one\n")
    with pytest.raises(NotACopyError, match="not fetched"):
        from_text(bundle(there), here)
    (here / FETCHED).touch()
    (here / "study.journal").write_text("one\nmine\n")
    with pytest.raises(NotACopyError, match="gone on"):
        from_text(bundle(there), here)
    assert (here / "study.journal").read_text() == "one\nmine\n"
