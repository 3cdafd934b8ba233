"""The `logging` section of a run's config."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from hjepa.schema import NO_EFFECT, Config


class WandbConfig(Config):
    """Weights & Biases, beside the files; WANDB_MODE=offline keeps it on this machine."""

    enabled: bool = Field(default=False, json_schema_extra=NO_EFFECT)
    """Send the run there. Needs the package wandb."""
    project: str = Field(default="h-jepa", json_schema_extra=NO_EFFECT)
    """Project that the run belongs to."""
    entity: str | None = Field(default=None, json_schema_extra=NO_EFFECT)
    """User or team; null: your default one. Not to be committed."""
    tags: tuple[str, ...] = Field(default=(), json_schema_extra=NO_EFFECT)
    """Labels of the run."""

    def inert(self) -> dict[str, str]:
        if self.enabled:
            return {}
        return dict.fromkeys(("project", "entity", "tags"), "logging.wandb.enabled is false")


class TensorboardConfig(Config):
    """TensorBoard, beside the files."""

    enabled: bool = Field(default=False, json_schema_extra=NO_EFFECT)
    """Write scalars to tensorboard/ in the folder of the records. Needs the package tensorboardX."""


class MlflowConfig(Config):
    """MLflow, beside the files; a sweep has a record of its own there."""

    enabled: bool = Field(default=False, json_schema_extra=NO_EFFECT)
    """Send the run there. Needs the package mlflow."""
    tracking_uri: str = Field(
        default="sqlite:///results/mlflow.db",
        pattern=r"^(https?|sqlite|postgresql|mysql|mssql)(\+\w+)?://",
        json_schema_extra=NO_EFFECT,
    )
    """The store: http(s)://HOST, sqlite:///PATH or another database's URL, without a password."""
    experiment: str = Field(default="h-jepa", min_length=1, json_schema_extra=NO_EFFECT)
    """Experiment that the run belongs to; made where it is not there."""

    @field_validator("tracking_uri")
    @classmethod
    def _holds_no_password(cls, uri: str) -> str:
        # Configs are recorded, and shown to whoever may see the run.
        if urlsplit(uri).password:
            raise ValueError(
                "a config is no place for a password; a server's goes into the environment as "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, a database's into a server before it"
            )
        return uri

    def inert(self) -> dict[str, str]:
        if self.enabled:
            return {}
        return dict.fromkeys(("tracking_uri", "experiment"), "logging.mlflow.enabled is false")


class LoggingConfig(Config):
    """What `hjepa-train` writes down, and where; a sweep keeps its own records."""

    experiment_name: str = Field(
        default="hjepa", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", json_schema_extra=NO_EFFECT
    )
    """Name of the run; letters, digits, dot, dash and underscore."""
    description: str | None = Field(default=None, json_schema_extra=NO_EFFECT)
    """What the run is for, in words; stands beside its name in every record."""
    log_dir: str | None = Field(default=None, json_schema_extra=NO_EFFECT)
    """Folder of the records; null: results/runs/<experiment_name>."""
    log_frequency: int = Field(default=50, ge=1, json_schema_extra=NO_EFFECT)
    """Steps between looks at the loss, each of which waits for the device; a loss that is not
    finite ends the run there."""
    log_gradients: bool = Field(default=False, json_schema_extra=NO_EFFECT)
    """Record the norm of the gradient of each part of the model, before clipping, as gradients/<part>."""
    log_attention: bool = Field(default=False, json_schema_extra=NO_EFFECT)
    """Draw, at every evaluation, how much attention each patch of a few evaluation images receives in the
    encoder's last block: pictures/attention_<epoch>.png in the folder of the records."""
    log_images: bool = Field(default=False, json_schema_extra=NO_EFFECT)
    """Draw a few images with their context and target patches at every evaluation, as
    pictures/masks_<epoch>.png, and a sheet of augmented views at the start."""
    log_dataset_distribution: bool = Field(default=True, json_schema_extra=NO_EFFECT)
    """Record with each epoch how many images of each of data.datasets were drawn, as data/<name>_images."""

    wandb: WandbConfig = WandbConfig()
    tensorboard: TensorboardConfig = TensorboardConfig()
    mlflow: MlflowConfig = MlflowConfig()

    @property
    def folder(self) -> Path:
        """Folder of the records."""
        return Path(os.path.expanduser(self.log_dir or f"results/runs/{self.experiment_name}"))
