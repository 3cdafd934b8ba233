"""Trials that share a GPU or a CPU's cores: how many are chosen, what is refused, what is written down.

No GPU is asked for: its figures are given, and the processes that measure are real ones on the CPU.
"""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from benchmarks import packing as benchmark
from hjepa.rate import endless_batches, measure_rate
from hjepa.run import build_run
from orchestrator import ADDRESS
from orchestrator.cli import parser, submit
from orchestrator.definition import SPACE as SWEEP_FILE
from orchestrator.definition import write_definition
from orchestrator.doctor.packing import packing as looked_at
from orchestrator.engine.capacity import places, require_number
from orchestrator.planning import settlement
from orchestrator.planning.crew import Crew, Load
from orchestrator.planning.measuring import visible_gpu
from orchestrator.planning.packing import Choice, pack_gpu, split_cores
from orchestrator.planning.settlement import PACKING, Settled, mps_daemon_runs, settle
from orchestrator.space import ConfigError, ResourcesConfig, Sweep, load_sweep
from orchestrator.space.config import MOST_PACKED
from tests.workplace import SPACE, TINY, Workplace

GB = 10**9
LOAD = Load(
    trials=1,
    threads=1,
    images_per_s=100.0,
    images_per_cpu_s=100.0,
    evaluation_s=0.0,
    steps_per_epoch=10,
    process_bytes=GB,
    gpu_name="G",
    gpu_used_bytes=4 * GB,
    gpu_total_bytes=80 * GB,
    gpu_busy_percent=30,
)


def load(folder: Path, base: dict[str, Any] | None = None, **resources: Any) -> Sweep:
    (folder / "base.yaml").write_text(yaml.safe_dump(TINY | (base or {})))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SPACE | {"resources": resources}))
    return load_sweep(folder / "tiny.yaml")


def gpu(images_per_s: dict[int, float], trial_gb: float = 4) -> Callable[[int], Load]:
    """A GPU on which so many trials achieve that together, each with so much of its memory."""

    def measure(trials: int) -> Load:
        if trials not in images_per_s:
            raise ConfigError(f"nothing could be measured: {trials} trials run out of memory.")
        used = int(trials * trial_gb * GB)
        return replace(LOAD, trials=trials, images_per_s=images_per_s[trials], gpu_used_bytes=used)

    return measure


def pack(measure: Callable[[int], Load], most: int = 16, **changes: Any) -> Choice:
    return pack_gpu(measure, most, "are not tried", **{"free_bytes": 1000 * GB, **changes})


def test_trials_are_added_while_all_together_gain_by_it() -> None:
    choice = pack(gpu({1: 100, 2: 190, 4: 300, 8: 310, 16: 900}))
    assert choice.chosen == 4
    assert choice.why == "8 gain less than 5%"
    assert [one.trials for one in choice.loads] == [1, 2, 4, 8]
    assert choice.words.startswith(
        "packing: 4 trials share each GPU; images/s of all: 1 trial 100 with the GPU 30 % busy, 2 190, 4 300"
    )
    assert pack(gpu({1: 100, 2: 90})).chosen == 1
    assert pack(gpu({1: 10, 2: 20, 4: 40, 8: 80, 16: 160})).chosen == 16


def test_no_more_trials_are_packed_than_the_memory_takes() -> None:
    rises = {1: 10.0, 2: 20.0, 4: 40.0, 8: 80.0, 16: 160.0}
    choice = pack(gpu(rises, trial_gb=12))
    assert (choice.chosen, choice.why) == (4, "8 would need 96.0 of the GPU's 80.0 GB")
    largest = pack(gpu(rises, trial_gb=12), more_bytes=10 * GB)
    assert (largest.chosen, largest.why) == (2, "4 would need 88.0 of the GPU's 80.0 GB")
    main = pack(gpu(rises), free_bytes=6 * GB)
    assert (main.chosen, main.why) == (4, "8 would need 8.0 GB of main memory")


def test_what_cannot_run_side_by_side_ends_the_search_and_alone_is_refused() -> None:
    choice = pack(gpu({1: 10, 2: 20}))
    assert choice.chosen == 2
    assert choice.why == "4 could not run: nothing could be measured: 4 trials run out of memory"
    with pytest.raises(ConfigError, match="1 trials run out of memory"):
        pack(gpu({}))


def test_no_more_are_tried_than_have_a_place() -> None:
    choice = pack(gpu({1: 10, 2: 20, 4: 40, 8: 80}), most=3)
    assert (choice.chosen, choice.why) == (2, "more than 3 are not tried")


def cpu(images_per_s: dict[tuple[int, int], float]) -> Callable[[int, int], Load]:
    def measure(trials: int, threads: int) -> Load:
        speed = images_per_s[trials, threads]
        return replace(LOAD, trials=trials, threads=threads, images_per_s=speed)

    return measure


