"""What was found about one thing."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """What: python, torch, ray, nodes, gpu, placement, data, results, checkpoints, tracking, study, clock,
    disk, shared memory."""
    ok: bool
    said: str
    """What was found."""
    fix: str = ""
    """What mends it; empty where it is right."""
    node: str = ""
    """Address of the node of which it is said; empty: of this machine, or of the whole."""

    @property
    def line(self) -> str:
        """For a screen."""
        where = f"{self.node}: " if self.node else ""
        line = f"{'ok  ' if self.ok else 'FAIL'} {self.check}: {where}{self.said}"
        return line if self.ok else f"{line}\n     fix: {self.fix}"

    def data(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)
