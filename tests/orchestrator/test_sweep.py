"""Whole sweeps: real Ray, real Optuna, a real MLflow store; real processes killed."""

import json
import platform
import subprocess
import sys

import pytest
import yaml
from mlflow import MlflowClient

from orchestrator.process.environment import read_commands
from tests.hjepa.data.formats import write_image_folder
from tests.workplace import (
    SPACE,
    TINY,
    Workplace,
    children,
    mlflow_runs,
    records,
)

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
CONFIRMED = SPACE | {"confirm": {"top_k": 1, "seeds": 2}}


PREDICTS = """
import sys
import numpy as np
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(sys.argv[1])
told = np.load(sys.argv[2], allow_pickle=False)
images = model.input_example
features = model.predict(images)
(output,) = model.metadata.signature.outputs.inputs
print(images.dtype, output.shape, np.allclose(features, told["features"], rtol=0, atol=1e-5))
"""


@pytest.fixture(scope="module")
def finished(shared_workplace: Workplace) -> tuple[Workplace, subprocess.CompletedProcess[str]]:
    shared_workplace.write("tiny.yaml", CONFIRMED)
    return shared_workplace, shared_workplace.sweep("tiny.yaml")


Finished = tuple[Workplace, subprocess.CompletedProcess[str]]


def test_a_sweep_runs_to_its_end_and_says_what_it_found(finished: Finished) -> None:
    _, done = finished
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "best seen: trial",
        "base config:",
        "random initialisation:",
        "raw pixels:",
        "fresh seeds",
        "compare: hjepa-sweep ui",
    ):
        assert words in done.stdout
    assert done.stderr == ""


def test_every_trial_ends_and_the_base_is_one_of_them(finished: Finished) -> None:
    found = records(finished[0])
    assert [record.role for record in found].count("base") == 1
    assert [record.role for record in found].count("search") == 4
    assert [record.role for record in found].count("confirm") == 4
    assert {record.outcome for record in found} <= {"completed", "pruned"}
    assert next(record for record in found if record.role == "base").outcome == "completed"


def test_reruns_take_the_same_fresh_seeds_for_base_and_best(finished: Finished) -> None:
    reruns = [record for record in records(finished[0]) if record.role == "confirm"]
    base = next(record for record in records(finished[0]) if record.role == "base")
    seeds = {of: {r.seed for r in reruns if r.confirms == of} for of in {r.confirms for r in reruns}}
    assert base.number in seeds
    assert set(map(frozenset, seeds.values())) == {frozenset({43, 44})}


def test_mlflow_holds_a_parent_and_a_child_per_trial_none_of_them_running(finished: Finished) -> None:
    workplace, _ = finished
    runs = mlflow_runs(workplace)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert set(children(workplace)) == {record.id for record in records(workplace)}
    assert {r.data.tags["mlflow.parentRunId"] for r in children(workplace).values()} == {
        parents[0].info.run_id
    }


def test_mlflow_has_canonical_parameters_and_each_epochs_metrics_once(finished: Finished) -> None:
    workplace, _ = finished
    client = MlflowClient(f"sqlite:///{workplace.folder / 'results' / 'mlflow.db'}")
    runs = children(workplace)
    for record in records(workplace):
        run = runs[record.id]
        for key, value in record.values.items():
            logged = run.data.params[key]
            assert logged == (value if isinstance(value, str) else json.dumps(value))
        history = client.get_metric_history(run.info.run_id, "val/knn_top1")
        assert [(point.step, point.value) for point in history] == [
            (epoch, metrics["val/knn_top1"]) for epoch, metrics in record.reports.items()
        ]
        assert run.data.tags["outcome"] == record.outcome


def test_mlflow_says_where_each_trial_comes_from_what_it_learnt_from_and_how_busy_the_machine_was(
    finished: Finished,
) -> None:
    workplace, _ = finished
    kept = records(workplace)
    for run in mlflow_runs(workplace):
        assert run.data.tags["mlflow.source.name"] == "hjepa-sweep"
    for trial, run in children(workplace).items():
        (given,) = run.inputs.dataset_inputs
        assert given.dataset.name == "digits"
        assert len(given.dataset.digest) == 8
        assert 0 < run.data.metrics["system/system_memory_usage_percentage"] <= 100
        epochs = max(kept[int(trial)].reports)
        assert run.data.tags["rung"] == ("1" if epochs >= 1 else "")
    (parent,) = [run for run in mlflow_runs(workplace) if run.data.tags["hjepa.run"] == "sweep"]
    assert parent.data.tags["environment.python"] == platform.python_version()


def test_the_folder_says_by_which_command_it_was_begun(finished: Finished) -> None:
    workplace, _ = finished
    assert read_commands(workplace.folder / "results/tiny") == ["hjepa-sweep tiny.yaml"]


