"""Search spaces: from a YAML file to a validated, conditional space over a run's dotted config keys.

With `orchestrator.trial` the only module here that imports hjepa; the others take `Config`,
`ConfigError` and the like from this one.
"""

import difflib
import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, lru_cache
from itertools import chain, combinations, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

from hjepa.config import RunConfig, load_layers
from hjepa.data import check_data
from hjepa.schema import (
    NO_EFFECT,
    Config,
    ConfigError,
    Layers,
    has_effect,
    inert_keys,
    leaves,
    parse_overrides,
    read_mapping,
    resolve_key,
    section_types,
    to_yaml,
)
from hjepa.train import METRIC_MODES

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

__all__ = [
    "load_sweep",
    "Sweep",
    "SweepConfig",
    "Distribution",
    "ObjectiveConfig",
    "SearchConfig",
    "SchedulerConfig",
    "ResourcesConfig",
    "objective_mode",
    "Config",
    "ConfigError",
    "RunConfig",
    "parse_overrides",
    "to_yaml",
]

MAX_COMBINATIONS = 2000
"""Combinations of values that are all tried before a sweep; of more, pairs and a random sample."""
MAX_PAIRS = 20_000
RANDOM_COMBINATIONS = 1000
MAX_GRID = 100_000
"""Trials of a grid without search.num_trials."""
MAX_STEPS = 10_000
"""Values of a quniform range."""

# What each distribution takes, and which can be written out value by value for a grid.
ARGUMENTS = {
    "choice": "[value, ...]",
    "grid_search": "[value, ...]",
    "uniform": "[low, high]",
    "loguniform": "[low, high]",
    "quniform": "[low, high, q]",
    "randint": "[low, high]",
    "lograndint": "[low, high]",
}
COUNTABLE = ("choice", "grid_search", "quniform", "randint")

MEASURE = ("data.dataset", "data.data_path", "data.split_seed", "data.val_fraction", "evaluation")
"""Keys that change what the objective measures."""
_OPTIMIZER_KEYS = (
    "lr lr_schedule min_lr min_lr_ratio warmup_epochs warmup_lr_ratio optimizer betas weight_decay clip_grad"
)
LOSS_KEEPS_SCALE = ("seed", *(f"training.{name}" for name in _OPTIMIZER_KEYS.split()))
"""Keys between whose values a training loss can be compared."""
SETS_SPREAD = ("model.embed_dim", "model.encoder_type", "loss")
"""Keys that set the features' rank or spread by themselves, whatever is learnt."""


