"""Config classes, and YAML files read into them.

Any tree of `Config` classes can be loaded, overridden by dotted key, and described from here;
`hjepa.config` applies it to a run and `orchestrator.space` to a sweep.
"""

from typing import TYPE_CHECKING

from hjepa.lazy import offer
from hjepa.schema.error import ConfigError

if TYPE_CHECKING:
    from hjepa.schema.base import (
        NO_EFFECT,
        Config,
        ConfigT,
        dotted,
        has_effect,
        inert_keys,
        inert_reason,
        leaves,
        nearest_key,
        resolve_key,
        section_types,
    )
    from hjepa.schema.describe import allowed, annotated_yaml, flow_yaml, key_tables, to_yaml
    from hjepa.schema.layers import Layers, parse_overrides
    from hjepa.schema.yamlfile import MAX_FILE_BYTES, MAX_VALUES, one_line, parse_yaml, read_mapping

__all__ = [
    "MAX_FILE_BYTES",
    "MAX_VALUES",
    "NO_EFFECT",
    "Config",
    "ConfigError",
    "ConfigT",
    "Layers",
    "allowed",
    "annotated_yaml",
    "dotted",
    "flow_yaml",
    "has_effect",
    "inert_keys",
    "inert_reason",
    "key_tables",
    "leaves",
    "nearest_key",
    "one_line",
    "parse_overrides",
    "parse_yaml",
    "read_mapping",
    "resolve_key",
    "section_types",
    "to_yaml",
]

_BASE = (
    "NO_EFFECT",
    "Config",
    "ConfigT",
    "dotted",
    "has_effect",
    "inert_keys",
    "inert_reason",
    "leaves",
    "nearest_key",
    "resolve_key",
    "section_types",
)
_DESCRIBE = ("allowed", "annotated_yaml", "flow_yaml", "key_tables", "to_yaml")
_LAYERS = ("Layers", "parse_overrides")
_YAMLFILE = ("MAX_FILE_BYTES", "MAX_VALUES", "one_line", "parse_yaml", "read_mapping")

# Who only reads what a sweep has written needs the error, and not pydantic.
offer(
    __name__,
    {
        **dict.fromkeys(_BASE, "hjepa.schema.base"),
        **dict.fromkeys(_DESCRIBE, "hjepa.schema.describe"),
        **dict.fromkeys(_LAYERS, "hjepa.schema.layers"),
        **dict.fromkeys(_YAMLFILE, "hjepa.schema.yamlfile"),
    },
)
