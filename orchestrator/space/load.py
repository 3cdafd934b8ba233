"""From a search space file to a `Sweep`."""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hjepa.catalog import find_config
from hjepa.config import RunConfig, load_layers
from hjepa.metrics import metric_mode
from hjepa.run import check_run_data
from hjepa.schema import ConfigError, Layers, nearest_key
from orchestrator.space.checks import (
    check_brackets,
    check_combinations,
    check_objective,
    check_search,
    check_trials,
)
from orchestrator.space.config import SweepConfig
from orchestrator.space.design import with_base_values
from orchestrator.space.include import read_layers
from orchestrator.space.keys import require_sweepable, schema_reason
from orchestrator.space.normalise import normalised
from orchestrator.space.objective import objective_mode
from orchestrator.space.satisfiable import check_rules
from orchestrator.space.sweep import Sweep
from orchestrator.space.unheeded import unheeded

_ENUMERATES = ("factorial", "one_at_a_time")


def load_sweep(
    path: str | Path,
    base: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    trials: int | None = None,
    check_data: bool = True,
    warn: Callable[[str], None] | None = None,
) -> Sweep:
    """A sweep from a search space file; raises ConfigError on anything wrong with it or its base.

    `base` is a run's config in place of the file's own: a file, relative to the working directory, or the
    name of one that comes with the project;
    `trials` stands for search.num_trials. `overrides` go by dotted key, those of the sections of a
    sweep (`scheduler.max_epochs`) to the sweep, the others to the base; that of a swept key changes
    what the base itself does, not what the trials try. With `check_data` false the base's data may be
    on other machines only. `warn` is told, in a line each, what the base says in vain. Writes nothing.
    """
    path = Path(path)
    layers = _sweep_layers(path, base, trials)
    run_overrides: dict[str, Any] = {}
    for key, value in (overrides or {}).items():
        if key.partition(".")[0] in SweepConfig.model_fields:
            _require_overridable(key)
            if key == "objective":
                layers.data.pop(key, None)  # nothing of the file's own stays beside it
                value = _as_objective("--set objective", value)
            layers.set(key, value, f"--set {key}")
        else:
            _require_not_nearly_the_sweeps(key)
            run_overrides[key] = value
    _take_the_fitting_algorithm(layers)
    config = layers.build(SweepConfig, str(path))
    _require_not_the_sweeps(config, run_overrides)

    base_path = find_config(base) if base is not None else path.parent / config.base
    try:
        run_layers = load_layers(base_path, run_overrides)
    except ConfigError as error:
        named_by = "--base" if base is not None else f"{layers.source_of('base')}: base"
        raise ConfigError(f"{named_by}: {error}") from None
    run = run_layers.build(RunConfig, str(base_path))
    if config.scheduler.max_epochs is None:
        source = f"{path} (training.epochs of {base_path})"
        layers.set("scheduler.max_epochs", run.training.epochs, source)
    layers.set("objective.mode", objective_mode(config.objective.metric), str(path))
    config = layers.build(SweepConfig, str(path))
    run_layers.set("training.epochs", config.scheduler.max_epochs, f"{path}: scheduler.max_epochs")
    run_layers.set("threads", config.resources.cpus_per_worker, f"{path}: resources.cpus_per_worker")
    run = run_layers.build(RunConfig, str(base_path))
    _require_one_process(run, base_path)
    _require_packable(config, run, path)
    try:
        if check_data:
            check_run_data(run)
    except ConfigError as error:
        raise ConfigError(f"{base_path}: {error}") from None

    space = normalised(path, config.space, run, base_path)
    if config.design == "one_at_a_time":
        space = with_base_values(path, space, run.model_dump(mode="json"))
    sweep = Sweep(path, config.model_copy(update={"space": space}), run)
    _require_shareable(sweep, base_path)
    check_search(sweep)
    check_brackets(sweep)
    check_objective(sweep, base_path)
    check_rules(sweep)
    check_combinations(sweep)
    check_trials(sweep)
    if warn is not None:
        for line in unheeded(sweep, run_layers, base_path):
            warn(line)
    return sweep


