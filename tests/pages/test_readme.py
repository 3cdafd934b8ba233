"""The README's commands and its example, as they stand there."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from hjepa.cli import parser as train_parser
from hjepa.config import load_config
from orchestrator.cli import parse
from orchestrator.space import load_sweep, parse_overrides
from tests.workplace import Workplace

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"(?m)(?:^    .*\n?)+", (ROOT / "README.md").read_text(encoding="utf-8"))
LINES = [line.strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
SWEEPS = [line for line in LINES if line.startswith("hjepa-sweep search_spaces")]
# Steps of 256 images: 5 an epoch instead of 33.
SETTINGS = (
    "scheduler.max_epochs=2",
    "scheduler.grace_epochs=1",
    "data.batch_size=256",
    "confirm.top_k=0",
    "resources.concurrency=1",
)
SMALL = ["--trials", "1", *(f"--set={setting}" for setting in SETTINGS)]


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    """A folder with the names of CIFAR-10's files, which is as far as validation looks."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (folder / name).touch()
    return folder


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    for command in ("make sweep", "make test"):
        assert command in LINES
        subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("line", SWEEPS)
def test_every_sweep_command_is_valid(line: str, cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    options = parse(shlex.split(line.replace("DIR", str(cifar10)))[1:])
    load_sweep(
        options.space, base=options.base, overrides=parse_overrides(options.set), trials=options.trials
    )


def test_the_example_space_is_valid(tmp_path: Path) -> None:
    (example,) = (block for block in BLOCKS if "name: fpn" in block)
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    space = tmp_path / "search_spaces/fpn.yaml"
    space.write_text(re.sub(r"(?m)^    ", "", example))
    assert load_sweep(space).num_trials == 24


def test_the_shipped_space_runs_and_its_best_config_with_it(workplace: Workplace) -> None:
    space = str(ROOT / "search_spaces/fpn.yaml")
    done = workplace.sweep(space, *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    again = workplace.train("results/fpn/best.yaml", "--test")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "test/knn_top1" in again.stdout


def test_the_torchrun_command_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (line,) = (line for line in LINES if line.startswith("torchrun"))
    launch, command = shlex.split(line)[1:], "hjepa"
    options = train_parser().parse_args(launch[launch.index(command) + 1 :])
    config = load_config(options.config, parse_overrides(options.set))
    assert config.distributed.enabled is not False
    assert config.data.batch_size % int(launch[launch.index("--nproc-per-node") + 1]) == 0


def test_readme_shows_the_page_that_compares_trials() -> None:
    assert "hjepa-sweep ui" in LINES
    assert (ROOT / "docs/images/mlflow-compare.png").stat().st_size < 300_000
