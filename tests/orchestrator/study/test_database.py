"""A study in PostgreSQL instead of a journal: one writer, patience, and no password in any record."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
import pytest
from optuna.storages._rdb import models
from sqlalchemy import create_engine, text

from orchestrator.definition import write_definition
from orchestrator.fork import fork
from orchestrator.search.sampler import build_sampler
from orchestrator.space import ConfigError, Sweep, load_sweep
from orchestrator.storage.disk import Patience
from orchestrator.study import lease
from orchestrator.study.access import open_study
from orchestrator.study.database import open_database
from orchestrator.study.lease import Lease
from orchestrator.study.place import Place, place_of, record_place
from orchestrator.study.reading import read_study, trials_of, who_runs
from orchestrator.study.study import Study
from tests.programs.postgres import PASSWORD, Postgres, require_no_password
from tests.workplace import (
    SPACE,
    Workplace,
    learnt,
    records,
    sweep_to_kill,
    uninterrupted,
    wait_for,
)

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
METRICS = {"val/knn_top1": 0.1 + 0.2, "loss": float("nan")}


def silent(words: str) -> None:
    """Say nothing."""


def place(url: str) -> Place:
    return Place.parse(url, "test")


@pytest.fixture
def sweep(workplace: Workplace) -> Sweep:
    return load_sweep(workplace.folder / "tiny.yaml")


def fill(study: Study) -> None:
    base = study.ask("base", {"model.fpn.use_fpn": False, "training.lr": 1e-3})
    study.report(base.number, 1, METRICS, "epoch_00001.pt")
    study.end(base.number, "completed")
    for outcome in ("pruned", "collapsed", "failed", "completed"):
        trial = study.ask()
        for epoch in (1,) if outcome == "pruned" else (1, 2):  # the rung
            study.report(trial.number, epoch, {**METRICS, "epoch": epoch}, f"epoch_{epoch:05d}.pt")
        study.note(trial.number, "a note")
        study.end(trial.number, outcome, "a reason")
    study.report(study.ask().number, 1, METRICS, None)


def plain(records: object) -> str:
    """Records without the clock's part."""
    return re.sub(r"(time_ms=\d+|datetime\.datetime\([^)]*\))", "", repr(records))


def test_a_database_keeps_what_a_journal_keeps(tmp_path: Path, sweep: Sweep, database: str) -> None:
    journal = Study(tmp_path / "journal", sweep, build_sampler(sweep))
    fill(journal)
    with ExitStack() as stack:
        study = open_study(tmp_path / "tiny", sweep, place(database), Patience(), stack)
        fill(study)
        assert plain(study.trials) == plain(journal.trials)
    with ExitStack() as stack:
        again = open_study(tmp_path / "tiny", sweep, place(database), Patience(), stack)
        assert again.id == study.id
        assert repr(list(again.trials.values())) == repr(read_study(tmp_path / "tiny", place(database)))
        assert plain(again.trials) == plain(Study(tmp_path / "journal", sweep, build_sampler(sweep)).trials)
        # What is asked next is what the journal's sweep would ask.
        assert again.ask().values == journal.ask().values