def test_a_trial_has_more_threads_only_where_all_together_gain_by_it() -> None:
    speeds = {(1, 1): 10.0, (4, 1): 40.0, (2, 2): 30.0, (1, 4): 90.0}
    choice = split_cores(cpu(speeds), 4, 100 * GB)
    assert (choice.chosen, choice.why) == (1, "2 x 2 threads achieve 0.75 times of 4 x 1 thread")
    assert "4 x 1 thread 40, 2 x 2 threads 30" in choice.words
    assert split_cores(cpu(speeds | {(2, 2): 41.0}), 4, 100 * GB).chosen == 1
    assert split_cores(cpu(speeds | {(2, 2): 60.0}), 4, 100 * GB).chosen == 4


def test_a_trial_has_the_cores_that_further_trials_have_no_memory_or_no_leave_for() -> None:
    speeds = {(1, 1): 10.0, (1, 2): 18.0, (1, 4): 30.0, (2, 2): 30.0}
    assert split_cores(cpu(speeds), 4, 1.5 * GB).chosen == 4
    assert split_cores(cpu(speeds), 4, 100 * GB, concurrency=1).chosen == 4
    assert split_cores(cpu(speeds), 4, 3 * GB, more_bytes=GB).chosen == 4
    assert split_cores(cpu(speeds), 4, 3 * GB).chosen == 2
    assert split_cores(cpu(speeds), 1, 0).chosen == 1


def test_as_many_trials_find_a_place_on_a_gpu_as_are_packed() -> None:
    for count in range(1, MOST_PACKED + 1):
        config = ResourcesConfig(pack=count)
        assert places(config, [{"CPU": 64.0, "GPU": 1.0}]) == count
        # Ray counts in ten-thousandths of a GPU.
        assert count * round(config.gpus * 10_000) <= 10_000
        assert math.isclose(config.gpus, 1 / count, rel_tol=0.01)


def test_packing_without_a_gpu_is_refused_with_its_own_key() -> None:
    with pytest.raises(ConfigError, match=r"resources\.pack: a trial asks for 0\.25 GPUs, the nodes have 0"):
        places(ResourcesConfig(pack=4), [{"CPU": 8.0}])


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"pack": 4, "workers": 2}, "pack 4 lets trials of one process share a GPU, and workers is 2"),
        ({"pack": "auto", "workers": 2}, "pack auto lets trials of one process"),
        ({"pack": 4, "gpus_per_worker": 0.5}, "pack 4 and gpus_per_worker 0.5 both say how many trials"),
        ({"pack": 0}, "tiny.yaml: resources.pack: 0 is not allowed"),
        ({"pack": "all"}, "'auto'"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, resources: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, **resources)
    assert message in str(refused.value)


def test_a_number_of_trials_to_a_gpu_is_refused_for_a_base_on_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"4 trials would share a CUDA GPU, and the base's device is cpu"):
        load(tmp_path, {"device": "cpu"}, pack=4)


def test_without_pack_nothing_is_measured_and_a_trial_has_one_thread(tmp_path: Path) -> None:
    sweep = load(tmp_path)
    assert settle(sweep, tmp_path) == Settled(sweep, sweep)
    assert sweep.base.threads == 1


def test_a_process_trains_for_the_time_that_it_is_given(tiny: Callable[..., Any]) -> None:
    run = build_run(tiny({"data.batch_size": 256}))
    batches = endless_batches(run)
    before = run.model.encoder.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    once = measure_rate(run, batches, 0.0)
    assert (once.images, once.evaluation_s, once.gpu_total_bytes) == (256, 0.0, 0)
    several = measure_rate(run, batches, 0.5, threads=1, judged=True)
    assert several.seconds >= 0.5
    assert several.images % 256 == 0
    assert several.images > 256 * run.steps_per_epoch  # the batches of an epoch come again
    assert several.evaluation_s > 0
    after = run.model.encoder.state_dict()
    assert any(not torch.equal(before[name], value) for name, value in after.items())


def test_a_process_that_cannot_begin_says_why(tiny: Callable[..., Any]) -> None:
    with Crew(tiny({"data.batch_size": 4096}), on_gpu=False) as crew, pytest.raises(ConfigError) as refused:
        crew.measure(1, 1, 0.1)
    assert "data.batch_size 4096" in str(refused.value)


@pytest.mark.slow
def test_after_one_process_has_died_all_begin_anew(tiny: Callable[..., Any]) -> None:
    with Crew(tiny({"data.batch_size": 256}), on_gpu=False) as crew:
        others = psutil.Process().children()
        crew.measure(2, 1, 0.1)
        first, _ = (child for child in psutil.Process().children() if child not in others)
        first.kill()
        with pytest.raises(ConfigError, match="its process ended with status -9"):
            crew.measure(2, 1, 0.1)
        assert crew.measure(1, 1, 0.1).trials == 1


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)


