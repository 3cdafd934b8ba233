"""The best trial's features as a model of MLflow's own kind, for whoever loads or serves it."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import mlflow.pyfunc
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from orchestrator.process.environment import needed
from orchestrator.process.state import OwnFolder

MODEL = "features"
"""Its name in MLflow."""


def log_feature_model(
    client: MlflowClient, experiment_id: str, run_id: str, example: Path, step: int
) -> None:
    """Log the features function in the folder of `example` as a model of the run, unless it is there.

    `example` holds images and what the function makes of them. What an attempt that broke off has left is
    removed. The core's code goes along, so that the model loads where this project is not installed.
    """
    mine = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    if any(model.status == LoggedModelStatus.READY and model.name == MODEL for model in mine):
        return
    for left in mine:
        client.delete_logged_model(left.model_id)
    model = client.create_logged_model(experiment_id, MODEL, run_id, model_type="features")
    with OwnFolder("s") as scratch:
        packed = scratch / "model"
        _pack(example, packed, Model(run_id=run_id, model_id=model.model_id))
        client.log_model_artifacts(model.model_id, str(packed))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])


def _pack(example: Path, packed: Path, model: Model) -> None:
    with np.load(example, allow_pickle=False) as told:
        images_NCHW, features_ND = told["images"], told["features"]
    core = find_spec("hjepa")
    assert core is not None
    assert core.submodule_search_locations
    mlflow.pyfunc.save_model(
        str(packed),
        loader_module="hjepa.features",
        data_path=str(example.parent),
        code_paths=list(core.submodule_search_locations),
        mlflow_model=model,
        signature=ModelSignature(
            inputs=Schema([TensorSpec(images_NCHW.dtype, (-1, images_NCHW.shape[1], -1, -1))]),
            outputs=Schema([TensorSpec(features_ND.dtype, (-1, features_ND.shape[1]))]),
        ),
        input_example=images_NCHW,
        pip_requirements=core_requirements(),
    )


def core_requirements() -> list[str]:
    """What the core needs, in the versions that it ran with here."""
    try:
        names = [requirement.name for requirement in needed()]
    except PackageNotFoundError:
        return []
    return [f"{name}=={version(name)}" for name in names]
