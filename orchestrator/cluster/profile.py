"""Profiles: where clusters are, and how they are spoken to.

`~/.config/hjepa/clusters.yaml` (or below $XDG_CONFIG_HOME) holds the user's, by name; `clusters/NAME.yaml` of
the working folder one each.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.cluster.kuberay import KubeRayProfile
from orchestrator.cluster.ray import RayProfile
from orchestrator.cluster.ray_up import RayUpProfile
from orchestrator.cluster.slurm import SlurmProfile
from orchestrator.space import ConfigError, Layers, read_mapping

Profile = SlurmProfile | RayProfile | KubeRayProfile | RayUpProfile

KINDS: dict[str, type[Profile]] = {
    "slurm": SlurmProfile,
    "ray": RayProfile,
    "kuberay": KubeRayProfile,
    "ray-up": RayUpProfile,
}
"""What `type` of a profile may be."""
PROJECT = Path("clusters")


def user_file() -> Path:
    """Where the user's own profiles are."""
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(folder) / "hjepa" / "clusters.yaml"


def load_profile(name: str) -> Profile:
    """The profile of that name, or of that YAML file.

    The user's own go before the project's. Raises ConfigError, with the nearest name, where there is none,
    and on anything wrong with it.
    """
    if name.endswith((".yaml", ".yml")):
        return parse_profile(read_mapping(Path(name)), name)
    own = _own_profiles()
    if name in own:
        return parse_profile(own[name], f"{user_file()}: {name}")
    path = PROJECT / f"{name}.yaml"
    if path.is_file() and path.parent == PROJECT:
        return parse_profile(read_mapping(path), str(path))
    names = [*own, *sorted(file.stem for file in PROJECT.glob("*.yaml"))]
    where = f"neither {user_file()} nor {PROJECT}/ has it"
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    nearest = f" Nearest: {near[0]}." if near else ""
    there = f" There: {', '.join(names)}." if names else " docs/cluster.md says how to write one."
    raise ConfigError(f"--to {name}: no such profile: {where}.{nearest}{there}")


def parse_profile(data: Any, where: str) -> Profile:
    """A profile from what a file holds; `where` begins the messages of the ConfigErrors."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: must hold a map of keys to values, holds a {type(data).__name__}.")
    kind = data.get("type")
    if kind not in KINDS:
        given = (
            f": {kind!r} is not allowed: one of {', '.join(KINDS)} is"
            if "type" in data
            else ": must be given"
        )
        raise ConfigError(f"{where}: type{given}.")
    layers = Layers()
    layers.add(data, where)
    return layers.build(KINDS[kind], where)


def _own_profiles() -> Mapping[str, Any]:
    path = user_file()
    return read_mapping(path) if path.exists() else {}