def test_the_threads_of_a_sweep_are_measured_once(tmp_path: Path, one_core: None) -> None:
    """By a real process; at the second start nothing is said, so nothing is measured."""
    sweep = load(tmp_path, {"device": "cpu"}, pack="auto")
    said: list[str] = []
    settled = settle(sweep, tmp_path, said.append)
    assert said == ["measuring how many threads a trial shall have"]
    assert settled.choice is not None
    assert settled.choice.loads[0].images_per_s > 0
    assert settled.words[0].startswith("packing: 1 thread for each trial; images/s of all: 1 x 1 thread ")
    assert not (tmp_path / PACKING).exists()
    settled.record(tmp_path)
    settled.record(tmp_path)
    again = settle(sweep, tmp_path, said.append)
    assert (again.sweep, again.choice) == (settled.sweep, settled.choice)
    assert len(said) == len(settlement.read_packing(tmp_path)) == 1


def recorded(folder: Path, sweep: Sweep, threads: int) -> None:
    """An earlier start of the sweep has chosen so many threads."""
    choice = Choice("cpu", threads, "made up", (LOAD,))
    Settled(sweep, sweep, choice, {"cpu": "another"}).record(folder)


def test_a_sweep_keeps_the_threads_that_it_began_with(tmp_path: Path) -> None:
    """On another machine too; in its own folder, in its trials, and in what is resumed by name."""
    sweep = load(tmp_path, {"device": "cpu"}, pack="auto")
    folder = tmp_path / "results"
    folder.mkdir()
    recorded(folder, sweep, 3)
    settled = settle(sweep, folder)
    assert settled.sweep.resolve({"training.lr": 0.002}).threads == 3
    assert settled.sweep.fingerprint() == sweep.fingerprint()
    write_definition(folder, settled.defined)
    resumed = load_sweep(folder / SWEEP_FILE)
    assert resumed.base.threads == resumed.config.resources.cpus_per_worker == 3
    assert settle(resumed, folder).sweep.definition() == settled.sweep.definition()


def test_a_sweep_that_began_without_a_choice_is_not_given_other_threads(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    write_definition(folder, load(tmp_path, {"device": "cpu"}))
    later = load(tmp_path, {"device": "cpu"}, pack="auto")
    assert settle(later, folder).sweep is later


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / PACKING).write_text('[{"kind": "cpu"}]')
    with pytest.raises(ConfigError, match=r"packing\.json: cannot be read: .*; remove it to measure anew"):
        settle(load(tmp_path, {"device": "cpu"}, pack="auto"), tmp_path)


