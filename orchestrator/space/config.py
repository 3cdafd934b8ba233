"""The sections of a search space file."""

import difflib
import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from hjepa.metrics import METRIC_MODES, metric_mode
from hjepa.schema import (
    NO_EFFECT,
    Config,
)
from orchestrator.space.distribution import Distribution

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _seconds(value: Any) -> Any:
    """`1h30m` as seconds; what is no text stays as it is."""
    if not isinstance(value, str):
        return value
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", value)
    if not parts or re.sub(r"\s", "", value) != "".join(number + unit for number, unit in parts):
        raise ValueError(f"{value} is no time; write seconds, or a text such as 90m, 2h, 1h30m or 1d")
    return float(sum(float(number) * _UNITS_S[unit] for number, unit in parts))


Seconds = Annotated[float, BeforeValidator(_seconds)]


_URL_OPTIONS = (
    "endpoint_override", "region", "scheme", "project_id", "user", "replication", "tenant_id", "enable_tls",
    "blob_storage_authority", "dfs_storage_authority", "blob_storage_scheme", "dfs_storage_scheme",
)  # fmt: skip
"""What may follow the ? of a store's URL: all else may be a secret, or does not belong to where it is."""


def _require_plain_url(url: str) -> None:
    """ValueError, which does not repeat it, where a store's URL is none, or holds what may be a secret."""
    parts = urlsplit(url)
    if not re.match(r"[a-z][a-z0-9+.-]*://", url) or not (parts.netloc or parts.path.strip("/")):
        raise ValueError("is no URL of a folder; write such as s3://bucket/folder or file:///shared/folder")
    if parts.password is not None or (parts.scheme == "s3" and parts.username is not None):
        raise ValueError(
            "a file is no place for a password; credentials go into the environment, such as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    for option, _ in parse_qsl(parts.query, keep_blank_values=True):
        if option not in _URL_OPTIONS:
            near = difflib.get_close_matches(option, _URL_OPTIONS, n=1)
            nearest = f"; nearest: {near[0]}" if near else ""
            raise ValueError(f"?{option} is not allowed{nearest}; allowed: {', '.join(_URL_OPTIONS)}")


class ObjectiveConfig(Config):
    """What makes a trial better than another."""

    metric: str = "val/knn_top1"
    """Metric of a run's reports that is compared between trials."""
    mode: Literal["max", "min"] | None = None
    """Whether more or less of it is better; null: as the metric has it."""
    beside: tuple[str, ...] = ()
    """Further metrics, each better the way it is: the search looks for the trials that no other one beats in
    all. Trials are stopped, ranked and confirmed by the first."""

    @field_validator("beside")
    @classmethod
    def _are_reported(cls, beside: tuple[str, ...]) -> tuple[str, ...]:
        for metric in beside:
            _require_reported(metric)
        return beside

    @field_validator("metric")
    @classmethod
    def _is_reported(cls, metric: str) -> str:
        _require_reported(metric)
        if metric.startswith("time/"):
            raise ValueError(
                "it says how fast a trial is, not what it learns; the smallest model would win. It may stand "
                "beside a first objective"
            )
        return metric

    @model_validator(mode="after")
    def _looks_for_the_best(self) -> Self:
        if self.mode not in (None, metric_mode(self.metric)):
            raise ValueError(
                f"mode {self.mode} would look for the worst trial by {self.metric}; leave mode out"
            )
        twice = next((name for name in self.metrics if self.metrics.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is named twice; each objective once")
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without an empty `beside`, so that a single objective is written, and fingerprinted, as ever."""
        return {name: value for name, value in handler(self).items() if name != "beside" or value}

    @property
    def metrics(self) -> tuple[str, ...]:
        """All of them, the one that decides first."""
        return (self.metric, *self.beside)


def _require_reported(metric: str) -> None:
    if metric_mode(metric) is None:
        near = difflib.get_close_matches(metric, METRIC_MODES, n=1, cutoff=0.3)
        hint = f"nearest: {near[0]}; " if near else ""
        raise ValueError(
            f"no run reports {metric}; {hint}one of {', '.join(METRIC_MODES)}, val/knn_top1_k<n>"
        )


class SearchConfig(Config):
    """How values are proposed."""

    algorithm: Literal["gp", "tpe", "random", "grid", "nsga2"] = "gp"
    """gp learns what keys do and what early values tell, by Gaussian processes, for one objective; tpe,
    Optuna's, learns where good trials lie, and stands for gp where there are several objectives and nothing
    else is written; both draw a third of their trials at random; random does not learn; grid takes every
    combination once; nsga2, for several objectives, crosses and mutates completed trials that no other one
    beats."""
    # More trials extend a sweep; they do not make it another one.
    num_trials: int | None = Field(default=None, ge=1, json_schema_extra=NO_EFFECT)
    """Trials in all; with grid an upper limit, and null: every combination."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the proposals; that of a trial is the base's."""
    time_budget: Seconds | None = Field(default=None, gt=0, json_schema_extra=NO_EFFECT)
    """Time that the sweep may run, in seconds or as text such as 90m, 2h or 1d; what `confirm` will take is
    kept back from the search. null: no limit."""
    cost_budget: float | None = Field(default=None, gt=0, json_schema_extra=NO_EFFECT)
    """Worker-hours that it may cost, likewise. null: no limit."""
    warm_start: tuple[str, ...] = ()
    """Names of earlier sweeps of the results folder, by the same objective, whose trials gp or tpe learn
    from as far as they lie in this space."""

    @property
    def learns(self) -> bool:
        """Whether each proposal follows from a model of all trials so far."""
        return self.algorithm in ("gp", "tpe")

    @model_validator(mode="after")
    def _learns_from_earlier_ones(self) -> Self:
        if self.warm_start and not self.learns:
            raise ValueError(f"warm_start is for gp or tpe; {self.algorithm} learns nothing from it")
        if len(set(self.warm_start)) < len(self.warm_start):
            raise ValueError("warm_start names a sweep twice")
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without an empty warm_start, so that a search that has none is fingerprinted as ever."""
        return {name: value for name, value in handler(self).items() if name != "warm_start" or value}

    def inert(self) -> dict[str, str]:
        return {"seed": "search.algorithm is grid"} if self.algorithm == "grid" else {}


class SchedulerConfig(Config):
    """How long trials run."""

    type: Literal["asha", "asha_stopping", "pasha", "fifo"] = "asha"
    """asha lets weak trials wait at a rung and takes up again those that turn out to be among the best;
    asha_stopping ends them there for good; pasha is asha that lets none go on past a rung before those that
    are there stand in another order than at the rung before, but for the best one in the end; fifo runs each
    to the end."""
    max_epochs: int | None = Field(default=None, ge=1)
    """Epochs of a full trial; null: the base's training.epochs. Schedules span these epochs."""
    grace_epochs: int = Field(default=1, ge=1)
    """Epochs before a trial may be stopped, at most max_epochs."""
    reduction_factor: int = Field(default=3, ge=2)
    """Of so many trials at a rung one goes on, and rungs are this factor apart."""
    brackets: int | None = Field(default=None, ge=1)
    """Groups of trials, drawn by number, that differ in the first rung at which they may be stopped, as in
    Hyperband: most at the first, each further group a rung later. They find what starts slowly; 1: all at the
    first. null: as many as there are rungs."""
    audit: float = Field(default=0.05, ge=0, le=1)
    """Share of trials, drawn by number, that run to the end however weak they are: without them nothing
    would tell whether early rungs predict the end."""

    @model_validator(mode="after")
    def _grace_within_epochs(self) -> Self:
        if self.type != "fifo" and self.max_epochs is not None and self.grace_epochs > self.max_epochs:
            raise ValueError(f"grace_epochs {self.grace_epochs} is more than max_epochs {self.max_epochs}")
        return self

    def inert(self) -> dict[str, str]:
        if self.type == "pasha":
            return {"brackets": "scheduler.type is pasha"}
        if self.type != "fifo":
            return {}
        keys = ("grace_epochs", "reduction_factor", "brackets", "audit")
        return dict.fromkeys(keys, "scheduler.type is fifo")


MOST_PACKED, RAY_PARTS = 64, 10_000
"""Trials that may share a GPU; parts of one that Ray tells apart."""


class ResourcesConfig(Config):
    """What trials run on."""

    workers: int = Field(default=1, ge=1)
    """Processes that share each trial's steps; `data.batch_size` is what all of them learn from at a time."""
    cpus_per_worker: int = Field(default=1, ge=1, le=1024, json_schema_extra=NO_EFFECT)
    """CPU cores reserved for a worker; a trial's `threads`, whatever the base says."""
    gpus_per_worker: float = Field(default=0, ge=0, le=1, json_schema_extra=NO_EFFECT)
    """GPUs reserved for a worker; a fraction shares one between trials."""
    pack: Annotated[int, Field(ge=1, le=MOST_PACKED)] | Literal["auto"] | None = Field(
        default=None, json_schema_extra=NO_EFFECT
    )
    """Trials that share each GPU, each a process with as large a part of its memory. auto: as many as raise
    the images/s of all together, measured with the base before the first trial; where trials run on the CPU,
    the threads of each (`cpus_per_worker`) are found likewise, once for the sweep. null: as gpus_per_worker
    has it."""
    concurrency: int | None = Field(default=None, ge=1, json_schema_extra=NO_EFFECT)
    """Trials at a time; null: as many as fit."""
    engine: Literal["auto", "actor", "train"] = Field(default="auto", json_schema_extra=NO_EFFECT)
    """How a trial is run; actor: in a warm process that goes on to the next trial; train: by a warm group
    of Ray Train's workers. auto takes actor for one worker, train for several."""
    checkpoints: str | None = Field(default=None, json_schema_extra=NO_EFFECT)
    """URL of a folder that every node reaches, such as s3://bucket/folder or file:///shared/folder: trials
    keep their checkpoints there, and the sweep its answer. Credentials are the environment's; null: the
    results folder, which all nodes have to see."""
    max_failures: int = Field(default=2, ge=0, json_schema_extra=NO_EFFECT)
    """Times that a trial is started again after a crash, counted anew when the sweep goes on."""
    trial_timeout: float = Field(default=21_600, gt=0, json_schema_extra=NO_EFFECT)
    """Seconds without a report after which a trial's process counts as hung and is killed, as a crash."""

    @field_validator("checkpoints")
    @classmethod
    def _is_a_url_without_secrets(cls, url: str | None) -> str | None:
        if url is not None:
            _require_plain_url(url)
        return url

    @model_validator(mode="after")
    def _engine_has_the_workers(self) -> Self:
        if self.engine == "actor" and self.workers > 1:
            raise ValueError(
                f"engine actor runs a trial in one process, and workers is {self.workers}; "
                "allowed: engine auto or train, or workers 1"
            )
        return self

    @model_validator(mode="after")
    def _packs_what_can_share(self) -> Self:
        if self.pack is not None and self.workers > 1:
            raise ValueError(
                f"pack {self.pack} lets trials of one process share a GPU, and workers is {self.workers}; "
                "allowed: workers 1, or no pack"
            )
        if self.pack is not None and 0 < self.gpus_per_worker < 1:
            raise ValueError(
                f"pack {self.pack} and gpus_per_worker {self.gpus_per_worker:g} both say how many trials "
                "share a GPU; leave one of the two out"
            )
        return self

    @property
    def gpus(self) -> float:
        """GPUs that a worker takes: by `pack` where that is a number, else `gpus_per_worker`."""
        # Ray counts in ten-thousandths; rounded up, the last of a GPU's trials would find no place.
        return RAY_PARTS // self.pack / RAY_PARTS if isinstance(self.pack, int) else self.gpus_per_worker

    @property
    def uses_train(self) -> bool:
        """Whether trials run under Ray Train."""
        return self.engine == "train" or self.workers > 1

    @property
    def backend(self) -> Literal["gloo", "nccl"]:
        """How a trial's workers talk: nccl needs a whole GPU for each."""
        return "nccl" if self.gpus == 1 else "gloo"


class ConfirmConfig(Config):
    """What is run again with fresh seeds, since a search's best was chosen for being the best."""

    top_k: int = Field(default=0, ge=0, le=1000, json_schema_extra=NO_EFFECT)
    """Best configs of the search that are run again, beside the base; 0: none, nor the base."""
    seeds: int = Field(default=3, ge=2, le=1000, json_schema_extra=NO_EFFECT)
    """Runs of each, to the last epoch; the same seeds for each, so that they can be paired."""

    def inert(self) -> dict[str, str]:
        return {} if self.top_k else {"seeds": "confirm.top_k is 0"}


class SweepConfig(Config):
    """A search space file."""

    name: str = Field(pattern=r"^[a-z0-9A-Z][A-Za-z0-9._-]{0,63}$")
    """Name of the sweep and of its results folder; by default the file's."""
    base: str = Field(json_schema_extra=NO_EFFECT)
    """Config file of a run that every trial starts from, relative to this file."""
    objective: ObjectiveConfig = ObjectiveConfig()
    space: dict[str, Distribution] = Field(min_length=1)
    """Dotted config keys and how each varies."""
    derived: dict[str, str] = Field(default={})
    """Dotted config keys that are not swept, and the expression over others that each follows."""
    constraints: tuple[str, ...] = ()
    """Expressions over config keys that hold for every trial but the base's."""
    design: Literal["sampled", "factorial", "one_at_a_time"] | None = None
    """sampled: search.algorithm proposes; factorial: every combination; one_at_a_time: the base with one key
    changed at a time. null: factorial with search.algorithm grid, else sampled."""
    search: SearchConfig = SearchConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    resources: ResourcesConfig = ResourcesConfig()
    confirm: ConfirmConfig = ConfirmConfig()

    @model_validator(mode="after")
    def _algorithm_suits_the_objective(self) -> Self:
        if self.search.algorithm == "nsga2" and not self.objective.beside:
            raise ValueError(
                "search.algorithm nsga2 is for several objectives; name others under objective.beside, or "
                "write gp"
            )
        if self.search.algorithm == "gp" and self.objective.beside:
            raise ValueError("search.algorithm gp is for one objective; write tpe or nsga2 for several")
        if self.search.warm_start and self.objective.beside:
            raise ValueError("search.warm_start is for one objective; leave it or objective.beside out")
        return self

    @model_validator(mode="after")
    def _design_has_its_algorithm(self) -> Self:
        lists = self.design in ("factorial", "one_at_a_time")
        if self.design is not None and lists != (self.search.algorithm == "grid"):
            does = "lists its trials" if lists else "has them proposed"
            wants = "grid" if lists else "gp, tpe, random or nsga2"
            raise ValueError(
                f"design {self.design} {does}, and search.algorithm is {self.search.algorithm}; "
                f"write {wants}, or leave one of the two out"
            )
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without empty rules, so that a space which has none is written, and fingerprinted, as ever."""
        optional = ("derived", "constraints", "design")
        return {name: value for name, value in handler(self).items() if name not in optional or value}
