"""Imports run one way, and the core knows nothing of what drives it."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("hjepa", "orchestrator")
# The modules of the orchestrator that may import the core: what a space's keys mean, and the seam.
SEAM = ("orchestrator.space", "orchestrator.engine.trial")


def modules() -> dict[str, Path]:
    """Every module of both packages by dotted name; a package by its own."""
    found = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imported(module: str, file: Path) -> Iterator[str]:
    """What `module` imports anywhere in it, the innermost module where that is one of ours."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in MODULES else source


IMPORTS = {module: set(imported(module, file)) for module, file in MODULES.items()}


def of(module: str) -> str:
    """The part of a package to which a module belongs: orchestrator.space of orchestrator.space.keys."""
    return ".".join(module.split(".")[:2])


def test_the_walk_sees_imports():
    assert "hjepa.schema" in IMPORTS["hjepa.config"]
    assert "hjepa.data.digits" in IMPORTS["hjepa.data.dataset"]
    assert "torch" in IMPORTS["hjepa.step"]


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("hjepa")])
def test_the_core_imports_nothing_that_drives_it(module: str):
    tops = {name.split(".")[0] for name in IMPORTS[module]}
    assert not tops & {"ray", "optuna", "mlflow", "orchestrator"}


def test_the_orchestrator_reaches_the_core_in_two_places_only():
    reaching = {module for module, names in IMPORTS.items() if any(n.split(".")[0] == "hjepa" for n in names)}
    beyond = {module for module in reaching if module.startswith("orchestrator")}
    assert not {module for module in beyond if not f"{module}.".startswith(tuple(f"{one}." for one in SEAM))}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_by_way_of_others(package: str):
    # A module that imports the package itself imports all that its __init__ does.
    graph = {
        m: {n for n in names if n in MODULES} for m, names in IMPORTS.items() if m.split(".")[0] == package
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' <- '.join(error.args[1])}")


def test_nothing_imports_the_command_lines_and_only_they_import_the_sweep():
    importers: dict[str, set[str]] = {}
    for module, names in IMPORTS.items():
        for name in names:
            importers.setdefault(of(name), set()).add(of(module))
    for package in PACKAGES:
        assert importers.get(f"{package}.cli", set()) <= {f"{package}.__main__", f"{package}.cli"}
    assert importers.get("orchestrator.sweep", set()) - {"orchestrator.sweep"} <= {"orchestrator.cli"}


TRAINS_ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "optuna", "mlflow", "orchestrator"):
            raise ImportError(f"{name} is not to be imported here")

sys.meta_path.insert(0, Refuse())
from hjepa import load_config, train
(report,) = train(load_config(sys.argv[1]))
print("trained", report.epoch, sorted(report.metrics)[:1])
"""


def test_the_core_trains_where_ray_optuna_and_mlflow_cannot_be_imported(tmp_path: Path):
    config = tmp_path / "run.yaml"
    config.write_text(
        "model: {embed_dim: 16, depth: 1, num_hierarchies: 1, predictor: {depth: 1}}\n"
        "data: {image_size: 8, batch_size: 256}\nloss: {hierarchy_weights: [1.0]}\n"
        "training: {epochs: 1}\ndevice: cpu\nthreads: 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", TRAINS_ALONE, str(config)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("trained 1 ")
    assert [file.name for file in tmp_path.iterdir()] == ["run.yaml"]
