"""Trials under Ray Train: the numbers of one process, and no worker or place left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from hjepa.config import RunConfig, load_config
from hjepa.distributed import DistributedConfig
from hjepa.memory import huge_pages
from hjepa.schema import to_yaml
from hjepa.train import train
from orchestrator.space import load_sweep
from orchestrator.study.record import TrialRecord
from tests.conftest import build_tiny
from tests.workplace import SPACE, Workplace, end_session, learnt, records, wait_for

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
TWO_TRIALS = SPACE | {"search": {"algorithm": "random", "num_trials": 2}}
LONG = SPACE | {
    "search": {"algorithm": "random", "num_trials": 1},
    "scheduler": {"type": "fifo", "max_epochs": 40},
}
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
two_cores = pytest.mark.skipif(CORES < 2, reason="two workers take two cores")

# Two trials in turn by one actor of the train engine, and what Ray holds when it stops or is killed.
IN_TURN = """
import json, sys, time
import ray
from ray import tune
from ray.util import placement_group_table
from orchestrator.engine.engine import local_ray
from orchestrator.engine.group import GroupActor, free_orphans
from orchestrator.space import ResourcesConfig

def held():
    return sum(group["state"] != "REMOVED" for group in placement_group_table().values())

def seconds_until_free():
    began = time.monotonic()
    while held() and time.monotonic() - began < 20:
        time.sleep(0.05)
        free_orphans(scratch)  # as the next group does, which would wait for these places
    return time.monotonic() - began

tasks, endings = json.loads(sys.argv[1]), sys.argv[2].split(",")
resources = ResourcesConfig(engine="train")
with local_ray(resources) as scratch:
    with_them = tune.with_parameters(GroupActor, resources=resources, storage=str(scratch))
    for ending in endings:
        actor = ray.remote(num_cpus=0)(with_them).remote(config=tasks[0])
        found = []
        for task in tasks:
            assert ray.get(actor.reset.remote(task))
            found += [ray.get(actor.train.remote())["outcome"] for _ in range(2)]
        before = held()
        if ending == "stop":
            ray.get(actor.stop.remote())
        ray.kill(actor)
        print(json.dumps({"outcomes": found, "before": before, "seconds": seconds_until_free()}))
"""


# What a process of a Ray of our own begins with, and what this one has of it.
BEGUN_WITH = """
import os
import ray
from orchestrator.engine.engine import local_ray
from orchestrator.space import ResourcesConfig

@ray.remote
def theirs():
    return os.environ.get("GLIBC_TUNABLES")

with local_ray(ResourcesConfig()):
    print("there", ray.get(theirs.remote()))
print("here", os.environ.get("GLIBC_TUNABLES"))
"""


def run_script(state: Path, script: str, *arguments: str) -> str:
    """What a process of its own prints, whose Ray has its files in `state`."""
    done = subprocess.run(
        [sys.executable, "-c", "import orchestrator\n" + script, *arguments],
        env=os.environ | {"HJEPA_STATE_DIR": str(state)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def in_turn(runs: list[RunConfig], folder: Path, state: Path, endings: str) -> list[dict[str, Any]]:
    tasks = [
        {"task": {"number": n, "run": run.model_dump_json(), "folder": str(folder / str(n))}}
        for n, run in enumerate(runs)
    ]
    said = run_script(state, IN_TURN, json.dumps(tasks), endings)
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def alone(workplace: Workplace, record: TrialRecord) -> list[dict[str, Any]]:
    """What one process reports of a trial's config, epoch by epoch."""
    run = load_sweep(workplace.folder / "results/tiny/sweep.yaml").resolve(record.values)
    assert run.distributed == DistributedConfig(enabled=True, world_size=2, backend="gloo")
    one = run.model_copy(update={"distributed": DistributedConfig()})
    return [learnt(report.metrics) for report in train(one)]


def require_numbers_of_one(workplace: Workplace, record: TrialRecord) -> None:
    """Up to rounding: the accuracies of 361 images may differ by a few of them."""
    for epoch, expected in enumerate(alone(workplace, record), 1):
        if epoch not in record.reports:  # stopped by ASHA
            continue
        found = record.reports[epoch]
        assert found["train/loss"] == pytest.approx(expected["train/loss"], rel=1e-4)
        assert found["val/knn_top1"] == pytest.approx(expected["val/knn_top1"], abs=0.02)
        assert {name for name in found if "/" in name} >= expected.keys()


@pytest.mark.skipif(not huge_pages(), reason="this machine has none, or gives them to all")
def test_processes_of_our_own_ray_have_huge_pages(state_folder: Path) -> None:
    said = run_script(state_folder, BEGUN_WITH)
    assert said.splitlines()[-2:] == ["there glibc.malloc.hugetlb=1", "here None"]


