"""What was found about one thing."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.space import ConfigError


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """What: python, torch, packing, ray, nodes, gpu, placement, data, results, checkpoints, tracking, study,
    clock, disk, shared memory."""
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


def look(check: str, at: Callable[[], str], fix: str) -> Finding:
    """A finding of what `at` says, or refuses as a ConfigError."""
    try:
        return Finding(check, True, at().strip())
    except ConfigError as error:
        return Finding(check, False, str(error).rstrip("."), fix)


def as_json(findings: Sequence[Finding]) -> str:
    """All of them as one JSON object."""
    good = all(finding.ok for finding in findings)
    return json.dumps({"ok": good, "findings": [one.data() for one in findings]}, indent=1)


def in_all(findings: Sequence[Finding]) -> str:
    """How many there are, and how many to mend."""
    wrong = sum(not finding.ok for finding in findings)
    return f"{len(findings)} looked at, {f'{wrong} to mend' if wrong else 'all right'}"
