"""Checkpoints at a URL: what a store has to do, and what trials make of it."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pyarrow import fs

from hjepa.checkpoint import load_checkpoint
from hjepa.config import RunConfig
from orchestrator.engine.trial import Outcome, Task, TrialActor
from orchestrator.space import ConfigError, ResourcesConfig
from orchestrator.storage.checkpoints import checkpoints
from orchestrator.storage.depot import Depot
from orchestrator.storage.disk import Patience, StoreAway
from orchestrator.storage.store import GOOGLE_S, Store, open_store, told
from tests.programs.s3 import KEY, S3, SECRET
from tests.workplace import SPACE, Workplace, records, sweep_to_kill, uninterrupted, wait_for
from tests.workplace import learnt as learnt_of

Tiny = Callable[..., RunConfig]


@pytest.fixture(params=["s3", "file", "fsspec"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """One of each kind: an object store, a file system, and one that only fsspec knows."""
    if request.param == "s3":
        return open_store(request.getfixturevalue("bucket")).below("some", "folder")
    if request.param == "file":
        return open_store((tmp_path / "kept").as_uri()).below("some", "folder")
    return open_store(f"memory://{tmp_path.name}").below("some", "folder")


def test_what_googles_library_says_is_told_without_its_inner_life():
    said = (
        "google::cloud::Status(UNAVAILABLE: Retry policy exhausted, with a last message of PerformWork() - "
        "CURL error [6]=Could not resolve hostname error_info={reason=, metadata={gcloud-cpp.retry=false}})"
    )
    found = told(OSError(said), "gs://bucket/folder")
    assert isinstance(found, StoreAway)
    assert found.strerror == "UNAVAILABLE: PerformWork() - CURL error [6]=Could not resolve hostname"


def test_a_store_of_googles_does_not_try_for_a_quarter_of_an_hour():
    store = open_store("gs://anonymous@bucket/folder")
    other = fs.FileSystem.from_uri(f"gs://anonymous@bucket?retry_limit_seconds={GOOGLE_S}")[0]
    assert store.system == other
    assert store.system != fs.FileSystem.from_uri("gs://anonymous@bucket")[0]
    assert (store.url, store.path) == ("gs://anonymous@bucket/folder", "bucket/folder")


def test_a_store_gives_back_what_it_was_given(store: Store, tmp_path: Path):
    assert store.names() == []
    (tmp_path / "a").write_bytes(b"one")
    store.put(tmp_path / "a", "b.pt")
    (tmp_path / "a").write_bytes(b"another")
    store.put(tmp_path / "a", "b.pt")
    store.put(tmp_path / "a", "a.pt")
    store.below("deeper").put(tmp_path / "a", "c.pt")
    assert store.names() == ["a.pt", "b.pt"]
    store.fetch("b.pt", tmp_path / "back" / "b.pt")
    assert (tmp_path / "back/b.pt").read_bytes() == b"another"
    store.rename("b.pt", "b.pt.unreadable")
    store.send("a.pt", store.below("deeper"))
    store.delete("a.pt")
    store.delete("a.pt")
    assert store.names() == ["b.pt.unreadable"]
    assert store.below("deeper").names() == ["a.pt", "c.pt"]
    store.probe()
    assert store.names() == ["b.pt.unreadable"]


def test_what_is_not_there_leaves_nothing_behind(store: Store, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no\.pt"):
        store.fetch("no.pt", tmp_path / "target.pt")
    assert [path.name for path in tmp_path.iterdir() if "target" in path.name] == []


def test_a_url_names_the_same_folder_wherever_it_is_opened(store: Store, tmp_path: Path):
    (tmp_path / "a").write_text("x")
    store.put(tmp_path / "a", "a.pt")
    assert open_store(store.url).names() == ["a.pt"]


def test_a_server_that_does_not_answer_is_told_from_one_that_refuses(s3: S3, bucket: str, tmp_path: Path):
    (tmp_path / "a").write_text("x")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = bucket.replace(str(s3.port), str(unused.getsockname()[1]))
        with pytest.raises(StoreAway, match="connect"):
            open_store(dead).put(tmp_path / "a", "a")
    missing = open_store(bucket.replace("s3://b", "s3://none"))
    with pytest.raises(OSError, match="NO_SUCH_BUCKET") as raised:
        missing.put(tmp_path / "a", "a")
    assert not isinstance(raised.value, StoreAway)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("results/checkpoints", "is no URL of a folder"),
        ("s3://", "is no URL of a folder"),
        (f"s3://{KEY}:{SECRET}@bucket/folder", "no place for a password"),
        (f"s3://bucket/folder?secret_key={SECRET}", r"\?secret_key is not allowed"),
        ("s3://bucket/folder?regoin=eu-west-1", "nearest: region"),
    ],
)
def test_a_url_that_is_none_or_holds_a_secret_is_refused(url: str, message: str):
    with pytest.raises(ValueError, match=message) as raised:
        ResourcesConfig(checkpoints=url)
    assert "checkpoints" in str(raised.value)


def test_a_store_that_nobody_knows_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"resources\.checkpoints: zz://bucket: cannot be opened"):
        open_store("zz://bucket")


def test_a_depot_takes_files_and_folders_in_that_are_there(store: Store, tmp_path: Path):
    results = tmp_path / "results"
    (results / "report").mkdir(parents=True)
    for name in ("best.yaml", "report/index.html"):
        (results / name).write_text(name)
    depot = Depot(store)
    depot.take_in(results, [results / name for name in ("best.yaml", "report", "missing.yaml")], Patience())
    assert (store.names(), store.below("report").names()) == (["best.yaml"], ["index.html"])


# Trials


class Place:
    """A sweep's folder as nodes see it, and a trial that is run there with its checkpoints at a URL."""

    def __init__(self, run: RunConfig, folder: Path, url: str):
        self.run, self.folder, self.url = run, folder, url
        self.store = open_store(url)
        folder.mkdir(parents=True)
        (folder / "definition.json").write_text("{}")

    @property
    def trial(self) -> Path:
        return self.folder / "trials" / "0000"

    def actor(self, reported: int = 0) -> TrialActor:
        actor = TrialActor.__new__(TrialActor)
        run = self.run.model_dump_json()
        actor.setup(Task(0, run, str(self.trial), stores=(self.url,), reported=reported).config())
        return actor