def _sweep_layers(path: Path, base: str | None, trials: int | None) -> Layers:
    layers = read_layers(path)
    layers.data.setdefault("name", path.stem)
    if base is not None:
        layers.set("base", base, "--base")
    if trials is not None:
        layers.set("search.num_trials", trials, "--trials")
    if "objective" in layers.data:
        layers.data["objective"] = _as_objective(f"{path}: objective", layers.data["objective"])
    # Before pydantic sees the distributions: a key written as nested sections is no distribution.
    space = layers.data.get("space")
    for key in space if isinstance(space, dict) else ():
        require_sweepable(f"{path}: space.{key}", str(key))
    return layers


def _as_objective(where: str, given: Any) -> Any:
    """`[first, second]`, of metrics or {metric: ...}, as the first with the others beside it; a metric alone
    as a list of one, and a map as it is."""
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list):
        return given
    named = [one if isinstance(one, dict) else {"metric": one} for one in given]
    for one in named:
        if "metric" not in one or one.keys() - {"metric", "mode"}:
            raise ConfigError(f"{where}: each of a list is a metric, or {{metric: NAME, mode: max}}.")
        wanted, mode = one.get("mode"), metric_mode(str(one["metric"]))
        if wanted is not None and mode is not None and wanted != mode:
            raise ConfigError(
                f"{where}: mode {wanted} would look for the worst trial by {one['metric']}; leave mode out."
            )
    if not named:
        raise ConfigError(f"{where}: is empty; name a metric, such as val/knn_top1.")
    return {**named[0], "beside": [one["metric"] for one in named[1:]]}


def _take_the_fitting_algorithm(layers: Layers) -> None:
    """Where none is written: of a design that lists its trials grid, and of several objectives tpe."""
    search, objective = layers.data.get("search", {}), layers.data.get("objective")
    if not isinstance(search, dict) or "algorithm" in search:
        return
    design = layers.data.get("design")
    if design in _ENUMERATES:
        layers.set("search.algorithm", "grid", f"design {design}")
    elif isinstance(objective, dict) and objective.get("beside"):
        layers.set("search.algorithm", "tpe", "objective.beside")


def _require_overridable(key: str) -> None:
    part = key.partition(".")[0]
    if part in ("space", "derived", "constraints"):
        raise ConfigError(f"--set {key}: a space is changed in its file.")
    if part == "base":
        raise ConfigError(f"--set {key}: write --base FILE.")


def _require_not_nearly_the_sweeps(key: str) -> None:
    part = key.partition(".")[0]
    if part not in RunConfig.model_fields and difflib.get_close_matches(part, SweepConfig.model_fields, n=1):
        raise ConfigError(f"--set {key}: {key}: no such config key.\n{nearest_key(SweepConfig, key)}")


def _require_not_the_sweeps(config: SweepConfig, run_overrides: Mapping[str, Any]) -> None:
    epochs = config.scheduler.max_epochs
    if "training.epochs" in run_overrides and epochs is not None:
        raise ConfigError(f"--set training.epochs: is scheduler.max_epochs in a sweep, {epochs}; set that.")
    if "threads" in run_overrides:
        cpus = config.resources.cpus_per_worker
        raise ConfigError(f"--set threads: is resources.cpus_per_worker in a sweep, {cpus}; set that.")


def _require_one_process(run: RunConfig, base_path: Path) -> None:
    if run.distributed.enabled:
        raise ConfigError(
            f"{base_path}: distributed.enabled: how many processes share a trial is resources.workers in a "
            "sweep.\nAdd --set distributed.enabled=false."
        )


def _require_packable(config: SweepConfig, run: RunConfig, path: Path) -> None:
    pack = config.resources.pack
    if isinstance(pack, int) and run.device in ("cpu", "mps"):
        raise ConfigError(
            f"{path}: resources.pack: {pack} trials would share a CUDA GPU, and the base's device is "
            f"{run.device}; allowed: device auto or cuda, or no pack: how many trials share the cores is by "
            "resources.cpus_per_worker."
        )


def _require_shareable(sweep: Sweep, base_path: Path) -> None:
    """The workers of a trial can share the base's batch; the space's are tried with its combinations."""
    try:
        sweep.build({})
    except ValidationError as error:
        workers = sweep.config.resources.workers
        raise ConfigError(
            f"{base_path}: {schema_reason(error)}.\ndistributed.world_size is resources.workers, {workers}."
        ) from None
