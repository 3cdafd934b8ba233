"""A fetched copy of a sweep whose study is in PostgreSQL: whole without the database, and no second sweep."""

import io
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from optuna.storages import BaseStorage, RDBStorage
from rich.console import Console

from orchestrator.cli import main
from orchestrator.cluster import bundle
from orchestrator.cluster.bundle import NotACopyError, from_text, to_lines
from orchestrator.definition import JOURNAL
from orchestrator.fork import fork
from orchestrator.reporting.contents import contents
from orchestrator.reporting.material import read_material
from orchestrator.reporting.page import to_markdown
from orchestrator.reporting.tables import trials_csv
from orchestrator.space import Sweep, load_sweep
from orchestrator.storage.disk import Patience
from orchestrator.study.database import Database, open_database, read_database
from orchestrator.study.place import STORAGE, VARIABLE, Place, copy_in, place_of, record_place
from orchestrator.study.reading import read_study
from orchestrator.study.study import Study
from orchestrator.watching.status import read_status
from orchestrator.watching.table import SweepTable
from tests.programs.postgres import PASSWORD, require_no_password
from tests.recorded import BROAD, begun, fates, finished, read_by_optuna, space
from tests.workplace import SPACE, Workplace, records, sweep_to_kill, wait_for

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
METRIC = "val/knn_top1"


