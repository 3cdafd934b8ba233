"""Several processes that share a run: the numbers of one process, and one voice."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist

from hjepa import RunConfig, train
from hjepa.cli import main
from hjepa.data import Augmentation, AugmentationConfig
from hjepa.distributed import Share, Team
from hjepa.folders import Claim
from hjepa.run import build_run
from hjepa.schema import ConfigError, to_yaml
from hjepa.step import model_stream
from tests.hjepa.cases import CASES, SHARED, SIGREG, assert_close, case
from tests.hjepa.ranks import environment, witnessed

Tiny = Callable[..., RunConfig]
Seen = Callable[[str, int], dict[str, Any]]

START = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
RANKS = {"distributed.enabled": True, "distributed.world_size": 2}

# Draws as much as any dropout does, and drops nothing.
HARMLESS = {"model.predictor.dropout": 1e-12, "model.drop_path_rate": 1e-12}
ENDLESS = {"training.lr": 1e30, "training.epochs": 3, "logging.log_frequency": 1}


def start_ranks(folder: Path, cases: dict[str, dict[str, Any]]) -> Seen:
    """Runs of two processes; gives what a rank saw of one."""
    (folder / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run(
        [*START, str(Path(__file__).with_name("ranks.py")), str(folder / "cases.json")],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return lambda name, rank: torch.load(folder / f"{name}-{rank}.pt", weights_only=True)


@pytest.fixture(scope="module")
def saved_alone(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one process after the first of two epochs."""
    path = tmp_path_factory.mktemp("alone") / "first.pt"
    witnessed(case(tiny(SHARED), save_after=1, save=str(path)))
    return path


@pytest.fixture(scope="module")
def seen(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory, saved_alone: Path) -> Seen:
    folder = tmp_path_factory.mktemp("ranks")
    cases = {name: case(tiny(SHARED | RANKS | changed)) for name, changed in CASES.items()}
    cases["plain"] |= {"save_after": 1, "save": str(folder / "first.pt")}
    cases["lanes"] = case(tiny(SHARED | RANKS | SIGREG | {"threads": 3}))
    cases["resumed"] = case(tiny(SHARED | RANKS), resume=str(saved_alone))
    cases["harmless"] = case(tiny(SHARED | RANKS | SIGREG | HARMLESS))
    cases["dropout"] = case(tiny(SHARED | RANKS | {"model.predictor.dropout": 0.5}))
    cases["endless"] = case(tiny(SHARED | RANKS | ENDLESS))
    return start_ranks(folder, cases)


@pytest.fixture(scope="module")
def saved_by_two(seen: Seen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return next(tmp_path_factory.getbasetemp().glob("ranks*/first.pt"))


# The numbers


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_numbers_of_one(tiny: Tiny, seen: Seen, name: str):
    alone = witnessed(case(tiny(SHARED | CASES[name])))
    start = build_run(tiny(SHARED | CASES[name])).model.state_dict()
    # What is learnt, and the target that follows, move by much more than the tolerance.
    for key in ("encoder.patch_embed.weight", "target_encoder.patch_embed.weight"):
        assert key not in start or (alone["weights"][key] - start[key]).abs().max() > 1e-4
    assert_close(seen(name, 0), alone, atol=5e-5 if name == "adamw" else 5e-6)


@pytest.mark.parametrize("name", [*CASES, "lanes", "resumed", "harmless", "dropout"])
def test_ranks_end_with_the_same_weights_and_reports_to_the_bit(seen: Seen, name: str):
    first, second = seen(name, 0), seen(name, 1)
    assert all(torch.equal(value, second["weights"][key]) for key, value in first["weights"].items())
    assert first["reports"] == second["reports"]


def test_processes_with_several_lanes_give_the_numbers_of_one_process(tiny: Tiny, seen: Seen):
    assert_close(seen("lanes", 0), witnessed(case(tiny(SHARED | SIGREG))))


def test_clipping_and_the_collapse_were_those_of_a_run_that_has_them(seen: Seen):
    assert min(report["train/grad_norm"] for report in seen("clipped", 0)["reports"]) > 0.01
    assert [report["collapsed"] != "None" for report in seen("collapsed", 1)["reports"]] == [True]


def test_what_the_model_draws_does_not_disturb_what_ranks_share(tiny: Tiny, seen: Seen):
    assert_close(seen("harmless", 0), witnessed(case(tiny(SHARED | SIGREG))))


def test_dropout_differs_from_one_process_only_as_chance_does(tiny: Tiny, seen: Seen):
    alone = witnessed(case(tiny(SHARED | {"model.predictor.dropout": 0.5})))
    ours, theirs = seen("dropout", 0)["reports"][-1], alone["reports"][-1]
    assert ours["train/loss"] != theirs["train/loss"]
    assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=0.1)


