"""H-JEPA: a hierarchical joint-embedding predictive architecture for images.

config, schema, legacy      what a config may say, and how old ones said it
data, views                 images, from files to batches and crops
encoder, block, predictor, pyramid, model, pretrained
                            the network
masking, losses, objective  what it learns by
run, train, step, optim, checkpoint, resume, folders, distributed
                            training
judge, evaluate, probe, features, pictures, metrics
                            what it has learnt
measure, pace, rate, memory what it takes
cli, slips, streams, catalog, advice, records, docs
                            what people see of it
lazy, temporary             imports when they are wanted, files until they are whole
"""

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