@two_cores
@pytest.mark.slow
def test_a_sweep_of_two_workers_gives_the_numbers_of_one(workplace: Workplace) -> None:
    workplace.write("tiny.yaml", TWO_TRIALS | {"resources": {"workers": 2}})
    done = workplace.sweep("tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    found = records(workplace)
    assert len(found) == 3
    assert {record.outcome for record in found} <= {"completed", "pruned"}
    assert [record.notes for record in found] == [[], [], []]
    for record in found:
        require_numbers_of_one(workplace, record)
        lines = (workplace.folder / f"results/tiny/trials/{record.id}/metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == sorted(record.reports)
    assert not load_config(workplace.folder / "results/tiny/best.yaml").distributed.enabled


@pytest.mark.slow
def test_a_group_of_one_is_equal_to_the_bit_and_leaves_no_place_taken(
    tmp_path: Path, state_folder: Path
) -> None:
    runs = [build_tiny({"training.epochs": 2}), build_tiny({"training.epochs": 2, "training.lr": 0.003})]
    (seen,) = in_turn(runs, tmp_path, state_folder, "stop")
    expected = [learnt(report.metrics) for run in runs for report in train(run)]
    assert [learnt(outcome["metrics"]) for (outcome,) in seen["outcomes"]] == expected
    assert [outcome["finished"] for (outcome,) in seen["outcomes"]] == [False, True, False, True]
    assert (tmp_path / "1" / "config.yaml").read_text() == to_yaml(runs[1])
    assert seen["before"] == 1
    assert seen["seconds"] < 5


@pytest.mark.slow
def test_a_killed_actor_takes_its_workers_and_their_places_along(tmp_path: Path, state_folder: Path) -> None:
    (seen,) = in_turn([build_tiny({"training.epochs": 2})], tmp_path, state_folder, "kill")
    assert seen["before"] == 1
    assert seen["seconds"] < 5


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    everyone = psutil.Process(process.pid).children(recursive=True)
    return [other for other in everyone if "RayTrainWorker" in " ".join(other.cmdline())]


@pytest.mark.slow
@two_cores
@pytest.mark.parametrize("rank", [0, 1])
def test_a_trial_goes_on_when_one_of_its_workers_is_killed(workplace: Workplace, rank: int) -> None:
    workplace.write("tiny.yaml", LONG | {"resources": {"workers": 2}})
    process = workplace.start_sweep("tiny.yaml")
    try:
        wait_for(workplace.folder / "results/tiny/trials/0000/metrics.jsonl", '"epoch": 3', process)
        workers_of(process)[rank].kill()
        output, _ = process.communicate(timeout=240)
    finally:
        end_session(process)
    assert process.returncode == 0, output
    base, other = records(workplace)
    assert (base.outcome, other.outcome) == ("completed", "completed")
    (note,) = base.notes
    # Whoever is asked first says it: the supervisor of the dead one, or the other worker, who lost it.
    assert note.startswith("worker"), note
    assert note.endswith("; tried again"), note
    assert sorted(base.reports) == list(range(1, 41))
    require_numbers_of_one(workplace, base)


@pytest.mark.slow
@two_cores
def test_twenty_trials_that_asha_stops_all_end_on_two_cores(workplace: Workplace) -> None:
    many = {"search": {"algorithm": "random", "num_trials": 20}, "resources": {"engine": "train"}}
    longer = {"scheduler": SPACE["scheduler"] | {"max_epochs": 9}}
    workplace.write("tiny.yaml", SPACE | many | longer)
    done = workplace.sweep("tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    ends = [record.outcome for record in records(workplace)]
    assert len(ends) == 21
    assert set(ends) == {"completed", "pruned"}


# Three trials in two places: what is asked and begun in which order, which processes Ray has begun, and what
# has been loaded.
ASKED = """
import json, sys
import orchestrator.sweep
from orchestrator.engine.engine import local_ray, run_trials
from orchestrator.engine.queue import FINISHED
from orchestrator.space import ResourcesConfig
from orchestrator.process.stopping import Stop

waiting, events, open_ = [{"task": task} for task in json.loads(sys.argv[1])], [], set()

def next_trial():
    if not waiting:
        return None if open_ else FINISHED
    events.append("asked")
    open_.add(waiting[0]["task"]["number"])
    return waiting.pop(0)

class Listener:
    begun = 0
    def tick(self):
        return []
    def running(self):
        return self.begun
    def started(self, config):
        self.begun += 1
        events.append("begun")
    def reported(self, config, result):
        if result["done"] and config["task"]["number"] in open_:
            open_.discard(config["task"]["number"])
            self.begun -= 1
        return True
    def crashed(self, config, error):
        raise AssertionError(error)

resources = ResourcesConfig(concurrency=2)
with local_ray(resources) as scratch:
    run_trials(resources, next_trial, Listener(), Stop(), scratch)
    log = (scratch.parent / "session_latest/logs/raylet.out").read_text()
processes = [line for line in log.splitlines() if "Started worker process" in line]
print(json.dumps({"events": events, "processes": processes, "modules": list(sys.modules)}))
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, state_folder: Path) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("asked")
    run = build_tiny({"training.epochs": 1})
    tasks = [{"number": n, "run": run.model_dump_json(), "folder": str(folder / str(n))} for n in range(3)]
    said = run_script(state_folder, ASKED, json.dumps(tasks))
    return json.loads(said.splitlines()[-1])


@two_cores
def test_as_many_processes_start_side_by_side_as_there_are_places(asked: dict[str, list[str]]):
    assert asked["events"][:3] == ["asked", "asked", "begun"], "one after another"
    assert asked["events"].count("begun") == 3


@two_cores
def test_trials_run_in_the_processes_that_ray_begins_with(asked: dict[str, list[str]]):
    assert len(asked["processes"]) == 2


def test_the_driver_loads_neither_trackers_nor_what_only_some_sweeps_need(asked: dict[str, list[str]]):
    assert {"mlflow", "wandb", "comet_ml", "aim", "scipy", "matplotlib"}.isdisjoint(asked["modules"])
    assert {"ray.tune", "torch"} <= set(asked["modules"])