def test_a_second_process_is_refused_by_name_and_a_killed_one_replaced(tmp_path: Path, database: str) -> None:
    program = (
        "import sys, time; from sqlalchemy import create_engine; from orchestrator.study.lease import Lease\n"
        "Lease(create_engine(sys.argv[1]), 'tiny', print); print('mine', flush=True); time.sleep(100)"
    )
    url = place(database).url.render_as_string(hide_password=False)
    holder = subprocess.Popen([sys.executable, "-c", program, url], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        storage = open_database(place(database), Patience())
        with pytest.raises(
            ConfigError, match=rf"tiny: this sweep is running already: process {holder.pid} on"
        ):
            Lease(storage.engine, "tiny", silent)
        found = who_runs(tmp_path / "tiny", place(database))
        assert found is not None
        assert found.pid == holder.pid
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    began = time.monotonic()
    assert who_runs(tmp_path / "tiny", place(database)) is None
    mine = Lease(storage.engine, "tiny", silent)
    assert time.monotonic() - began < 5  # its process can be seen to be gone
    mine.release()
    storage.engine.dispose()


def test_a_holder_on_another_machine_is_refused_while_it_beats_and_replaced_once_it_is_silent(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    monkeypatch.setattr(lease, "WATCH_S", 0.5)
    monkeypatch.setattr(lease, "STALE_S", 2.0)
    # As from another machine: nothing here tells whether that process lives.
    monkeypatch.setattr(lease, "this_process", lambda: "")
    storage = open_database(place(database), Patience())
    theirs = Lease(storage.engine, "tiny", silent)
    with pytest.raises(ConfigError, match="running already: process"):
        Lease(storage.engine, "tiny", silent)
    theirs._over.set()  # it stands still, and does not know
    theirs._thread.join()
    said: list[str] = []
    began = time.monotonic()
    mine = Lease(storage.engine, "tiny", said.append)
    assert 2.0 <= time.monotonic() - began < 10
    assert "no sign of life of process" in said[0]
    assert mine.lost_to() is None
    assert str(os.getpid()) in (theirs.lost_to() or "")
    theirs.release()  # and takes nothing from the new one
    assert mine.lost_to() is None
    mine.release()
    storage.engine.dispose()


def test_who_has_lost_the_lease_writes_nothing_more(tmp_path: Path, sweep: Sweep, database: str) -> None:
    said: list[str] = []
    patience = Patience()
    patience.say = said.append
    with ExitStack() as stack:
        study = open_study(tmp_path / "tiny", sweep, place(database), patience, stack)
        trial = study.ask()
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("UPDATE hjepa_leases SET token = 'x', holder = 'process 1 on b since now'")
        with pytest.raises(KeyboardInterrupt):
            study.report(trial.number, 1, METRICS, None)
        assert said == ["the sweep has been taken over by process 1 on b since now; this process leaves it"]
    (record,) = read_study(tmp_path / "tiny", place(database))
    assert record.reports == {}


def test_a_server_that_is_away_is_waited_for(
    tmp_path: Path, sweep: Sweep, database: str, postgres: Postgres
) -> None:
    said: list[str] = []
    patience = Patience(lambda _: time.sleep(0.2))
    patience.say = said.append
    with ExitStack() as stack:
        study = open_study(tmp_path / "tiny", sweep, place(database), patience, stack)
        first = study.ask()
        postgres.stop(signal.SIGQUIT)  # as a crash: it recovers from its log
        back = threading.Timer(2.0, postgres.start)
        back.start()
        study.report(first.number, 1, METRICS, None)
        second = study.ask()
        back.join()
        assert said[0].startswith("the sweep pauses until the study's database answers: ")
        assert said[1:] == ["the study's database answers again: the sweep goes on"]
        assert PASSWORD not in said[0]
        assert (first.number, second.number) == (0, 1)
    found = read_study(tmp_path / "tiny", place(database))
    assert [list(record.reports) for record in found] == [[1], []]


def test_a_trial_whose_making_was_not_confirmed_is_made_once(
    tmp_path: Path, sweep: Sweep, database: str
) -> None:
    storage = open_database(place(database), Patience())
    study = Study(tmp_path / "tiny", sweep, build_sampler(sweep), storage=storage)
    once = type(storage)._get_prepared_new_trial
    cut = threading.Event()

    def commit_and_break(*arguments: object) -> object:
        made = once(storage, *arguments)  # pyright: ignore[reportArgumentType]
        if not cut.is_set():
            cut.set()
            session = arguments[-1]
            session.commit()  # pyright: ignore[reportAttributeAccessIssue]
            session.execute(  # pyright: ignore[reportAttributeAccessIssue]
                text("SELECT pg_terminate_backend(pg_backend_pid())")
            )
        return made

    storage._get_prepared_new_trial = commit_and_break  # pyright: ignore[reportAttributeAccessIssue]
    first, second = study.ask(), study.ask()
    assert cut.is_set()
    assert (first.number, second.number) == (0, 1)
    assert [record.number for record in trials_of(storage, "tiny")] == [0, 1]
    assert storage.get_n_trials(study._study._study_id) == 2
    storage.engine.dispose()


def test_two_sweeps_may_begin_at_once_in_a_new_database(database: str) -> None:
    """The tables are just being made by another process."""
    new, waits = place(database), "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    engine = create_engine(new.url)
    with ThreadPoolExecutor() as pool, engine.connect() as other, psycopg.connect(database) as seen:
        seen.autocommit = True
        models.BaseModel.metadata.create_all(other)
        opened = pool.submit(open_database, new, Patience())
        while not opened.done() and seen.execute(waits).fetchone() is None:
            time.sleep(0.05)
        other.commit()
        storage = opened.result(60)
    assert storage.get_all_studies() == []
    storage.engine.dispose()
    engine.dispose()


def test_another_sweep_of_the_name_in_the_database_is_refused_with_the_difference(
    tmp_path: Path, workplace: Workplace, sweep: Sweep, database: str
) -> None:
    with ExitStack() as stack:
        open_study(tmp_path / "tiny", sweep, place(database), Patience(), stack)
    other = load_sweep(workplace.folder / "tiny.yaml", overrides={"scheduler.max_epochs": 2})
    with (
        ExitStack() as stack,
        pytest.raises(ConfigError, match=r"scheduler\.max_epochs: 3 there, 2 here"),
    ):
        open_study(tmp_path / "elsewhere", other, place(database), Patience(), stack)


def test_a_fork_goes_to_the_database_whole_or_not_at_all(
    tmp_path: Path, workplace: Workplace, sweep: Sweep, database: str
) -> None:
    results = tmp_path / "results"
    write_definition_of(results / "tiny", sweep)
    fill(Study(results / "tiny", sweep, build_sampler(sweep)))
    wider = load_sweep(workplace.folder / "tiny.yaml", overrides={"name": "wider"}, trials=9)
    with ExitStack() as stack:  # a fork that died half way
        half = open_study(
            results / ".wider.fork", wider, place(database), Patience(), stack, results / "wider"
        )
        half.ask()
    with ExitStack() as stack, pytest.raises(ConfigError, match="holds a half of it"):
        open_study(results / "wider", wider, place(database), Patience(), stack)
    lines = fork(results, "tiny", wider, place(database))
    assert lines[0] == "wider: 4 finished trials of tiny taken over"
    there = place_of(results / "wider", None)
    assert there is not None
    assert PASSWORD not in str(there)
    taken = read_study(results / "wider", place(database))
    assert [record.outcome for record in taken] == ["completed", "pruned", "collapsed", "completed"]
    with ExitStack() as stack:
        open_study(results / "wider", wider, place(database), Patience(), stack)


def write_definition_of(folder: Path, sweep: Sweep) -> None:
    folder.mkdir(parents=True)
    write_definition(folder, sweep)


SECRET_URLS = [
    "postgresql://me:canary@db:5432/sweeps?sslmode=require",
    "postgresql://me@db:5432/sweeps?password=canary&sslmode=require",
    "mysql+pymysql://me:canary@db/sweeps?ssl_key=canary",
]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_a_place_is_recorded_without_its_secrets(tmp_path: Path, url: str) -> None:
    given = place(url)
    assert given.is_secret
    record_place(tmp_path, given)
    written = (tmp_path / "storage.json").read_text()
    assert "canary" not in written + str(given) + repr(given)
    there = place_of(tmp_path, None)
    assert there is not None
    assert there.is_same(given)
    assert not there.is_secret


def test_the_variable_gives_the_password_of_a_place_and_does_not_move_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql://me:canary@db:5432/sweeps"
    monkeypatch.setenv("HJEPA_STORAGE", url)
    assert place_of(tmp_path, None) == place(url)
    assert place_of(tmp_path, "postgresql://me@db:5432/sweeps") == place(url)
    record_place(tmp_path, place(url))
    assert place_of(tmp_path, None) == place(url)
    monkeypatch.setenv("HJEPA_STORAGE", "postgresql://me:canary@other/sweeps")
    assert place_of(tmp_path, None) == place("postgresql://me@db:5432/sweeps")
    with pytest.raises(
        ConfigError, match=r"is kept in postgresql.*@db:5432/sweeps, not in postgresql.*@other"
    ):
        place_of(tmp_path, "postgresql://me@other/sweeps")
    with pytest.raises(ConfigError, match=re.escape(f"write it into {tmp_path / 'storage.json'}")):
        place_of(tmp_path, "postgresql://me@other/sweeps")

    journal = tmp_path / "old"
    journal.mkdir()
    (journal / "study.journal").touch()
    assert place_of(journal, None) is None
    with pytest.raises(ConfigError, match="--fork NAME"):
        place_of(journal, url)


def test_a_place_is_the_same_with_its_usual_port_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_place(tmp_path, place("postgresql://me@db/sweeps"))
    monkeypatch.setenv("HJEPA_STORAGE", "postgresql://me:canary@db:5432/sweeps")
    there = place_of(tmp_path, None)
    assert there is not None
    assert there.url.password == "canary"
    assert place_of(tmp_path, "postgresql://me@db:5432/sweeps") == there
    with pytest.raises(ConfigError, match="@db:5433"):
        place_of(tmp_path, "postgresql://me@db:5433/sweeps")


def test_options_of_a_place_stay_when_the_variable_gives_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql://me@db/sweeps?sslmode=require&options=-csearch_path%3Dlab&sslcert=/keys/me.crt"
    record_place(tmp_path, place(f"{url}&sslpassword=canary"))
    monkeypatch.setenv("HJEPA_STORAGE", "postgresql://me:canary@db/sweeps?sslmode=disable&sslpassword=canary")
    for found in (place_of(tmp_path, None), place_of(tmp_path, url)):
        assert found is not None
        assert found.url.password == "canary"
        assert found.url.query == {**place(url).url.query, "sslpassword": "canary"}
        record_place(tmp_path, found)
        assert "canary" not in (tmp_path / "storage.json").read_text()
    # Typed, an option may change.
    other = place_of(tmp_path, "postgresql://me:canary@db/sweeps?sslmode=verify-full")
    assert other is not None
    assert other.url.query == {"sslmode": "verify-full"}


def test_a_study_in_a_schema_of_its_own_is_found_by_its_folder(
    tmp_path: Path, sweep: Sweep, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA lab")
    folder, there = tmp_path / "tiny", place(f"{database}?options=-csearch_path%3Dlab")
    with ExitStack() as stack:
        open_study(folder, sweep, there, Patience(), stack).ask()
    folder.mkdir(exist_ok=True)
    record_place(folder, there)
    monkeypatch.setenv("HJEPA_STORAGE", database)
    assert [record.number for record in read_study(folder, place_of(folder, None))] == [0]


@pytest.mark.parametrize("setting", ["-c lab.key=canary", "-csearch_path=lab --lab.key=canary", "canary"])
def test_settings_that_are_not_the_servers_own_are_not_recorded(tmp_path: Path, setting: str) -> None:
    record_place(tmp_path, place(f"postgresql://me@db/sweeps?options={quote(setting)}"))
    assert "canary" not in (tmp_path / "storage.json").read_text()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("db.example.org", "not the URL of a database"),
        ("redis://db/0", "redis keeps no sweep; allowed is SQL"),
        ("sqlite://", "sqlite needs a file"),
    ],
)
def test_a_place_that_keeps_no_sweep_is_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Place.parse(url, "--storage")


def test_a_wrong_password_and_a_dead_server_are_one_message(tmp_path: Path, postgres: Postgres) -> None:
    with pytest.raises(ConfigError, match=r'sweeper@127.*password authentication failed for user "sweeper"'):
        open_database(place(postgres.url("postgres", "canary")), Patience())
    with pytest.raises(ConfigError, match="Set HJEPA_STORAGE to the URL with its password"):
        open_database(place(postgres.url("postgres", None)), Patience())
    with pytest.raises(ConfigError, match="Connection refused"):
        open_database(place("postgresql://me@127.0.0.1:1/sweeps"), Patience())


@pytest.mark.slow
def test_a_sweep_killed_goes_on_from_the_database_and_its_password_is_written_nowhere(
    workplace: Workplace, database: str
) -> None:
    short = {
        "search": {"algorithm": "random", "num_trials": 1},
        "scheduler": {"type": "fifo", "max_epochs": 4},
        "resources": {"concurrency": 1},
    }
    workplace.write("tiny.yaml", SPACE | short)
    # The password on the command line goes to the environment at once.
    log = workplace.folder / "log"
    with sweep_to_kill(workplace, "tiny.yaml", "--storage", database, output=log) as process:
        wait_for(workplace.folder / "results/tiny/trials/0000/metrics.jsonl", '"epoch": 1', process)
        seen = " ".join(psutil.Process(process.pid).cmdline())
        require_no_password(workplace.folder, Path(workplace.env["HJEPA_STATE_DIR"]))
    assert "--storage postgresql+psycopg://sweeper@127.0.0.1" in seen
    assert PASSWORD not in seen + log.read_text()
    assert not (workplace.folder / "results/tiny/study.journal").exists()
    workplace.env["HJEPA_STORAGE"] = database
    again = workplace.sweep("resume", "tiny")
    assert again.returncode == 0, again.stdout + again.stderr
    for record in records(workplace):
        assert (record.outcome, record.notes) == ("completed", [])
        kept = uninterrupted(workplace, record)
        assert [{k: m[k] for k in kept[0]} for m in map(learnt, record.reports.values())] == kept
    require_no_password(workplace.folder, Path(workplace.env["HJEPA_STATE_DIR"]))