class Distribution(Config):
    """How one key varies: exactly one distribution, by Ray Tune's names, and on what condition."""

    choice: tuple[JsonValue, ...] | None = None
    """One of these values."""
    grid_search: tuple[JsonValue, ...] | None = None
    """Each of these values in turn; with search.algorithm grid only, where it equals choice."""
    uniform: tuple[float, float] | None = None
    """A number from low to high."""
    loguniform: tuple[float, float] | None = None
    """A number from low to high, its logarithm uniform; low > 0."""
    quniform: tuple[float, float, float] | None = None
    """A multiple of q from low to high, both included; low and high are multiples too."""
    randint: tuple[int, int] | None = None
    """A whole number from low to high, high excluded."""
    lograndint: tuple[int, int] | None = None
    """A whole number from low to high, high excluded, its logarithm uniform; low >= 1."""
    when: dict[str, JsonValue] = Field(default={})
    """Config keys, and the value or list of values that each must have for this key to be varied;
    otherwise it keeps the base's value."""

    @model_validator(mode="before")
    @classmethod
    def _one_distribution(cls, data: Any) -> Any:
        names = ", ".join(ARGUMENTS)
        if not isinstance(data, dict):
            raise ValueError(f"must be a distribution, such as {{choice: [value, ...]}}; one of {names}")
        for name in data:
            if name not in cls.model_fields:
                near = difflib.get_close_matches(str(name), cls.model_fields, n=1)
                hint = f"nearest: {near[0]}; " if near else ""
                raise ValueError(f"no such distribution: {name}; {hint}one of {names}, and when")
        given = [name for name in ARGUMENTS if data.get(name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"has {' and '.join(given) or 'no distribution'}; must have exactly one of {names}"
            )
        takes, value = ARGUMENTS[given[0]], data[given[0]]
        numbers = 0 if "..." in takes else takes.count(",") + 1
        if not isinstance(value, list) or (numbers and len(value) != numbers):
            raise ValueError(f"{given[0]} takes {takes}, got {json.dumps(value)}")
        # Past a validator such as this pydantic no longer takes a list for a tuple.
        return data | {given[0]: tuple(value)}

    @model_validator(mode="after")
    def _arguments_make_sense(self) -> Self:
        if self.kind in ("choice", "grid_search"):
            if not self.arguments:
                raise ValueError(f"{self.kind} is empty; give at least one value")
            return self
        low, high = self.arguments[:2]
        if low >= high:
            raise ValueError(f"{self.kind} has low {low:g} and high {high:g}; low must be less than high")
        if self.kind in ("loguniform", "lograndint") and low <= 0:
            raise ValueError(f"{self.kind} has low {low:g}; a logarithmic range must be above 0")
        if self.kind in ("randint", "lograndint") and max(-low, high) > 2**53:
            raise ValueError(f"{self.kind} goes beyond 2^53, where not every whole number can be drawn")
        if self.quniform:
            low_d, high_d, q_d = (Decimal(str(number)) for number in self.quniform)
            if q_d <= 0:
                raise ValueError(f"quniform has q {q_d}; must be above 0")
            if low_d % q_d or high_d % q_d:
                raise ValueError(f"quniform goes from {low_d} to {high_d}; both must be multiples of q {q_d}")
            if (high_d - low_d) / q_d >= MAX_STEPS:
                raise ValueError(f"quniform has more than {MAX_STEPS:,} values; write uniform")
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value not in (None, {})}

    @property
    def kind(self) -> str:
        """Name of the distribution."""
        return next(name for name in ARGUMENTS if getattr(self, name) is not None)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the distribution was given."""
        return getattr(self, self.kind)

    @property
    def points(self) -> Sequence[Any] | None:
        """Every value, in order; None for a continuous range."""
        if self.kind in ("uniform", "loguniform"):
            return None
        if self.quniform:
            low_d, high_d, q_d = (Decimal(str(number)) for number in self.quniform)
            return [float(q_d * step) for step in range(int(low_d / q_d), int(high_d / q_d) + 1)]
        return range(*self.arguments) if self.kind in ("randint", "lograndint") else self.arguments

    @property
    def ends(self) -> Sequence[Any]:
        """All choices, or the least and the greatest value of a range."""
        points = self.arguments[:2] if self.points is None else self.points
        return points if self.kind in ("choice", "grid_search") else (points[0], points[-1])

    @property
    def middle(self) -> float | None:
        """A value well inside a continuous range; None for the others."""
        if self.points is not None:
            return None
        low, high = self.arguments
        return math.sqrt(low * high) if self.kind == "loguniform" else (low + high) / 2

    def __contains__(self, value: Any) -> bool:
        if self.kind in ("choice", "grid_search"):
            return _label(value) in map(_label, self.arguments)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low, high = self.arguments[:2]
        return low <= value <= high if self.points is None else value in self.points

    def suggest(self, trial: "BaseTrial", key: str) -> Any:
        """A value, drawn by an Optuna trial under the name `key`."""
        match self.kind:
            case "choice" | "grid_search":
                labels = {_label(value): value for value in self.arguments}
                return labels[trial.suggest_categorical(key, list(labels))]
            case "randint" | "lograndint":
                low, high = self.arguments
                return trial.suggest_int(key, low, high - 1, log=self.kind == "lograndint")
            case "quniform":
                low, high, q = self.arguments
                drawn = trial.suggest_float(key, low, high, step=q)
                # Optuna's low + k * step is subject to rounding: 0.1 + 2 * 0.1 is no 0.3.
                return min(self.points or (), key=lambda point: abs(point - drawn))
            case _:
                return trial.suggest_float(key, *self.arguments, log=self.kind == "loguniform")


class ObjectiveConfig(Config):
    """What makes a trial better than another."""

    metric: str = "val/knn_top1"
    """Metric of a run's reports that is compared between trials."""
    mode: Literal["max", "min"] | None = None
    """Whether more or less of it is better; null: as the metric has it."""

    @field_validator("metric")
    @classmethod
    def _is_reported(cls, metric: str) -> str:
        if metric not in METRIC_MODES:
            near = difflib.get_close_matches(metric, METRIC_MODES, n=1, cutoff=0.3)
            hint = f"nearest: {near[0]}; " if near else ""
            raise ValueError(f"no run reports it; {hint}one of {', '.join(METRIC_MODES)}")
        if metric.startswith("time/"):
            raise ValueError("it says how fast a trial is, not what it learns; the smallest model would win")
        return metric

    @model_validator(mode="after")
    def _looks_for_the_best(self) -> Self:
        if self.mode not in (None, METRIC_MODES[self.metric]):
            raise ValueError(
                f"mode {self.mode} would look for the worst trial by {self.metric}; leave mode out"
            )
        return self


