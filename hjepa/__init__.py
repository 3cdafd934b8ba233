"""H-JEPA: a hierarchical joint-embedding predictive architecture for images."""

from hjepa.config import RunConfig, load_config
from hjepa.train import Report, train

__all__ = ["RunConfig", "load_config", "Report", "train"]
