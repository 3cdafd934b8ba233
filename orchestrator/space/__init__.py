"""Search spaces: from a YAML file to a validated, conditional space over a run's dotted config keys.

With `orchestrator.engine.trial` the only place here that imports hjepa; the others take `Config`,
`ConfigError` and the like from this one.
"""

from typing import TYPE_CHECKING

from hjepa.lazy import offer
from hjepa.schema import ConfigError

if TYPE_CHECKING:
    from hjepa.config import RunConfig
    from hjepa.memory import huge_pages, with_huge_pages
    from hjepa.schema import (
        Config,
        Layers,
        flow_yaml,
        key_tables,
        leaves,
        parse_overrides,
        read_mapping,
        to_yaml,
    )
    from hjepa.slips import Parser, meant_command
    from hjepa.streams import run_heard
    from hjepa.temporary import is_replaceable
    from orchestrator.space.config import (
        ConfirmConfig,
        ObjectiveConfig,
        ResourcesConfig,
        SchedulerConfig,
        SearchConfig,
        SweepConfig,
    )
    from orchestrator.space.describe import describe
    from orchestrator.space.distribution import Distribution
    from orchestrator.space.load import load_sweep
    from orchestrator.space.objective import objective_mode
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
    "Layers",
    "Parser",
    "RunConfig",
    "flow_yaml",
    "huge_pages",
    "is_replaceable",
    "key_tables",
    "leaves",
    "meant_command",
    "parse_overrides",
    "read_mapping",
    "run_heard",
    "to_yaml",
    "with_huge_pages",
]

_SECTIONS = (
    "ConfirmConfig",
    "ObjectiveConfig",
    "ResourcesConfig",
    "SchedulerConfig",
    "SearchConfig",
    "SweepConfig",
)
_SCHEMA = (
    "Config",
    "Layers",
    "flow_yaml",
    "key_tables",
    "leaves",
    "parse_overrides",
    "read_mapping",
    "to_yaml",
)

offer(
    __name__,
    {
        "RunConfig": "hjepa.config",
        "huge_pages": "hjepa.memory",
        "with_huge_pages": "hjepa.memory",
        "describe": "orchestrator.space.describe",
        "Distribution": "orchestrator.space.distribution",
        "load_sweep": "orchestrator.space.load",
        "objective_mode": "orchestrator.space.objective",
        "Sweep": "orchestrator.space.sweep",
        "Parser": "hjepa.slips",
        "meant_command": "hjepa.slips",
        "run_heard": "hjepa.streams",
        "is_replaceable": "hjepa.temporary",
        **dict.fromkeys(_SCHEMA, "hjepa.schema"),
        **dict.fromkeys(_SECTIONS, "orchestrator.space.config"),
    },
)
