"""Search spaces: from a YAML file to a validated, conditional space over a run's dotted config keys.

With `orchestrator.trial` the only place here that imports hjepa; the others take `Config`,
`ConfigError` and the like from this one.
"""

from hjepa.config import RunConfig
from hjepa.schema import Config, ConfigError, parse_overrides, to_yaml
from orchestrator.space.config import (
    ConfirmConfig,
    ObjectiveConfig,
    ResourcesConfig,
    SchedulerConfig,
    SearchConfig,
    SweepConfig,
    objective_mode,
)
from orchestrator.space.describe import describe
from orchestrator.space.distribution import Distribution
from orchestrator.space.load import load_sweep
from orchestrator.space.sweep import Sweep

__all__ = [
    "load_sweep",
    "Sweep",
    "SweepConfig",
    "Distribution",
    "describe",
    "ObjectiveConfig",
    "SearchConfig",
    "SchedulerConfig",
    "ResourcesConfig",
    "ConfirmConfig",
    "objective_mode",
    "Config",
    "ConfigError",
    "RunConfig",
    "parse_overrides",
    "to_yaml",
]
