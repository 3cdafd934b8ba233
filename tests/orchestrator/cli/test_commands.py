"""The commands that round a sweep off: real sweeps, asked from outside."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.search.earlier import read_earlier
from orchestrator.space import load_sweep
from tests.recorded import begun, space
from tests.workplace import (
    SPACE,
    Workplace,
    children,
    end_session,
    held_still,
    learnt,
    records,
    signal_pending,
    uninterrupted,
    wait_for,
    wait_until,
)

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
ONE_BY_ONE = SPACE | {
    "search": {"algorithm": "random", "num_trials": 1},
    "scheduler": {"type": "fifo", "max_epochs": 5},
    "resources": {"concurrency": 1},
}


def test_a_sweep_is_watched_stopped_damaged_and_gone_on_with_by_its_name(workplace: Workplace) -> None:
    workplace.write("tiny.yaml", ONE_BY_ONE)
    process = workplace.start_sweep("tiny.yaml")
    folder = workplace.folder / "results/tiny"
    try:
        wait_for(folder / "trials/0000/metrics.jsonl", '"epoch": 2', process)
        with held_still(process):
            watched = json.loads(workplace.ask("status", "--json").stdout)
            refused = workplace.ask("sync", "tiny")
            stop = subprocess.Popen(
                workplace.command("orchestrator.cli", "stop", "tiny"),
                cwd=workplace.folder,
                env=workplace.env,
                text=True,
                stdout=subprocess.PIPE,
            )
            wait_until(lambda: signal_pending(process.pid, signal.SIGTERM), stop)
        stopped, _ = stop.communicate(timeout=120)
        output, _ = process.communicate(timeout=120)
    finally:
        end_session(process)
    assert (watched["state"], watched["process"]) == ("running", process.pid)
    assert watched["trials"][0]["state"] in ("running", "completed")
    assert refused.returncode == 2
    assert f"running already: process {process.pid}" in refused.stderr
    assert stop.returncode == 0
    assert "hjepa-sweep resume tiny --results results" in stopped
    assert process.returncode == 130, output

    cut = next(record for record in records(workplace) if record.outcome is None and record.reports)
    newest = folder / "trials" / cut.id / str(cut.checkpoint)
    os.truncate(newest, newest.stat().st_size // 3)
    shown = workplace.ask("status", "tiny").stdout
    assert "interrupted" in shown
    assert f"{cut.id}" in shown

    done = workplace.sweep("resume", "tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"trial {cut.id} goes on after epoch {max(cut.reports) - 1}: " in done.stdout or (
        f"trial {cut.id} begins anew: " in done.stdout and max(cut.reports) == 1
    )
    for record in records(workplace):
        assert (record.outcome, record.role) == ("completed", "search" if record.number else "base")
        expected = uninterrupted(workplace, record)
        found = [learnt(metrics) for metrics in record.reports.values()]
        kept = expected[0].keys()
        assert [{k: v for k, v in m.items() if k in kept} for m in found] == expected
        lines = (folder / "trials" / record.id / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 6))
    (note,) = records(workplace)[cut.number].notes
    assert newest.name in note
    assert "MLflow has everything" in workplace.ask("sync", "tiny").stdout
    assert children(workplace)[cut.id].data.tags["notes"] == note
    assert "finished, 2 of 2 trials over (2 completed)" in workplace.ask("list").stdout
    assert "not running" in workplace.ask("stop", "tiny").stdout


@pytest.mark.parametrize("command", ["resume", "status", "stop", "sync"])
def test_a_name_that_does_not_exist_gets_the_nearest(workplace: Workplace, command: str) -> None:
    (workplace.folder / "results/fpn").mkdir(parents=True)
    (workplace.folder / "results/fpn/definition.json").write_text("{}")
    done = workplace.ask(command, "fpm")
    assert done.returncode == 2
    assert done.stderr == "hjepa-sweep: fpm: no such sweep in results. Nearest: fpn. There: fpn.\n"
    elsewhere = workplace.ask(command, "fpn", "--results", "nowhere")
    assert elsewhere.returncode == 2
    assert "is --results right?" in elsewhere.stderr


def test_help_of_every_command_has_an_example() -> None:
    from orchestrator.cli import COMMANDS, parser

    needed = {
        "retry": ["--failed"],
        "submit": ["--to", "y"],
        "logs": ["--to", "y"],
        "fetch": ["--to", "y"],
        "export": ["--trial", "0"],
        "reproduce": ["--trial", "0"],
    }
    for name, module in COMMANDS.items():
        assert f"hjepa-sweep {name}" in module.EPILOG or name == "run"
        assert parser().parse_args(
            [
                name,
                *({"list": [], "status": [], "ui": [], "completion": ["bash"]}.get(name, ["x"])),
                *needed.get(name, []),
            ]
        )


def test_a_sweep_that_cannot_be_read_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from orchestrator.cli import main

    results = tmp_path / "results"
    begun(results, space(tmp_path))
    for name in ("cut", "far"):
        (results / name).mkdir()
    (results / "cut/definition.json").write_text("")
    (results / "far/definition.json").write_text((results / "tiny/definition.json").read_text())
    nowhere = {"url": "postgresql+psycopg://u@127.0.0.1:1/d"}
    (results / "far/storage.json").write_text(json.dumps(nowhere))
    assert main(["list", "--results", str(results)]) == 2
    cut, far, tiny = capsys.readouterr().out.splitlines()
    assert cut.startswith(f"cut   {results}/cut/definition.json: cannot be read")
    assert far.startswith("far   ")
    assert "127.0.0.1:1" in far
    assert tiny == "tiny  interrupted, 0 of 5 trials over (none begun)"
    assert main(["list", "--json", "--results", str(results)]) == 2
    told = json.loads(capsys.readouterr().out)
    assert ["error" in entry for entry in told] == [True, True, False]
    assert main(["list", "--results", str(tmp_path)]) == 0


@pytest.fixture
def of_images(tmp_path: Path) -> Path:
    """The results of a sweep over a folder of images, which has gone since."""
    images = tmp_path / "images"
    for kind in ("train", "val"):
        for name in ("a", "b"):
            folder = images / kind / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (16, 16)).save(folder / f"{number}.png")
    path = space(tmp_path).path
    overrides = {"data.dataset": "imagefolder", "data.data_path": str(images), "data.batch_size": 2}
    sweep = load_sweep(path, overrides=overrides)
    _, study = begun(tmp_path / "results", sweep)
    study.ask("base", sweep.base_values())
    values = {"model.fpn.use_fpn": False, "training.lr": 1e-3}
    for record in (study.trials[0], study.ask("search", values)):
        study.report(record.number, 1, {"val/knn_top1": 0.5}, None)
        study.end(record.number, "pruned")
    images.rename(tmp_path / "gone")
    return tmp_path / "results"


def test_what_only_reads_a_sweep_needs_no_data(of_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from orchestrator.cli import main

    results = str(of_images)
    for words in (["best", "tiny"], ["report", "tiny", "--format", "md"], ["export", "tiny", "--trial", "1"]):
        assert main([*words, "--results", results]) == 0, capsys.readouterr().err
    assert main(["reproduce", "tiny", "--trial", "1", "--results", results]) == 2
    assert "does not exist" in capsys.readouterr().err
    later = space(of_images.parent, name="later", search={"num_trials": 2, "warm_start": ["tiny"]})
    assert [trial.values["training.lr"] for trial in read_earlier(of_images, later)] == [1e-3]


@pytest.mark.parametrize(("kind", "status"), [("ray", 0), ("slurm", 2)])
def test_data_that_is_there_only_stops_no_submission(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, status: int
) -> None:
    from orchestrator.cli import main

    profile = {"type": kind, "set": {"data.dataset": "imagefolder", "data.data_path": "/datasets/imagenet"}}
    own = {"ray": {"address": "http://127.0.0.1:1"}, "slurm": {"cpus_per_node": 4}}
    (tmp_path / "far.yaml").write_text(json.dumps(profile | own[kind]))
    words = ["submit", str(space(tmp_path).path), "--to", str(tmp_path / "far.yaml"), "--dry-run"]
    assert main([*words, "--results", str(tmp_path / "results")]) == status
    shown = capsys.readouterr()
    assert ("'/datasets/imagenet' does not exist" in shown.err) == (status == 2), shown.err


def test_a_results_folder_without_sweeps_says_so(workplace: Workplace, tmp_path: Path) -> None:
    assert workplace.ask("list").stdout == "results holds no sweep.\n"
    assert "holds no sweep" in workplace.ask("status").stderr
