"""From a search space file to a `Sweep`."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import (
    ValidationError,
    create_model,
)

from hjepa.config import RunConfig, load_layers
from hjepa.run import check_run_data
from hjepa.schema import (
    Config,
    ConfigError,
    Layers,
    has_effect,
    leaves,
    read_mapping,
    resolve_key,
    section_types,
)
from orchestrator.space.checks import MEASURE, check_combinations, check_objective, check_search, under
from orchestrator.space.config import SweepConfig, objective_mode
from orchestrator.space.distribution import Distribution, label
from orchestrator.space.sweep import Sweep, schema_reason, value_at

if TYPE_CHECKING:
    pass


def load_sweep(
    path: str | Path,
    base: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    trials: int | None = None,
) -> Sweep:
    """A sweep from a search space file; raises ConfigError on anything wrong with it or its base.

    `base` is a run's config file in place of the file's own, relative to the working directory;
    `trials` stands for search.num_trials. `overrides` go by dotted key, those of the sections of a
    sweep (`scheduler.max_epochs`) to the sweep, the others to the base; that of a swept key changes
    what the base itself does, not what the trials try. Writes nothing.
    """
    path = Path(path)
    layers = _sweep_layers(path, base, trials)
    run_overrides: dict[str, Any] = {}
    for key, value in (overrides or {}).items():
        if key.partition(".")[0] in SweepConfig.model_fields:
            _require_overridable(key)
            layers.set(key, value, f"--set {key}")
        else:
            run_overrides[key] = value
    config = layers.build(SweepConfig, str(path))
    _require_not_the_sweeps(config, run_overrides)

    base_path = Path(base) if base is not None else path.parent / config.base
    run_layers = load_layers(base_path, run_overrides)
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
    try:
        check_run_data(run)
    except ConfigError as error:
        raise ConfigError(f"{base_path}: {error}") from None

    space = _normalised(path, config.space, run, base_path)
    sweep = Sweep(path, config.model_copy(update={"space": space}), run)
    _require_shareable(sweep, base_path)
    check_search(sweep)
    check_objective(sweep, base_path)
    check_combinations(sweep)
    return sweep


def _sweep_layers(path: Path, base: str | None, trials: int | None) -> Layers:
    layers = Layers()
    layers.add(read_mapping(path), str(path))
    layers.data.setdefault("name", path.stem)
    if base is not None:
        layers.set("base", base, "--base")
    if trials is not None:
        layers.set("search.num_trials", trials, "--trials")
    # Before pydantic sees the distributions: a key written as nested sections is no distribution.
    space = layers.data.get("space")
    for key in space if isinstance(space, dict) else ():
        _require_sweepable(path, str(key))
    return layers


def _require_overridable(key: str) -> None:
    part = key.partition(".")[0]
    if part == "space":
        raise ConfigError(f"--set {key}: a space is changed in its file.")
    if part == "base":
        raise ConfigError(f"--set {key}: write --base FILE.")


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


def _require_shareable(sweep: Sweep, base_path: Path) -> None:
    """The workers of a trial can share the base's batch; the space's are tried with its combinations."""
    try:
        sweep.build({})
    except ValidationError as error:
        workers = sweep.config.resources.workers
        raise ConfigError(
            f"{base_path}: {schema_reason(error)}.\ndistributed.world_size is resources.workers, {workers}."
        ) from None


def _require_sweepable(path: Path, key: str) -> None:
    where = f"{path}: space.{key}"
    try:
        field = resolve_key(RunConfig, key)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if section_types(field.annotation):
        below = [leaf for leaf, _ in leaves(RunConfig) if under(leaf, [key])]
        hint = f"Vary the keys below it, written with dots: {', '.join(below)}."
        raise ConfigError(f"{where}: is a section, not a value.\n{hint}")
    if key == "training.epochs":
        raise ConfigError(f"{where}: how long trials run is the scheduler's; set scheduler.max_epochs.")
    if under(key, MEASURE):
        reason = "it changes what the objective measures, so trials could not be compared"
        raise ConfigError(f"{where}: may not vary: {reason}.\nSet it in the base, for all trials.")
    if not has_effect(field):
        raise ConfigError(f"{where}: may not vary: it changes speed or place only, never a result.")


@lru_cache(maxsize=256)
def _value_model(key: str) -> type[Config]:
    field = resolve_key(RunConfig, key)
    definition: Any = (field.annotation, field)
    return create_model("Value", __base__=Config, value=definition)


def _admit(key: str, value: Any) -> Any:
    """A value as the schema holds it, 1 as 1.0 for a float; ValidationError where the key cannot take it."""
    holder = _value_model(key).model_validate_json(json.dumps({"value": value}), strict=True)
    return holder.model_dump(mode="json")["value"]


def _normalised(
    path: Path, space: Mapping[str, Distribution], run: RunConfig, base_path: Path
) -> dict[str, Distribution]:
    """The space with values as the schema holds them, and each key after those that it depends on."""
    admitted = {key: _normalised_values(path, key, distribution) for key, distribution in space.items()}
    base_data = run.model_dump(mode="json")
    found: dict[str, Distribution] = {}
    for key, distribution in admitted.items():
        when: dict[str, list[Any]] = {}
        for parent, wanted in distribution.when.items():
            where = f"{path}: space.{key}.when.{parent}"
            when[parent] = _normalised_wanted(where, parent, wanted)
            if parent in admitted:
                _require_taken(where, parent, when[parent], admitted[parent])
            else:
                _require_met(where, parent, when[parent], value_at(base_data, parent), base_path)
        found[key] = distribution.model_copy(update={"when": when})
    return _conditions_first(path, found)


def _conditions_first(path: Path, space: Mapping[str, Distribution]) -> dict[str, Distribution]:
    placed: dict[str, Distribution] = {}

    def place(key: str, dependants: list[str]) -> None:
        if key in dependants:
            circle = " -> ".join([*dependants[dependants.index(key) :], key])
            raise ConfigError(f"{path}: space.{key}.when: keys depend on one another in a circle: {circle}.")
        for parent in space[key].when:
            if parent in space:
                place(parent, [*dependants, key])
        placed.setdefault(key, space[key])

    for key in space:
        place(key, [])
    return placed


def _normalised_values(path: Path, key: str, distribution: Distribution) -> Distribution:
    where, values = f"{path}: space.{key}", []
    for value in distribution.ends:
        try:
            values.append(_admit(key, value))
        except ValidationError as error:
            hint = ""
            if isinstance(value, float) and "integer" in schema_reason(error):
                hint = "\nThe key takes whole numbers: write randint, lograndint or choice."
            shown = json.dumps(value)
            raise ConfigError(f"{where}: {shown} is not allowed: {schema_reason(error)}.{hint}") from None
    if distribution.kind not in ("choice", "grid_search"):
        if distribution.kind in ("randint", "lograndint") and isinstance(values[0], float):
            raise ConfigError(f"{where}: the key takes any number: write quniform, uniform or loguniform.")
        return distribution
    labels = [label(value) for value in values]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: space.{key}: {distribution.kind} has {twice} twice.")
    return distribution.model_copy(update={distribution.kind: tuple(values)})


def _normalised_wanted(where: str, parent: str, wanted: Any) -> list[Any]:
    """The values that a condition allows: of a list each, unless the key's own values are lists."""
    try:
        if section_types(resolve_key(RunConfig, parent).annotation):
            raise ConfigError("is a section, not a value.")
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    alternatives = [wanted]
    if isinstance(wanted, list):
        try:
            return [_admit(parent, wanted)]
        except ValidationError:
            alternatives = wanted
    if not alternatives:
        raise ConfigError(f"{where}: is empty; give a value, or a list of values.")
    found = []
    for value in alternatives:
        try:
            found.append(_admit(parent, value))
        except ValidationError as error:
            shown = json.dumps(value)
            raise ConfigError(f"{where}: {shown} is not allowed: {schema_reason(error)}.") from None
    return found


def _require_taken(where: str, parent: str, wanted: list[Any], distribution: Distribution) -> None:
    if distribution.points is None:
        raise ConfigError(
            f"{where}: {parent} varies continuously ({distribution.kind}) and hits no single value; "
            "a condition needs a key with choices or whole numbers."
        )
    for value in wanted:
        if value not in distribution:
            takes = f"{distribution.kind}: {json.dumps(distribution.arguments)}"
            raise ConfigError(f"{where}: {parent} never takes {label(value)}; the space has {takes}.")


def _require_met(where: str, parent: str, wanted: list[Any], has: Any, base_path: Path) -> None:
    if label(has) not in map(label, wanted):
        raise ConfigError(
            f"{where}: the key would never vary: {parent} is not in the space, and is {label(has)} "
            f"in {base_path}.\nSet it to {label(wanted[0])} there, or sweep it."
        )
