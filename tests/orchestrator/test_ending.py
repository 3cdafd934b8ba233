"""What a sweep does at its end where the store of its checkpoints is away, or refuses."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.scale import opened
from hjepa.train import train
from orchestrator.ending import BEST, MODEL, Ending
from orchestrator.storage.depot import Depot
from orchestrator.storage.disk import Patience
from orchestrator.storage.store import Store, open_store
from orchestrator.tracking.chronicle import run_config
from tests.programs.s3 import S3
from tests.recorded import space


@pytest.fixture
def store(bucket: str) -> Store:
    return open_store(bucket)


@pytest.fixture
def away(s3: S3, bucket: str) -> Store:
    """The same store at an address where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return open_store(bucket.replace(str(s3.port), str(unused.getsockname()[1])))


@pytest.fixture
def ending(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ending]:
    """Of a sweep whose base has run, with its checkpoint in the store and a tracking server that is away."""
    monkeypatch.setenv("HJEPA_REPORT", "off")
    sweep = space(tmp_path, confirm={"top_k": 0})
    folder = tmp_path / "results" / sweep.config.name
    folder.mkdir(parents=True)
    run, study = opened(folder, sweep)
    record = study.ask("base", sweep.base_values())
    (report, *_) = train(run_config(sweep, record))
    report.save(tmp_path / "epoch_00001.pt")
    run.ending.depot = Depot(store)
    run.ending.depot.folder(record).put(tmp_path / "epoch_00001.pt", "epoch_00001.pt")
    study.report(record.number, 1, report.metrics, "epoch_00001.pt")
    study.end(record.number, "completed")
    yield run.ending
    run.tracker.close(0.0)


def said_by(ending: Ending) -> list[str]:
    said: list[str] = []
    ending.say = ending.patience.say = said.append
    return said


def until(back: Callable[[], None]) -> Patience:
    """Waits, until at the first pause `back` is called."""
    return Patience(lambda _: back())


def test_an_end_waits_for_a_store_that_is_away(ending: Ending, store: Store, away: Store):
    depot = ending.depot = Depot(away)
    ending.patience = until(lambda: setattr(depot, "store", store))
    said = said_by(ending)
    ending.write()
    assert "the sweep pauses until the checkpoints' store answers: s3://" in said[0]
    assert ending.study.is_answered
    assert (ending.folder / MODEL).is_dir()
    assert BEST in store.names()
    assert store.below(MODEL).names() == sorted(path.name for path in (ending.folder / MODEL).iterdir())


def test_an_answer_waits_for_a_store_that_goes_away_before_it_is_there(
    ending: Ending, store: Store, away: Store, monkeypatch: pytest.MonkeyPatch
):
    """The checkpoint has been fetched by then."""
    depot = ending.depot
    assert depot is not None
    monkeypatch.setattr(ending, "_draw", lambda: setattr(depot, "store", away))
    ending.patience = until(lambda: setattr(depot, "store", store))
    said = said_by(ending)
    ending.write()
    assert len([line for line in said if "pauses until the checkpoints' store answers" in line]) == 1
    assert ending.study.is_answered
    assert BEST in store.names()


def test_an_end_that_a_store_refuses_is_left_for_the_next_start(
    ending: Ending, store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    ending.depot = Depot(open_store(bucket.replace("s3://b", "s3://none")))
    said = said_by(ending)
    ending.write()
    model, copy = said
    assert "the best trial's features are not kept as a model: s3://none" in model
    assert "the results could not be copied to s3://none" in copy
    assert "NO_SUCH_BUCKET" in copy
    assert copy.endswith(f"hjepa-sweep resume tiny --results {ending.folder.parent} tries again")
    assert not ending.study.is_answered
    ending.depot = Depot(store)
    ending.write()
    assert ending.study.is_answered
    assert BEST in store.names()
