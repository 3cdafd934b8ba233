"""What a dead trial's error text says in one line, and whether memory was the cause."""

import re
from dataclasses import dataclass
from typing import Self

_GPU_MEMORY = re.compile(r"(?:OutOfMemoryError: )?(?:CUDA|HIP|MPS backend) out of memory[^\n]*")
_HOST_MEMORY = re.compile(
    r"[^\n]*(?:MemoryError|can't allocate memory|not enough memory: you tried to allocate|"
    r"Cannot allocate memory|node running low on memory|worker died due to OOM)[^\n]*"
)

# Ray's own words of an actor that went with its node; a trial's own error may speak of nodes too.
_NODE = re.compile(
    r"The actor is dead because its node has died|^\s*the actor's node was (?:terminated|drained|preempted)|"
    r"^ray\.exceptions\.NodeDiedError|"
    r"^(?:ray\.exceptions\.ActorUnavailableError: )?The actor \w+ is unavailable: ",
    re.M,
)
_CONFIG = re.compile(r"^(?:\w+\.)*ConfigError: (.*)\Z", re.M | re.S)
"""What is wrong with the config or its data, and in further lines how to mend it."""
_DEATH = "The actor is dead because"  # Ray goes on with guesses


def in_one_line(problem: str) -> str:
    """What is wrong with a config and how to mend it, as a trial's reason."""
    return " ".join(problem.split())[:600].rstrip(".")


@dataclass(frozen=True)
class Failure:
    """Why a trial's process ended."""

    reason: str
    """One line."""
    gpu_memory: bool = False
    """Whether its device had no memory left, which half the micro-batch may mend."""

    node_lost: bool = False
    """Whether its node went, which says nothing about the trial."""
    by_config: bool = False
    """Whether its config or data are wrong, as they will be next time on the same machine."""

    @classmethod
    def of(cls, error: str) -> Self:
        """From the text of its error."""
        if found := _GPU_MEMORY.search(error):
            return cls(f"out of memory: {found[0][:300]}", gpu_memory=True)
        if found := _HOST_MEMORY.search(error):
            return cls(f"out of memory: {found[0].strip()[:300]}")
        if _NODE.search(error):
            return cls("its node was lost", node_lost=True)
        if found := _CONFIG.search(error):
            return cls(in_one_line(found[1]), by_config=True)
        last = (error.strip().splitlines() or [_DEATH])[-1]
        return cls("its process died" if last.startswith(_DEATH) else last[:300])
