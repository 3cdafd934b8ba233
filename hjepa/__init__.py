"""H-JEPA: a hierarchical joint-embedding predictive architecture for images."""

from typing import TYPE_CHECKING

from hjepa.lazy import offer

if TYPE_CHECKING:
    from hjepa.config import RunConfig, load_config
    from hjepa.train import Report, train

__all__ = ["RunConfig", "load_config", "Report", "train"]

offer(
    __name__,
    {
        "RunConfig": "hjepa.config",
        "load_config": "hjepa.config",
        "Report": "hjepa.train",
        "train": "hjepa.train",
    },
)