def test_all_ranks_stop_where_the_loss_is_no_number(tiny: Tiny, seen: Seen):
    assert "at step" in seen("endless", 0)["ended"]
    assert seen("endless", 0)["ended"] == seen("endless", 1)["ended"]


# Checkpoints


def test_two_processes_go_on_from_the_checkpoint_of_one(tiny: Tiny, seen: Seen):
    alone = witnessed(case(tiny(SHARED)))
    assert_close(seen("resumed", 0), alone | {"reports": alone["reports"][1:]})


def test_one_process_goes_on_from_the_checkpoint_of_two(tiny: Tiny, seen: Seen, saved_by_two: Path):
    resumed = witnessed(case(tiny(SHARED), resume=str(saved_by_two)))
    whole = seen("plain", 0)
    assert_close(resumed, whole | {"reports": whole["reports"][1:]})


# Shares


@pytest.mark.parametrize(("size", "batch", "micro"), [(1, 6, 6), (2, 12, 6), (3, 12, 12), (3, 18, 6)])
def test_shares_are_the_whole_batch_and_each_part_is_shared(size: int, batch: int, micro: int):
    images_B = np.arange(batch)
    shares = [Team(rank, size).share(batch, micro).take(images_B) for rank in range(size)]
    assert sorted(np.concatenate(shares)) == list(images_B)
    for part in range(batch // micro):
        own = slice(part * micro // size, (part + 1) * micro // size)
        assert {int(i) // micro for share in shares for i in share[own]} == {part}


@pytest.mark.parametrize("rank", [0, 1])
def test_an_image_is_augmented_as_in_the_whole_batch(rank: int):
    config = AugmentationConfig(horizontal_flip=True, color_jitter=0.3)
    augment = Augmentation(config, 8, [0.5] * 3, [0.5] * 3)
    images = torch.randint(0, 256, (12, 3, 10, 10), dtype=torch.uint8)
    share = Team(rank, 2).share(12, 6)
    torch.manual_seed(0)
    whole = augment(images)
    after = torch.rand(3)
    torch.manual_seed(0)
    own = augment(share.take(images), share)
    torch.testing.assert_close(own, whole[share.rows])
    assert torch.equal(torch.rand(3), after)


def test_each_rank_drops_other_things_and_leaves_the_shared_stream_alone(tiny: Tiny):
    run = build_run(tiny())
    drawn = []
    for rank in (0, 1):
        run.team = Team(rank, 2)
        torch.manual_seed(0)
        with model_stream(run, 1):
            drawn.append(torch.rand(4))
        drawn.append(torch.rand(4))
    torch.manual_seed(0)
    assert torch.equal(drawn[1], torch.rand(4))
    assert torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_a_share_of_everything_copies_nothing():
    values_B = torch.zeros(4)
    assert Share(4, slice(None)).take(values_B).data_ptr() == values_B.data_ptr()


# Groups


def test_one_process_needs_no_torchrun_and_leaves_no_group(tiny: Tiny):
    reports = train(tiny({"distributed.enabled": True}))
    next(reports)
    assert dist.is_initialized()
    reports.close()
    assert not dist.is_initialized()


def test_a_group_of_somebody_else_is_used_and_left(tiny: Tiny):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert len(list(train(tiny({"distributed.enabled": True})))) == 1
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("started", "changed", "message"),
    [
        (
            2,
            {"distributed.enabled": False},
            r"distributed.enabled is false, but 2 processes were started.*enabled=true",
        ),
        (None, RANKS, r"world_size is 2, but one process was started.*torchrun --nproc-per-node 2 -m hjepa"),
        (4, RANKS, r"world_size is 2, but 4 processes were started.*--set distributed.world_size=4"),
        (
            None,
            {"distributed.enabled": True, "distributed.backend": "nccl"},
            "nccl needs CUDA.*device is cpu",
        ),
        (2, RANKS | {"data.batch_size": 239}, "batch_size 239 .*world_size 2.*multiple"),
    ],
    ids=["not enabled", "no torchrun", "another number", "nccl on the CPU", "indivisible"],
)
def test_what_cannot_be_is_one_message_and_status_2(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    started: int | None,
    changed: dict[str, Any],
    message: str,
):
    if started is not None:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", str(started))
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(tiny({"data.batch_size": 240})))
    settings = [f"--set={key}={json.dumps(value)}" for key, value in changed.items()]
    assert main(["train", str(file), f"--set=logging.log_dir={tmp_path / 'run'}", *settings]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert re.search(message, said.err, re.DOTALL), said.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, r"the environment has WORLD_SIZE 2 and lacks MASTER_ADDR, MASTER_PORT\.\nStart the"),
        ({"MASTER_ADDR": "127.0.0.1"}, "lacks MASTER_PORT"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two' in the environment, no number"),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}, "MASTER_PORT=x in the environment"),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "RANK": "2"}, "RANK=2 of WORLD_SIZE=2 in the"),
    ],
)
def test_an_environment_in_which_none_can_meet_is_one_message(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"RANK": "0", "WORLD_SIZE": "2"} | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        next(train(tiny({"data.batch_size": 240})))


