"""A validated sweep: its space, and which trials it runs of it."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from hjepa.schema import to_yaml
from orchestrator.space.design import count_distinct, distinct, one_at_a_time
from orchestrator.space.distribution import COUNTABLE
from orchestrator.space.objective import objective_mode
from orchestrator.space.space import Space, effective

MAX_GRID = 100_000
"""Trials of a grid without search.num_trials."""


@dataclass(frozen=True)
class Sweep(Space):
    """A validated sweep. Every null and default of its file is resolved."""

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every combination of values once, in a stable order, without the keys that are not active.

        Those that break a constraint are left out. Raises ConfigError where a key has no list of values.
        """
        points: dict[str, Sequence[Any]] = {}
        for key, distribution in self.config.space.items():
            if distribution.kind not in COUNTABLE or distribution.points is None:
                allowed = f"a grid needs one of {', '.join(COUNTABLE)}"
                raise self.error(key, f"{distribution.kind} has no list of values; {allowed}.")
            points[key] = distribution.points
        return filter(self.allows, self.combinations(points))

    @property
    def listed(self) -> list[dict[str, Any]] | None:
        """The trials of a design that lists them, each a run of its own and none the base's."""
        return None if self.listed_runs is None else list(self.listed_runs.values())

    @cached_property
    def listed_runs(self) -> dict[str, dict[str, Any]] | None:
        """The same by the identity of their runs."""
        search = self.config.search
        if search.algorithm != "grid":
            return None
        alone = self.config.design == "one_at_a_time"
        every = distinct(self, one_at_a_time(self) if alone else self.grid())
        return dict(islice(every, search.num_trials or MAX_GRID))

    @cached_property
    def num_trials(self) -> int:
        """Trials of the search: search.num_trials, or as many different ones as there are beside the base."""
        if self.listed_runs is not None:
            return len(self.listed_runs)
        limit = self.config.search.num_trials
        assert limit is not None
        count = count_distinct(self, limit)
        return limit if count is None else count

    @property
    def num_confirmations(self) -> int:
        """Runs with fresh seeds after the search, the base's included."""
        confirm = self.config.confirm
        return (confirm.top_k + 1) * confirm.seeds if confirm.top_k else 0

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
        epoch = settings.grace_epochs if settings.type != "fifo" else self.max_epochs
        while epoch < self.max_epochs:
            found.append(epoch)
            epoch *= settings.reduction_factor
        return found

    @property
    def looks(self) -> list[int]:
        """Epochs at which trials are compared: the rungs and the end."""
        return [*self.rungs, self.max_epochs]

    def definition(self) -> dict[str, Any]:
        """All that defines the sweep, JSON-serialisable."""
        return {"sweep": self.config.model_dump(mode="json"), "base": self.base_data}

    def fingerprint(self) -> str:
        """SHA-256 of the name and all that may change a trial's result.

        Not of speed and place, nor of the number of trials: a sweep may be extended.
        """
        telling = {"sweep": effective(self.config), "base": effective(self.base)}
        return hashlib.sha256(json.dumps(telling, sort_keys=True).encode()).hexdigest()

    def to_yaml(self) -> str:
        """The resolved file, every key written out.

        Its base is `base.yaml` beside it: `to_yaml(sweep.base)` there makes it the same sweep again.
        """
        return to_yaml(self.config.model_copy(update={"base": "base.yaml"}))