class SearchConfig(Config):
    """How values are proposed."""

    algorithm: Literal["tpe", "random", "grid"] = "tpe"
    """tpe learns from finished trials, random does not, grid takes every combination once."""
    # More trials extend a sweep; they do not make it another one.
    num_trials: int | None = Field(default=None, ge=1, json_schema_extra=NO_EFFECT)
    """Trials in all; with grid an upper limit, and null: every combination."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the proposals; that of a trial is the base's."""

    def inert(self) -> dict[str, str]:
        return {"seed": "search.algorithm is grid"} if self.algorithm == "grid" else {}


class SchedulerConfig(Config):
    """How long trials run."""

    type: Literal["asha", "fifo"] = "asha"
    """asha stops weak trials early, fifo runs each to the end."""
    max_epochs: int | None = Field(default=None, ge=1)
    """Epochs of a full trial; null: the base's training.epochs. Schedules span these epochs."""
    grace_epochs: int = Field(default=1, ge=1)
    """Epochs before a trial may be stopped, at most max_epochs."""
    reduction_factor: int = Field(default=3, ge=2)
    """Of so many trials at a rung one goes on, and rungs are this factor apart."""

    @model_validator(mode="after")
    def _grace_within_epochs(self) -> Self:
        if self.type == "asha" and self.max_epochs is not None and self.grace_epochs > self.max_epochs:
            raise ValueError(f"grace_epochs {self.grace_epochs} is more than max_epochs {self.max_epochs}")
        return self

    def inert(self) -> dict[str, str]:
        if self.type == "asha":
            return {}
        return dict.fromkeys(("grace_epochs", "reduction_factor"), "scheduler.type is fifo")


class ResourcesConfig(Config):
    """What trials run on."""

    workers: int = Field(default=1, ge=1, le=1)
    """Processes of a trial."""
    cpus_per_worker: int = Field(default=1, ge=1, json_schema_extra=NO_EFFECT)
    """CPU cores reserved for a worker; a trial's `threads`, whatever the base says."""
    gpus_per_worker: float = Field(default=0, ge=0, le=1, json_schema_extra=NO_EFFECT)
    """GPUs reserved for a worker; a fraction shares one between trials."""
    concurrency: int | None = Field(default=None, ge=1, json_schema_extra=NO_EFFECT)
    """Trials at a time; null: as many as fit."""
    engine: Literal["auto", "actor"] = Field(default="auto", json_schema_extra=NO_EFFECT)
    """How a trial is run; actor: in a warm process that goes on to the next trial. auto takes it."""
    max_failures: int = Field(default=2, ge=0, json_schema_extra=NO_EFFECT)
    """Times that a trial is started again after a crash."""


class SweepConfig(Config):
    """A search space file."""

    name: str = Field(pattern=r"^[a-z0-9A-Z][A-Za-z0-9._-]{0,63}$")
    """Name of the sweep and of its results folder; by default the file's."""
    base: str = Field(json_schema_extra=NO_EFFECT)
    """Config file of a run that every trial starts from, relative to this file."""
    objective: ObjectiveConfig = ObjectiveConfig()
    space: dict[str, Distribution] = Field(min_length=1)
    """Dotted config keys and how each varies."""
    search: SearchConfig = SearchConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    resources: ResourcesConfig = ResourcesConfig()