def test_mlflow_has_the_space_the_plan_and_the_best_config(finished: Finished) -> None:
    workplace, _ = finished
    client = MlflowClient(f"sqlite:///{workplace.folder / 'results' / 'mlflow.db'}")
    (parent,) = [run for run in mlflow_runs(workplace) if run.data.tags["hjepa.run"] == "sweep"]
    found = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert found == {"sweep.yaml", "base.yaml", "environment.json", "plan.txt", "best.yaml"}
    plan = (workplace.folder / "results/tiny/plan.txt").read_text()
    assert "of 27 without early stopping" in plan


def test_mlflow_has_the_best_trials_features_as_a_model_that_predicts(finished: Finished) -> None:
    workplace, _ = finished
    store = f"sqlite:///{workplace.folder / 'results' / 'mlflow.db'}"
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    (model,) = client.search_logged_models([experiment.experiment_id])
    ranked = [r for r in records(workplace) if r.role != "confirm" and r.outcome == "completed"]
    best = max(ranked, key=lambda record: record.reports[3]["val/knn_top1"])
    assert model.source_run_id == children(workplace)[best.id].info.run_id
    told = workplace.folder / "results/tiny/model/example.npz"
    command = [sys.executable, "-c", PREDICTS, model.artifact_location, str(told)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=workplace.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["uint8", "(-1,", "16)", "True"]


def test_best_yaml_gives_the_winners_metric_again_to_the_last_digit(finished: Finished) -> None:
    workplace, _ = finished
    best = workplace.folder / "results/tiny/best.yaml"
    done = workplace.train(str(best), "--set", "logging.log_dir=again")
    assert done.returncode == 0, done.stderr
    claimed = float(best.read_text().split("val/knn_top1 ")[1].split()[0])
    lines = (workplace.folder / "again/metrics.jsonl").read_text().splitlines()
    ranked = [r for r in records(workplace) if r.role != "confirm" and r.outcome == "completed"]
    value = json.loads(lines[-1])["val/knn_top1"]
    assert value == max(r.reports[3]["val/knn_top1"] for r in ranked)
    assert claimed == pytest.approx(value, abs=1e-6)


def test_the_results_folder_holds_what_made_each_trial(finished: Finished) -> None:
    workplace, _ = finished
    folder = workplace.folder / "results/tiny"
    for record in records(workplace):
        trial = folder / "trials" / record.id
        lines = [json.loads(line) for line in (trial / "metrics.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == list(record.reports)
        config = yaml.safe_load((trial / "config.yaml").read_text())
        assert config["training"]["epochs"] == 3
        kept = [file.name for file in trial.glob("*.pt")]
        assert kept == ([record.checkpoint] if record.outcome == "completed" else [])


def test_a_finished_sweep_started_again_only_repeats_its_answer(finished: Finished) -> None:
    workplace, first = finished
    before = records(workplace)
    done = workplace.ask("tiny.yaml")
    assert done.returncode == 0, done.stderr
    assert records(workplace) == before
    assert first.stdout[first.stdout.index("best seen:") :] == done.stdout[done.stdout.index("best seen:") :]


def test_another_definition_under_the_same_name_is_refused_with_the_difference(finished: Finished) -> None:
    workplace, _ = finished
    before = workplace.files()
    done = workplace.ask("tiny.yaml", "--set", "training.weight_decay=0.1")
    assert done.returncode == 2
    assert "name: tiny is taken" in done.stderr
    assert "base.training.weight_decay: 0.05 there, 0.1 here" in done.stderr
    assert workplace.files() == before


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["actor", "train"])
def test_relative_paths_go_from_where_the_sweep_was_begun(workplace: Workplace, engine: str) -> None:
    """Tune lets each trial work in a folder of its own."""
    write_image_folder(workplace.folder / "photos")
    (workplace.folder / "classes.txt").write_text("ant\ncow\n")
    data = {"dataset": "imagefolder", "data_path": "photos", "class_list": "classes.txt", "image_size": 16}
    workplace.write("base.yaml", TINY | {"data": data | {"batch_size": 8, "cache_dir": "kept"}})
    trials = {"search": {"algorithm": "random", "num_trials": 1}, "resources": {"engine": engine}}
    workplace.write("tiny.yaml", SPACE | trials)
    done = workplace.sweep("tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [record.outcome for record in records(workplace)] == ["completed"] * 2
    assert (workplace.folder / "kept").is_dir()


@pytest.mark.slow
def test_a_sweep_without_a_single_value_says_what_is_wrong_and_runs_no_fresh_seeds(
    workplace: Workplace,
) -> None:
    write_image_folder(workplace.folder / "photos")
    data = {"dataset": "imagefolder", "data_path": "photos", "image_size": 16, "batch_size": 64}
    workplace.write("base.yaml", TINY | {"data": data})
    few = {"search": {"algorithm": "random", "num_trials": 1}}
    workplace.write("tiny.yaml", CONFIRMED | few)
    done = workplace.sweep("tiny.yaml")
    assert done.returncode == 1, done.stdout + done.stderr
    assert [record.role for record in records(workplace)] == ["base", "search"]
    for record in records(workplace):
        assert record.notes == []  # not tried again, for it would end alike
        assert record.reason == (
            "data.batch_size 64 x training.accumulation_steps 1 is more than the 45 training images of "
            "imagefolder"
        )
