"""Sending a sweep to a cluster of whatever kind, and stopping it there."""

from pathlib import Path

from orchestrator.cluster import slurm
from orchestrator.cluster.base import Submission
from orchestrator.cluster.profile import Profile


def send(profile: Profile, submission: Submission, results: Path, dry_run: bool) -> str:
    """Send it, or with `dry_run` only tell what would be sent; what there is to say. Raises ConfigError."""
    if dry_run:
        return slurm.script_of(profile, submission, results).rstrip("\n")
    return slurm.submit(profile, submission, results)


def stop(profile: Profile, name: str) -> str:
    """Ask the sweep `name` there to stop in order; what there is to say. Raises ConfigError."""
    del profile  # of SLURM, the only kind, which its own commands find
    return slurm.stop(name)