@dataclass(frozen=True)
class Sweep:
    """A validated sweep. Every null and default of its file is resolved."""

    path: Path
    """The search space file."""
    config: SweepConfig
    """Keys of its space stand after those that their `when` names; each `when` lists all allowed values."""
    base: RunConfig
    """What trials start from, of the length of a full trial."""

    def resolve(self, values: Mapping[str, Any]) -> RunConfig:
        """The run config of a trial with these `values` by dotted key, swept or not.

        Raises ConfigError where they make no valid config.
        """
        try:
            return self._build(values)
        except ValidationError as error:
            message = f"{_assigned(values)} makes no valid config: {_reason(error)}."
            raise ConfigError(f"{self.path}: {message}") from None

    def active(self, key: str, values: Mapping[str, Any]) -> bool:
        """Whether `key` varies given the `values` of the keys before it.

        A key that depends on one that does not vary does not vary either.
        """
        space = self.config.space
        return all(
            parent in values and _label(values[parent]) in map(_label, allowed)
            for parent, allowed in _conditions(space[key]).items()
            if parent in space
        )

    def suggest(self, trial: "BaseTrial") -> dict[str, Any]:
        """JSON-serialisable values of the active keys, drawn by an Optuna trial.

        Choices are categories named by their labels; see `params`.
        """
        return self._complete(lambda key: self.config.space[key].suggest(trial, key))

    def params(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` as Optuna's parameters, such as `enqueue_trial` takes."""
        kinds = {key: self.config.space[key].kind for key in values}
        return {
            key: _label(value) if kinds[key] in ("choice", "grid_search") else value
            for key, value in values.items()
        }

    def labels(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Each value as a short text: strings as they are, the rest as JSON."""
        return {key: _label(value) for key, value in values.items()}

    def base_values(self) -> dict[str, Any] | None:
        """The base's own values of the active keys, or None where one lies outside the space."""
        values = self._complete(lambda key: _value_at(self.base_data, key))
        inside = all(value in self.config.space[key] for key, value in values.items())
        return values if inside else None

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every combination of values once, in a stable order, without the keys that are not active.

        Raises ConfigError where a key has no list of values.
        """
        points: dict[str, Sequence[Any]] = {}
        for key, distribution in self.config.space.items():
            if distribution.kind not in COUNTABLE or distribution.points is None:
                allowed = f"a grid needs one of {', '.join(COUNTABLE)}"
                raise self.error(key, f"{distribution.kind} has no list of values; {allowed}.")
            points[key] = distribution.points
        return self.combinations(points)

    @cached_property
    def num_trials(self) -> int:
        """Trials in all: search.num_trials, or for a grid the number of combinations if that is less."""
        limit = self.config.search.num_trials
        if self.config.search.algorithm != "grid":
            assert limit is not None
            return limit
        return sum(1 for _ in islice(self.grid(), limit or MAX_GRID))

    @property
    def objective_mode(self) -> str:
        """`max` or `min`."""
        return objective_mode(self.config.objective.metric)

    @property
    def max_epochs(self) -> int:
        """Epochs of a full trial."""
        return self.base.training.epochs

    @property
    def rungs(self) -> list[int]:
        """Epochs at which ASHA looks at a trial, short of max_epochs; none with fifo."""
        settings, found = self.config.scheduler, []
        epoch = settings.grace_epochs if settings.type == "asha" else self.max_epochs
        while epoch < self.max_epochs:
            found.append(epoch)
            epoch *= settings.reduction_factor
        return found

    def definition(self) -> dict[str, Any]:
        """All that defines the sweep, JSON-serialisable."""
        return {"sweep": self.config.model_dump(mode="json"), "base": self.base_data}

    def fingerprint(self) -> str:
        """SHA-256 of the name and all that may change a trial's result.

        Not of speed and place, nor of the number of trials: a sweep may be extended.
        """
        telling = {"sweep": _effective(self.config), "base": _effective(self.base)}
        return hashlib.sha256(json.dumps(telling, sort_keys=True).encode()).hexdigest()

    def to_yaml(self) -> str:
        """The resolved file, every key written out.

        Its base is `base.yaml` beside it: `to_yaml(sweep.base)` there makes it the same sweep again.
        """
        return to_yaml(self.config.model_copy(update={"base": "base.yaml"}))

    @cached_property
    def base_data(self) -> dict[str, Any]:
        """The base as plain data."""
        return self.base.model_dump(mode="json")

    def combinations(self, points: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
        """Every combination of the `points` of active keys, the last key changing fastest."""
        keys = list(self.config.space)

        def extended(values: dict[str, Any], index: int) -> Iterator[dict[str, Any]]:
            if index == len(keys):
                yield values
            elif not self.active(keys[index], values):
                yield from extended(values, index + 1)
            else:
                for point in points[keys[index]]:
                    yield from extended({**values, keys[index]: point}, index + 1)

        return extended({}, 0)

    def error(self, key: str, message: str) -> ConfigError:
        """An error about a key of the space."""
        return ConfigError(f"{self.path}: space.{key}: {message}")

    def _complete(self, choose: Callable[[str], Any]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key in self.config.space:
            if self.active(key, values):
                values[key] = choose(key)
        return values

    def _build(self, values: Mapping[str, Any]) -> RunConfig:
        layers = Layers()
        layers.add(self.base_data, "base")
        for key, value in values.items():
            layers.set(key, value, key)
        return RunConfig.model_validate_json(json.dumps(layers.data), strict=True)


def objective_mode(metric: str) -> str:
    """`max` or `min`: which way `metric` is better."""
    return METRIC_MODES[metric]


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
    try:
        check_data(run.data)
    except ConfigError as error:
        raise ConfigError(f"{base_path}: {error}") from None

    space = _normalised(path, config.space, run, base_path)
    sweep = Sweep(path, config.model_copy(update={"space": space}), run)
    _check_search(sweep)
    _check_objective(sweep, base_path)
    _check_combinations(sweep)
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


def _require_sweepable(path: Path, key: str) -> None:
    where = f"{path}: space.{key}"
    try:
        field = resolve_key(RunConfig, key)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if section_types(field.annotation):
        below = [leaf for leaf, _ in leaves(RunConfig) if _under(leaf, [key])]
        hint = f"Vary the keys below it, written with dots: {', '.join(below)}."
        raise ConfigError(f"{where}: is a section, not a value.\n{hint}")
    if key == "training.epochs":
        raise ConfigError(f"{where}: how long trials run is the scheduler's; set scheduler.max_epochs.")
    if _under(key, MEASURE):
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
                _require_met(where, parent, when[parent], _value_at(base_data, parent), base_path)
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
            if isinstance(value, float) and "integer" in _reason(error):
                hint = "\nThe key takes whole numbers: write randint, lograndint or choice."
            shown = json.dumps(value)
            raise ConfigError(f"{where}: {shown} is not allowed: {_reason(error)}.{hint}") from None
    if distribution.kind not in ("choice", "grid_search"):
        if distribution.kind in ("randint", "lograndint") and isinstance(values[0], float):
            raise ConfigError(f"{where}: the key takes any number: write quniform, uniform or loguniform.")
        return distribution
    labels = [_label(value) for value in values]
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
            raise ConfigError(f"{where}: {shown} is not allowed: {_reason(error)}.") from None
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
            raise ConfigError(f"{where}: {parent} never takes {_label(value)}; the space has {takes}.")


def _require_met(where: str, parent: str, wanted: list[Any], has: Any, base_path: Path) -> None:
    if _label(has) not in map(_label, wanted):
        raise ConfigError(
            f"{where}: the key would never vary: {parent} is not in the space, and is {_label(has)} "
            f"in {base_path}.\nSet it to {_label(wanted[0])} there, or sweep it."
        )


def _check_search(sweep: Sweep) -> None:
    search = sweep.config.search
    if search.algorithm == "grid":
        trials = sum(1 for _ in islice(sweep.grid(), MAX_GRID + 1))
        if search.num_trials is None and trials > MAX_GRID:
            message = f"the grid has more than {MAX_GRID:,} combinations; give an upper limit"
            raise ConfigError(f"{sweep.path}: search.num_trials: {message}.")
        return
    for key, distribution in sweep.config.space.items():
        if distribution.grid_search:
            message = f"grid_search needs search.algorithm grid; with {search.algorithm} write choice"
            raise sweep.error(key, f"{message}.")
    if search.num_trials is None:
        message = f"must be given with search.algorithm {search.algorithm}, here or as --trials"
        raise ConfigError(f"{sweep.path}: search.num_trials: {message}.")


def _check_objective(sweep: Sweep, base_path: Path) -> None:
    metric = sweep.config.objective.metric
    where = f"{sweep.path}: objective.metric: {metric}"
    evaluation, swept = sweep.base.evaluation, list(sweep.config.space)
    hint = "Take val/knn_top1."
    if metric.startswith("train/"):
        for key in swept:
            if key not in LOSS_KEEPS_SCALE:
                reason = f"cannot be compared between values of {key}, which may change the loss's scale"
                raise ConfigError(f"{where} {reason}.\n{hint}")
        return
    if metric in ("val/rankme", "val/feature_std"):
        for key in swept:
            if _under(key, SETS_SPREAD):
                reason = f"cannot be compared between values of {key}, which sets it whatever is learnt"
                raise ConfigError(f"{where} {reason}.\n{hint}")
    if metric == "val/linear_probe_top1" and not evaluation.linear_probe.enabled:
        key = "evaluation.linear_probe.enabled"
        raise ConfigError(f"{where} is not measured: {key} is false in {base_path}.\nAdd --set {key}=true.")
    for epoch in sweep.rungs:
        if epoch % evaluation.eval_frequency:
            raise ConfigError(
                f"{where} is not measured at epoch {epoch}, where ASHA needs it: evaluation.eval_frequency "
                f"is {evaluation.eval_frequency} in {base_path}.\nAdd --set evaluation.eval_frequency=1."
            )


def _check_combinations(sweep: Sweep) -> None:
    """Every combination tried builds a config in which every active key matters."""
    space = sweep.config.space
    points = {key: _test_points(sweep, key) for key in space}
    met: set[str] = set()
    for values in _test_values(sweep, points):
        met |= values.keys()
        try:
            inert = inert_keys(sweep._build(values))
        except ValidationError as error:
            raise _invalid(sweep, points, values, _reason(error)) from None
        for key in values:
            if _under(key, inert) and (reason := _inert_inside(sweep, values, key)):
                raise _without_effect(sweep, values, key, reason)
    for key, distribution in space.items():
        if key not in met:
            wanted = json.dumps(distribution.when)
            raise sweep.error(key, f"would never vary: its when {wanted} is never met as a whole.")


def _test_points(sweep: Sweep, key: str) -> list[Any]:
    """The ends of a key's range, and what conditions ask of it."""
    asked = (_conditions(distribution).get(key, []) for distribution in sweep.config.space.values())
    values = [*sweep.config.space[key].ends, *chain.from_iterable(asked)]
    return list({_label(value): value for value in values}.values())


def _test_values(sweep: Sweep, points: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """All combinations if they are few, else all pairs of values and a random sample."""
    everything = list(islice(sweep.combinations(points), MAX_COMBINATIONS + 1))
    if len(everything) <= MAX_COMBINATIONS:
        return iter(everything)
    rng = random.Random(0)
    sample = (sweep._complete(lambda key: rng.choice(points[key])) for _ in range(RANDOM_COMBINATIONS))
    return chain(islice(_pairs(sweep, points), MAX_PAIRS), sample)


def _pairs(sweep: Sweep, points: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """For any two values of two keys a combination that has both, the rest as in the base if possible."""
    space = sweep.config.space
    own = {key: _value_at(sweep.base_data, key) for key in space}
    usual = {key: own[key] if own[key] in space[key] else points[key][0] for key in space}

    def require(key: str, forced: dict[str, Any]) -> None:
        for parent, allowed in _conditions(space[key]).items():
            if parent in space and parent not in forced:
                forced[parent] = allowed[0]
                require(parent, forced)

    for first, second in combinations(space, 2):
        for a in points[first]:
            for b in points[second]:
                forced = {first: a, second: b}
                require(first, forced)
                require(second, forced)
                values = sweep._complete(lambda key, forced=forced: forced.get(key, usual[key]))
                if first in values and second in values:
                    yield values


def _inert_inside(sweep: Sweep, values: Mapping[str, Any], key: str) -> str | None:
    """Why `key` cannot matter, for a reason other than that a continuous range ends at that very value."""
    middles = {other: sweep.config.space[other].middle for other in values}
    inside = {**values, **{other: middle for other, middle in middles.items() if middle is not None}}
    try:
        return _inert_in(sweep, inside, key)
    except ValidationError:  # the ends are valid, the middles together are not
        return _inert_in(sweep, values, key)


def _inert_in(sweep: Sweep, values: Mapping[str, Any], key: str) -> str | None:
    inert = inert_keys(sweep._build(values))
    return next((reason for section, reason in inert.items() if _under(key, [section])), None)


def _fits(sweep: Sweep, values: Mapping[str, Any], matters: str | None = None) -> bool:
    """Whether `values` make a config, one in which the key `matters`, if given, does."""
    try:
        inert = inert_keys(sweep._build(values))
    except ValidationError:
        return False
    return matters is None or not _under(matters, inert)


def _invalid(
    sweep: Sweep, points: Mapping[str, list[Any]], values: Mapping[str, Any], reason: str
) -> ConfigError:
    """What is wrong with a combination, named by those of its keys that have to do with it."""
    words = set(reason.replace(".", " ").replace(",", " ").split())
    own = {key: _value_at(sweep.base_data, key) for key in values}
    guilty = {
        key: value
        for key, value in values.items()
        if key.rpartition(".")[2] in words
        or any(_fits(sweep, {**values, key: other}) for other in [*points[key], own[key]])
    } or values
    *others, last = guilty
    message = f"{_assigned(guilty)} makes no valid config: {reason}."
    if not others:
        return sweep.error(last, f"{message}\nLeave that value out, or change the base.")
    for other in others:
        good = [
            point
            for point in _conditionable(sweep, other)
            if all(_fits(sweep, {**values, other: point, last: value}) for value in points[last])
        ]
        if good:
            return sweep.error(
                last, f"{message}\nKeep them apart with when: {{{other}: {_wanted(good)}}} here."
            )
    return sweep.error(last, f"{message}\nKeep them apart with when:, narrow a range, or leave a value out.")


def _conditionable(sweep: Sweep, key: str) -> list[Any]:
    """The values of `key` that a proposed condition may name: none of a continuous range."""
    return list(islice(sweep.config.space[key].points or (), 100))


def _without_effect(sweep: Sweep, values: Mapping[str, Any], key: str, reason: str) -> ConfigError:
    """Which value of which swept key makes `key` inert, and the condition that mends it."""
    others = sorted((other for other in values if other != key), key=lambda other: other not in reason)
    for other in others:
        listed = _conditionable(sweep, other)
        good = [point for point in listed if _fits(sweep, {**values, other: point}, matters=key)]
        if not good:
            continue
        where = f"{other} is {_label(values[other])}"
        message = f"has no effect where {where}" + (f" ({reason})" if reason != where else "")
        if _depends(sweep, other, on=key):
            return sweep.error(key, f"{message}.\nLeave that value out of space.{other}.")
        return sweep.error(key, f"{message}.\nAdd to it: when: {{{other}: {_wanted(good)}}}")
    return sweep.error(
        key, f"has no effect: {reason}.\nChange that in the base, or sweep it and add a when:."
    )


def _depends(sweep: Sweep, key: str, on: str) -> bool:
    parents = [p for p in _conditions(sweep.config.space[key]) if p in sweep.config.space]
    return on in parents or any(_depends(sweep, parent, on) for parent in parents)


def _wanted(values: list[Any]) -> str:
    """Values as a condition in YAML."""
    return json.dumps(values[0] if len(values) == 1 and not isinstance(values[0], list) else values)


def _conditions(distribution: Distribution) -> dict[str, list[Any]]:
    """The normalised `when`: keys and all their allowed values."""
    return cast(dict[str, list[Any]], distribution.when)


def _effective(config: Config) -> dict[str, Any]:
    """Plain data of the keys that may change a result."""
    data = config.model_dump(mode="json")
    found: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Config):
            found[name] = _effective(value)
        elif has_effect(field):
            found[name] = data[name]
    return found


def _value_at(data: Mapping[str, Any], key: str) -> Any:
    value: Any = data
    for part in key.split("."):
        value = value[part]
    return value


def _under(key: str, sections: Mapping[str, Any] | Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _label(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _assigned(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {_label(value)}" for key, value in values.items())


def _reason(error: ValidationError) -> str:
    """What pydantic has to say, in one line."""
    found = []
    for problem in error.errors(include_url=False):
        message = str(problem.get("ctx", {}).get("error") or problem["msg"])
        found.append(message[:1].lower() + message[1:])
    return "; ".join(dict.fromkeys(found))
