"""How many trials a cluster may run at a time, where its cores and GPUs alone do not say it."""

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from orchestrator.engine.capacity import Places
from orchestrator.space import ResourcesConfig

HEAD = "node:__internal_head__"
"""Ray's name for a cluster's first node, and for something to ask for there: it has 1."""
SHARE = 0.001
"""What a trial of one worker takes of it."""
TRAIN_SHARE, TRAINS_OWN = 0.01, 0.001
"""What a trial under Ray Train takes, and what Train takes besides for each of its runs."""


class Gate:
    """Lets as many trials begin as there are places, and more when nodes are added.

    A trial under Ray Train has workers that are placed after it has begun, so it must not begin without
    room for them. Each trial takes a small share of a resource that the head node has 1 of, and a placement
    group holds what no trial may have. What is left for Train lets one trial in ten too many begin, at most,
    until Train has taken it; such a trial waits for its workers' places. So a hundredth is large enough, and
    89 trials under Train may run at a time, 999 others.
    """

    def __init__(self, config: ResourcesConfig, places: Places):
        self._places = places
        self._share, beside = (TRAIN_SHARE, TRAINS_OWN) if config.uses_train else (SHARE, 0.0)
        self._each = self._share + beside
        self._held: PlacementGroup | None = None
        self._let_in = 0
        self.adjust()

    @property
    def share(self) -> dict[str, float]:
        """What a trial takes."""
        return {HEAD: self._share}

    def adjust(self) -> None:
        """Let in as many as there are places by now."""
        found = min(self._places.now(), int(1 / self._each) - 1)
        if found != self._let_in:
            self.open()
            # Where there are fewer places than trials that run, Ray makes this one when enough have ended.
            self._held = placement_group([{HEAD: round(1 - found * self._each, 4)}])
            self._let_in = found

    def open(self) -> None:
        """Hold nothing back."""
        if self._held is not None and ray.is_initialized():
            remove_placement_group(self._held)
        self._held = None