class GivenCrew:
    """Figures of a GPU in place of processes on it."""

    asked: list[tuple[int, int]]

    def __init__(self, run: Any, on_gpu: bool):
        assert on_gpu
        self._measure = gpu({1: 100.0, 2: 190.0, 4: 300.0, 8: 305.0})

    def __enter__(self) -> "GivenCrew":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def measure(self, trials: int, threads: int, seconds: float) -> Load:
        self.asked.append((trials, threads))
        return self._measure(trials)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A machine of two GPUs as far as it is asked for them; what was measured on it."""
    monkeypatch.setattr(settlement, "pick_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(settlement, "this_machine", lambda: [{"CPU": 32, "GPU": 2}])
    monkeypatch.setattr(settlement, "environment", lambda: {"gpus": ["G, 80 GB"], "cpu_cores": 32})
    monkeypatch.setattr(settlement, "Crew", GivenCrew)
    monkeypatch.setattr(GivenCrew, "asked", [], raising=False)
    return GivenCrew.asked


def test_a_gpus_trials_are_measured_once_for_a_machine(
    tmp_path: Path, two_gpus: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = load(tmp_path, pack="auto", cpus_per_worker=2)
    settled = settle(sweep, tmp_path)
    assert two_gpus == [(1, 2), (2, 2), (4, 2), (8, 2)]
    assert (settled.sweep.config.resources.pack, settled.sweep.config.resources.gpus) == (4, 0.25)
    assert places(settled.sweep.config.resources, [{"CPU": 32.0, "GPU": 2.0}]) == 8
    # Another machine may have another GPU, so what is written down is still to be measured there.
    assert settled.defined.config.resources.pack == "auto"
    assert settled.defined.base.threads == 2
    settled.record(tmp_path)

    del two_gpus[:]
    assert settle(sweep, tmp_path).sweep == settled.sweep
    assert two_gpus == []
    monkeypatch.setattr(settlement, "environment", lambda: {"gpus": ["H, 80 GB"], "cpu_cores": 32})
    assert settle(sweep, tmp_path).sweep == settled.sweep
    assert two_gpus[0] == (1, 2)


@pytest.mark.parametrize(
    ("resources", "most"), [({}, 8), ({"concurrency": 3}, 2), ({"cpus_per_worker": 8}, 2)]
)
def test_only_as_many_are_measured_as_may_run(
    tmp_path: Path, two_gpus: list[tuple[int, int]], resources: dict[str, Any], most: int
) -> None:
    """Of 32 cores and two GPUs: with 8 cores each, two to a GPU; of three at a time, two to a GPU."""
    settle(load(tmp_path, pack="auto", **resources), None)
    assert two_gpus[-1][0] == most


def test_auto_is_refused_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = load(tmp_path, pack="auto")
    monkeypatch.setenv(ADDRESS, "127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"resources\.pack: auto measures the machine .* a number"):
        settle(sweep, None)
    require_number(ResourcesConfig(pack=4))
    assert not looked_at(sweep, "127.0.0.1:1").ok


def test_submit_refuses_auto(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace.folder)
    (workplace.folder / "clusters").mkdir()
    workplace.write("clusters/here.yaml", {"type": "slurm", "cpus_per_node": 2})
    before = workplace.files()
    options = parser().parse_args(["submit", "tiny.yaml", "--to=here", "--set=resources.pack=auto"])
    with pytest.raises(ConfigError, match=r"resources\.pack: auto measures the machine"):
        submit.run(options)
    assert workplace.files() == before


def test_another_device_than_cuda_or_cpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "pick_device", lambda _: torch.device("mps"))
    with pytest.raises(ConfigError, match=r"the device here is mps; leave pack out, resources\.concurrency"):
        settle(load(tmp_path, pack="auto"), None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_doctor_says_what_packing_comes_to(tmp_path: Path) -> None:
    without = looked_at(load(tmp_path, pack=4), None)
    assert (without.ok, without.said) == (False, "resources.pack is 4, and there is no CUDA GPU here")
    assert looked_at(load(tmp_path, pack="auto"), None).said == (
        "no GPU here: the threads of each trial will be measured"
    )


@pytest.mark.parametrize(
    ("says", "status", "runs"),
    [("1234", 0, True), ("", 0, True), ("Cannot find MPS control daemon process", 1, False)],
)
def test_the_mps_daemon_is_asked_and_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, status: int, runs: bool
) -> None:
    """By a stand-in for NVIDIA's command, which keeps what it was asked."""
    command = tmp_path / "nvidia-cuda-mps-control"
    command.write_text(f'#!/bin/sh\n[ $# = 0 ] && cat > {tmp_path}/asked\necho "{says}"\nexit {status}\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert mps_daemon_runs() == runs
    assert (tmp_path / "asked").read_text() == "get_server_list\n"
    monkeypatch.setenv("PATH", "/nowhere")
    assert not mps_daemon_runs()


def test_of_the_gpus_that_may_be_used_the_first_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-ab")
    assert (visible_gpu(0), visible_gpu(1)) == ("5", "GPU-ab")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpu(1) == "1"


def test_the_benchmark_counts_whole_trials(tiny: Callable[..., Any]) -> None:
    run = tiny({"training.epochs": 3, "data.batch_size": 32, "training.accumulation_steps": 2})
    two = replace(LOAD, trials=2, images_per_s=128.0, steps_per_epoch=10, evaluation_s=2.0)
    # An epoch of either: 640 images at 64 a second, and every how many an evaluation of 2 s.
    epoch_s = 10 + 2 / run.evaluation.eval_frequency
    assert benchmark.trials_per_hour(two, run) == pytest.approx(2 * 3600 / (3 * epoch_s))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_benchmark_of_a_gpu_is_refused_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err == "packing: device: cuda is not available here; available: auto, cpu.\n"


@pytest.mark.slow
def test_a_sweep_with_auto_measures_at_its_start_and_not_when_it_goes_on(workplace: Workplace) -> None:
    workplace.write("tiny.yaml", SPACE | {"resources": {"pack": "auto"}})
    done = workplace.sweep("tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "hjepa-sweep: measuring how many threads a trial shall have\n"
    assert "packing: " in done.stdout
    folder = workplace.folder / "results/tiny"
    (found,) = settlement.read_packing(folder)
    best = yaml.safe_load((folder / "best.yaml").read_text())
    defined = yaml.safe_load((folder / SWEEP_FILE).read_text())
    assert best["threads"] == defined["resources"]["cpus_per_worker"] == found["chosen"]
    more = workplace.sweep("tiny.yaml", "--trials", "5")
    assert more.returncode == 0, more.stdout + more.stderr
    assert more.stderr == ""
    assert settlement.read_packing(folder) == [found]