@pytest.fixture
def place(database: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A database whose password is in the environment, as on the head node of a cluster."""
    monkeypatch.setenv(VARIABLE, database)
    return Place.parse(database, "test")


@pytest.fixture
def storage(place: Place) -> Iterator[Database]:
    storage = open_database(place, Patience())
    yield storage
    storage.engine.dispose()


@pytest.fixture
def there(tmp_path: Path, place: Place, storage: Database) -> Path:
    """The folder, on a cluster, of a sweep in which everything has happened that may happen to a trial."""
    (tmp_path / "there").mkdir()
    folder, study = begun(tmp_path / "there", space(tmp_path), storage)
    record_place(folder, place)
    fill(study)
    return folder


def fill(study: Study) -> None:
    fates(study)
    for epoch in range(2, 12):
        study.report(0, epoch, {METRIC: epoch / 30, "time/epoch_s": 1.5}, f"epoch_{epoch:05d}.pt")
    study.end(study.take_up(study.trials[6]).number, "pruned")
    study.end(0, "completed")
    study.end(study.ask_again(study.trials[0], seed=7).number, "failed", "")
    study.end_search({"key": "budget.epochs"})
    study._study.ask()  # and the process died before the values were written


def close(database: str) -> None:
    """Let nobody into a database any more."""
    name = database.rpartition("/")[2]
    with psycopg.connect(database.replace(name, "postgres"), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def let_nobody_write(database: str) -> None:
    name = database.rpartition("/")[2]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'.encode())


def fetched(there: Path, here: Path) -> Path:
    """The copy at `here` of the sweep's folder `there`, as `fetch` brings it."""
    from_text("\n".join(to_lines(there)), here)
    return here


def everything(storage: BaseStorage, name: str) -> list[Any]:
    """All that Optuna knows of a study, but for how it counts trials and studies."""
    study = storage.get_study_id_from_name(name)
    trials = [
        {
            key: repr(value)
            for key, value in sorted(vars(trial).items())
            if key not in ("_trial_id", "_user_attrs")
        }
        | {"attributes": repr(sorted(trial.user_attrs.items()))}
        for trial in storage.get_all_trials(study)
    ]
    attributes = storage.get_study_user_attrs(study), storage.get_study_system_attrs(study)
    return [storage.get_study_directions(study), *attributes, trials]


def shown(folder: Path) -> list[str]:
    """What `status`, its table and `report` show."""
    console = Console(file=io.StringIO(), width=140, height=60)
    console.print(SweepTable(read_status(folder)))
    assert isinstance(console.file, io.StringIO)
    material = read_material(folder)
    # With the folder in its commands, and the minute.
    page = to_markdown(contents(material)).replace(str(folder.parent), "RESULTS")
    page = re.sub(r"Drawn by .*", "", page)
    brief, status = read_status(folder, newest_only=True), read_status(folder)
    figures = brief.words(), brief.data(), status.words(), status.data()
    return [
        repr(read_study(folder, place_of(folder, None))),
        console.file.getvalue(),
        page,
        trials_csv(material),
        *map(repr, figures),  # one NaN is not equal to another
    ]


def test_a_copy_shows_without_the_database_what_the_database_shows(
    tmp_path: Path, there: Path, database: str
) -> None:
    before = shown(there)
    let_nobody_write(database)
    here = fetched(there, tmp_path / "here/tiny")
    close(database)
    assert shown(here) == before
    again = fetched(here, tmp_path / "further/tiny")
    for name in (JOURNAL, STORAGE):
        assert (again / name).read_bytes() == (here / name).read_bytes()
    copy = copy_in(here)
    assert copy is not None
    assert copy.original.is_same(Place.parse(database, "test"))
    assert PASSWORD.encode() not in (here / JOURNAL).read_bytes()
    require_no_password(here)


def test_a_finished_sweep_has_its_whole_report_in_the_copy(
    tmp_path: Path, place: Place, storage: Database, database: str
) -> None:
    small = {
        "search": {"algorithm": "random", "num_trials": 6, "seed": 0},
        "confirm": {"top_k": 1, "seeds": 2},
    }
    there = finished(tmp_path / "there", space(tmp_path, BROAD, **small), storage=storage)
    record_place(there, place)
    before = shown(there)
    assert "interval" in before[2]
    here = fetched(there, tmp_path / "here/broad")
    close(database)
    assert shown(here) == before


def test_the_journal_of_a_copy_holds_all_that_optuna_has_in_the_database(
    tmp_path: Path, there: Path, place: Place
) -> None:
    here = fetched(there, tmp_path / "here/tiny")
    reading: RDBStorage = read_database(place)
    assert everything(read_by_optuna(here), "tiny") == everything(reading, "tiny")
    reading.engine.dispose()


def test_a_copy_is_not_gone_on_with_by_itself_and_it_says_how(
    tmp_path: Path, there: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    here = fetched(there, tmp_path / "here/tiny")
    close(database)
    before = {file: file.read_bytes() for file in here.parent.rglob("*") if file.is_file()}
    for words in (["resume", "tiny"], ["retry", "tiny", "--failed"], [str(here / "sweep.yaml")]):
        assert main([*words, "--results", str(here.parent)]) == 2
        said = capsys.readouterr().err
        assert "is a copy, made at 20" in said
        assert "of a sweep that is kept in postgresql+psycopg://sweeper@127.0.0.1" in said
        assert "with --storage postgresql+psycopg://sweeper@127.0.0.1" in said
        assert f"hjepa-sweep {here}/sweep.yaml --results {here.parent} --fork NAME" in said
        assert PASSWORD not in said
    assert {file: file.read_bytes() for file in here.parent.rglob("*") if file.is_file()} == before


def test_status_of_a_copy_says_so_beside_what_it_shows(
    tmp_path: Path, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = fetched(there, tmp_path / "here/tiny")
    assert main(["status", "tiny", "--results", str(there.parent)]) == 0
    original = capsys.readouterr()
    assert main(["status", "tiny", "--results", str(here.parent)]) == 0
    copy = capsys.readouterr()
    assert copy.out == original.out
    assert original.err == ""
    assert "hjepa-sweep: tiny is a copy, made at 20" in copy.err


def test_a_copy_is_forked_without_the_database(
    tmp_path: Path, there: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = fetched(there, tmp_path / "here/tiny")
    close(database)
    monkeypatch.delenv(VARIABLE)
    apart: Sweep = load_sweep(here / "sweep.yaml", overrides={"name": "apart"})
    assert fork(here.parent, "tiny", apart)[0] == "apart: 3 finished trials of tiny taken over"
    assert copy_in(here.parent / "apart") is None
    assert next(r.origin for r in read_study(here.parent / "apart", None)) == "trial 0000 of tiny"


def test_the_original_goes_on_in_a_folder_that_was_a_copy(tmp_path: Path, there: Path, database: str) -> None:
    here = fetched(there, tmp_path / "here/tiny")
    place = place_of(here, database)
    assert place is not None
    record_place(here, place)  # as a sweep does that goes on there
    assert copy_in(here) is None
    assert place_of(here, None) == place
    with pytest.raises(NotACopyError, match="gone on"):
        fetched(there, here)


def test_a_copy_gives_way_to_a_newer_one_of_the_same_sweep_alone(
    tmp_path: Path, there: Path, storage: Database
) -> None:
    here = fetched(there, tmp_path / "here/tiny")
    sweep = load_sweep(there / "sweep.yaml")
    _, study = begun(there.parent, sweep, storage)
    study.report(1, 3, {METRIC: 0.9}, None)
    fetched(there, here)
    assert read_study(here, None)[1].reports[3] == {METRIC: 0.9}
    assert [file.name for file in here.parent.iterdir()] == ["tiny"]

    storage.delete_study(storage.get_study_id_from_name("tiny"))
    begun(there.parent, sweep, storage)
    with pytest.raises(NotACopyError, match="another sweep of that name"):
        fetched(there, here)
    with (here / JOURNAL).open("a") as journal:
        journal.write("mine\n")
    with pytest.raises(NotACopyError, match="gone on"):
        fetched(there, here)
    assert (here / JOURNAL).read_text().endswith("mine\n")


def test_a_database_that_does_not_let_in_is_one_line_instead_of_a_bundle(
    there: Path, storage: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(VARIABLE)
    assert bundle.main(there) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert "Set HJEPA_STORAGE to the URL with its password" in line
    monkeypatch.setenv(VARIABLE, storage.url)
    storage.delete_study(storage.get_study_id_from_name("tiny"))
    assert bundle.main(there) == 2
    assert "holds no study of that name" in capsys.readouterr().out


@pytest.mark.slow
def test_a_copy_of_a_sweep_that_was_killed_goes_on_by_storage_as_the_original(
    workplace: Workplace, database: str
) -> None:
    short = {
        "search": {"algorithm": "random", "num_trials": 1},
        "scheduler": {"type": "fifo", "max_epochs": 6},
        "resources": {"concurrency": 1},
    }
    workplace.write("tiny.yaml", SPACE | short)
    with sweep_to_kill(workplace, "tiny.yaml", "--results", "there", "--storage", database) as process:
        # By then the checkpoint of the first epoch is known to the study.
        wait_for(workplace.folder / "there/tiny/trials/0000/metrics.jsonl", '"epoch": 2', process)
    # As on the cluster: both streams in one, and Python's warnings on.
    printed = subprocess.run(
        workplace.command("orchestrator.cluster.bundle", "there/tiny"),
        cwd=workplace.folder,
        env=workplace.env | {VARIABLE: database},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    ).stdout
    from_text(printed, workplace.folder / "results/tiny")
    shutil.rmtree(workplace.folder / "there")
    assert workplace.sweep("resume", "tiny").returncode == 2
    done = workplace.sweep("resume", "tiny", "--storage", database)
    assert done.returncode == 0, done.stdout + done.stderr
    assert copy_in(workplace.folder / "results/tiny") is None
    workplace.env[VARIABLE] = database
    found = records(workplace)
    assert [record.outcome for record in found] == ["completed", "completed"]
    assert any("begins anew: none of its checkpoints" in note for record in found for note in record.notes)
    assert os.listdir(workplace.folder / "results/tiny/trials") != []