@pytest.fixture
def place(tiny: Tiny, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("HJEPA_STATE_DIR", str(tmp_path / "state"))
    url = bucket.replace("?", "/sweep/trials/0000?")
    return Place(tiny({"training.epochs": 4}), tmp_path / "results" / "sweep", url)


def learnt(outcome: Outcome) -> dict[str, float]:
    return {name: value for name, value in outcome.metrics.items() if not name.startswith("time/")}


def test_a_checkpoint_is_at_the_url_before_its_report_is_made(place: Place):
    actor = place.actor()
    for epoch in (1, 2, 3):
        outcome = Outcome.of(actor.step())
        assert outcome.checkpoint == f"epoch_{epoch:05d}.pt"
        assert place.store.names()[-1] == outcome.checkpoint
    assert place.store.names() == ["epoch_00002.pt", "epoch_00003.pt"]
    assert checkpoints(place.trial, 9) == []  # no second copy on this node
    assert (place.trial / "metrics.jsonl").exists()


def test_a_trial_goes_on_elsewhere_though_its_folder_is_lost(place: Place):
    """Another node does not see the sweep's folder at all."""
    actor = place.actor()
    first = [Outcome.of(actor.step()) for _ in range(4)]
    shutil.rmtree(place.folder)
    elsewhere = place.actor(reported=3)
    again = Outcome.of(elsewhere.step())
    assert (again.epoch, learnt(again), again.notes) == (4, learnt(first[3]), ())
    elsewhere.cleanup()
    assert not place.folder.exists()
    assert list((place.folder.parents[1] / "state").iterdir()) == []
    assert {"config.yaml", "metrics.jsonl"} < set(place.store.names())


def test_a_trial_that_moves_twice_keeps_its_lines(place: Place, tmp_path: Path):
    """From one node without the sweep's folder to another."""
    (place.folder / "definition.json").unlink()
    for reported in range(3):
        actor = place.actor(reported)
        actor.step()
        actor.cleanup()
    place.store.fetch("metrics.jsonl", tmp_path / "lines")
    assert [json.loads(line)["epoch"] for line in (tmp_path / "lines").read_text().splitlines()] == [1, 2, 3]


def tear(store: Store, name: str, scratch: Path) -> None:
    store.fetch(name, scratch)
    scratch.write_bytes(scratch.read_bytes()[: scratch.stat().st_size // 2])
    store.put(scratch, name)


def test_a_torn_checkpoint_at_the_url_falls_back_to_the_one_before(place: Place, tmp_path: Path):
    actor = place.actor()
    first = [Outcome.of(actor.step()) for _ in range(3)]
    tear(place.store, "epoch_00003.pt", tmp_path / "scratch")
    again = Outcome.of(place.actor(reported=3).step())
    assert (again.epoch, learnt(again)) == (3, learnt(first[2]))
    (note,) = again.notes
    assert "goes on after epoch 2" in note
    assert "/sweep/trials/0000/epoch_00003.pt" in note
    assert "epoch_00003.pt.unreadable" in place.store.names()


def test_a_trial_whose_checkpoints_are_gone_begins_anew_and_says_so(place: Place):
    again = Outcome.of(place.actor(reported=3).step())
    assert again.epoch == 1
    assert "begins anew: none of its checkpoints is at s3://" in again.notes[0]


def test_a_checkpoint_later_than_what_the_study_has_does_not_count(place: Place):
    actor = place.actor()
    first = [Outcome.of(actor.step()) for _ in range(3)]
    again = Outcome.of(place.actor(reported=2).step())
    assert (again.epoch, learnt(again)) == (3, learnt(first[2]))


def test_an_epoch_waits_for_a_store_that_is_away(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Nothing listens at its address for a while."""
    monkeypatch.setattr("orchestrator.engine.trial.PAUSE_S", 0.0)
    actor = place.actor()
    assert Outcome.of(actor.step()).epoch == 1
    port = place.url.partition("%3A")[2].partition("&")[0]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = open_store(place.url.replace(port, str(unused.getsockname()[1])))
        monkeypatch.setattr("orchestrator.storage.checkpoints.open_store", lambda url: dead)
        paused = Outcome.of(actor.step())
        assert paused.paused
        assert "until the checkpoints' store answers: s3://" in paused.paused
    monkeypatch.setattr("orchestrator.storage.checkpoints.open_store", open_store)
    second = Outcome.of(actor.step())
    assert (second.epoch, second.paused) == (2, None)
    assert place.store.names() == ["epoch_00001.pt", "epoch_00002.pt"]
    assert len((place.trial / "metrics.jsonl").read_text().splitlines()) == 2


# Sweeps


def test_a_sweep_keeps_its_checkpoints_and_its_answer_at_the_url_and_writes_no_secret(
    workplace: Workplace, s3: S3, bucket: str
):
    other = "canary-7f3a91c2"
    workplace.env |= s3.env | {"WANDB_API_KEY": other, "MY_PASSWORD": other}
    url = bucket.replace("?", "/deep/folder?")
    settings = (f"--set=resources.checkpoints={url}", "--set=resources.concurrency=1")
    done = workplace.sweep("tiny.yaml", *settings, "--trials", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    found = records(workplace)
    name = bucket.removeprefix("s3://").partition("?")[0]
    held = s3.names(f"{name}/deep/folder")
    (top,) = {path.partition("/")[0] for path in held}
    assert top.startswith("tiny-")
    kept = {record.id: record.checkpoint for record in found if record.outcome == "completed"}
    assert kept
    checkpoints_held = [path for path in held if path.endswith(".pt") and "/trials/" in path]
    assert checkpoints_held == [f"{top}/trials/{id_}/{kept[id_]}" for id_ in sorted(kept)]
    assert {f"{top}/best.yaml", f"{top}/sweep.yaml", f"{top}/base.yaml"} <= set(held)
    results = workplace.folder / "results/tiny"
    assert list((results / "trials").rglob("*.pt")) == []
    for secret in (SECRET, other):
        assert secret not in done.stdout + done.stderr
        assert workplace.holding(secret) == []
    trial = next(iter(kept))
    done = workplace.ask("export", "tiny", "--trial", trial, "-o", "w.yaml", "--checkpoint", "w.pt")
    assert done.returncode == 0, done.stdout + done.stderr
    state = load_checkpoint(workplace.folder / "w.pt", torch.device("cpu"))
    assert state["epoch"] == max(found[int(trial)].reports)


def test_a_store_that_cannot_be_written_to_is_refused_before_anything_is_written(
    workplace: Workplace, s3: S3, bucket: str
):
    workplace.env |= s3.env
    missing = bucket.replace("s3://b", "s3://none")
    before = workplace.files()
    done = workplace.ask("tiny.yaml", "--set", f"resources.checkpoints={missing}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "resources.checkpoints: s3://none" in done.stderr
    assert "NO_SUCH_BUCKET" in done.stderr
    assert "Traceback" not in done.stderr
    assert workplace.files() == before


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_from_the_url(workplace: Workplace, s3: S3, bucket: str):
    """Its trials' folders are gone too, as where the machine was another one."""
    workplace.env |= s3.env
    long = {
        "search": {"algorithm": "random", "num_trials": 1},
        "scheduler": {"type": "fifo", "max_epochs": 6},
    }
    workplace.write("tiny.yaml", SPACE | long | {"resources": {"checkpoints": bucket}})
    with sweep_to_kill(workplace, "tiny.yaml") as process:
        wait_for(workplace.folder / "results/tiny/trials/0000/metrics.jsonl", '"epoch": 3', process)
    reported = max(records(workplace)[0].reports)
    assert reported >= 2
    shutil.rmtree(workplace.folder / "results/tiny/trials")
    done = workplace.sweep("tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    (first, *_) = records(workplace)
    kept = uninterrupted(workplace, first)
    assert [{k: m[k] for k in kept[0]} for m in map(learnt_of, first.reports.values())] == kept
    assert first.notes == []
    lines = (workplace.folder / "results/tiny/trials/0000/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(reported + 1, 7))