def test_a_batch_that_cannot_be_shared_is_refused_by_the_config(tiny: Tiny):
    with pytest.raises(ConfigError, match=r"data.batch_size 239 is shared by distributed.world_size 2"):
        tiny(RANKS)


# The command


@pytest.fixture
def torchrun(tiny: Tiny, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run of many epochs by the command line, its output in tmp_path/out."""
    (tmp_path / "run.yaml").write_text(to_yaml(tiny({"data.batch_size": 240})))
    places = [f"--set=logging.log_dir={tmp_path / 'run'}", "--set=checkpoint.save_frequency=1"]
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(
            [
                *START,
                "-m",
                "hjepa",
                "train",
                str(tmp_path / "run.yaml"),
                "--set=training.epochs=100000",
                *places,
            ],
            env=environment(),
            stdout=out,
            stderr=err,
            text=True,
        )
        workers = []
        try:
            wait_for(lambda: "epoch 3/" in (tmp_path / "out").read_text() or process.poll() is not None)
            workers = psutil.Process(process.pid).children()
            yield process
        finally:
            for worker in workers:
                if worker.is_running():
                    worker.kill()
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_torchrun_trains_with_one_voice_and_a_lost_rank_ends_the_run(
    torchrun: subprocess.Popen[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    first, second = sorted(
        psutil.Process(torchrun.pid).children(), key=lambda process: int(process.environ()["RANK"])
    )
    second.kill()
    assert torchrun.wait(timeout=60) != 0
    assert not first.is_running()
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines.count("2 processes, 120 images of a step each") == 1
    epochs = [line.split()[1] for line in lines if line.startswith("epoch")]
    assert epochs == [f"{i + 1}/100000" for i in range(len(epochs))]
    records = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(record)["epoch"] for record in records] == list(range(1, len(records) + 1))
    assert "LostRankError" not in (tmp_path / "err").read_text()
    # What is left goes on alone.
    settings = [f"--set=logging.log_dir={tmp_path / 'run'}", "--set=checkpoint.resume=auto"]
    done = len(list((tmp_path / "run/checkpoints").glob("epoch_*.pt"))) and max(
        int(file.stem.removeprefix("epoch_")) for file in (tmp_path / "run/checkpoints").glob("epoch_*.pt")
    )
    more = [f"--set=training.epochs={done + 1}", "--set=distributed.enabled=false"]
    assert main(["train", str(tmp_path / "run.yaml"), *settings, *more]) == 0
    assert f"goes on after epoch {done} from" in capfd.readouterr().out


def test_what_the_first_process_finds_wrong_with_the_folder_ends_all(tiny: Tiny, tmp_path: Path):
    config = to_yaml(tiny({"data.batch_size": 240}))
    (tmp_path / "run.yaml").write_text(config)
    with Claim(tmp_path / "run", config):
        settings = [f"--set=logging.log_dir={tmp_path / 'run'}", "--set=checkpoint.resume=auto"]
        command = [*START, "-m", "hjepa", "train", str(tmp_path / "run.yaml"), *settings]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert (
        f"hjepa-train: {tmp_path / 'run'}: a run is going on there, process {os.getpid()} on" in done.stderr
    )
    assert "exitcode  : 2" in done.stderr
    assert "LostRankError" not in done.stderr


# GPUs


@pytest.mark.parametrize(
    ("backend", "needed"), [("gloo", 1), ("nccl", 2)], ids=["gloo, one GPU shared", "nccl, two GPUs"]
)
def test_two_processes_give_the_numbers_of_one_on_cuda(tiny: Tiny, tmp_path: Path, backend: str, needed: int):
    if torch.cuda.device_count() < needed:
        pytest.skip(f"needs {needed} CUDA devices")
    changed = SHARED | CASES["everything"] | {"device": "cuda"}
    ranks = start_ranks(tmp_path, {"cuda": case(tiny(changed | RANKS | {"distributed.backend": backend}))})
    assert_close(ranks("cuda", 1), witnessed(case(tiny(changed))))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nccl_with_one_process_gives_the_same_numbers(tiny: Tiny):
    changed = SHARED | CASES["everything"] | {"device": "cuda"}
    assert [
        report.metrics["train/loss"] for report in train(tiny(changed | {"distributed.enabled": True}))
    ] == [report.metrics["train/loss"] for report in train(tiny(changed))]
