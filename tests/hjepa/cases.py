"""Runs that give the same numbers whoever takes their images: processes or threads, of any number."""

from typing import Any

import pytest
import torch

from hjepa import RunConfig

# Two steps an epoch. SGD, for Adam makes large steps of small gradients, and so of their rounding.
SHARED: dict[str, Any] = {
    "data.batch_size": 240,
    "training.epochs": 2,
    "training.optimizer": "sgd",
    "training.lr": 0.1,
    "training.clip_grad": None,
    "model.ema.momentum": 0.5,
    "model.ema.momentum_end": 0.9,
    "data.augmentation.horizontal_flip": True,
    "data.augmentation.color_jitter": 0.2,
    "evaluation.val_loss": True,  # of batches of 240, 240 and 239
}
SIGREG = {"loss.use_sigreg": True, "loss.sigreg.weight": 0.01, "loss.sigreg.num_slices": 16}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "adamw": {"training.optimizer": "adamw", "training.lr": 0.001},
    "accumulation": {"training.accumulation_steps": 2, "data.batch_size": 120},
    "clipped": {"training.clip_grad": 0.01},
    "fpn": {"model.fpn.use_fpn": True, "model.fpn.fusion_method": "concat"},
    "vicreg": {"loss.use_vicreg": True, "loss.vicreg.weight": 1.0},
    "sigreg": SIGREG,
    "ntxent": {"loss.use_ntxent": True, "loss.ntxent.weight": 1.0},
    "everything": {
        **SIGREG,
        "loss.use_vicreg": True,
        "loss.use_ntxent": True,
        "training.accumulation_steps": 2,
        "data.batch_size": 120,
        "training.use_gradient_checkpointing": True,
        "evaluation.linear_probe.enabled": True,
        "evaluation.linear_probe.epochs": 2,
        "evaluation.lidar.enabled": True,
        "evaluation.lidar.num_views": 2,
    },
    "own target": {
        **SIGREG,
        "model.use_target_encoder": False,
        "loss.sigreg.flatten_patches": True,
        "loss.prediction_weight": 0.5,
    },
    "patches": {
        "loss.use_vicreg": True,
        "loss.vicreg.flatten_patches": True,
        "loss.use_ntxent": True,
        "loss.ntxent.on_context": False,
        "model.predictor.mode": "per_block",
    },
    "nothing predicted": {**SIGREG, "loss.prediction_weight": 0.0},
    "crops": {
        "data.use_multicrop": True,
        "data.multicrop.num_local_crops": 3,
        "data.multicrop.local_color_jitter": 0.3,
        "masking.strategy": "global_with_local_context",
        "loss.use_sigreg": True,
        "loss.sigreg.flatten_patches": True,
        "training.accumulation_steps": 2,
        "data.batch_size": 120,
    },
    "crops, no regularizer": {
        "data.use_multicrop": True,
        "masking.strategy": "cross_crop_prediction",
    },
    "collapsed": {"evaluation.collapse.min_rank": 100.0},
}


def case(config: RunConfig, **more: Any) -> dict[str, Any]:
    return {"config": config.model_dump(mode="json"), **more}


def assert_close(found: dict[str, Any], expected: dict[str, Any], atol: float = 5e-6) -> None:
    """The same run up to rounding; k-NN and the probe, which count images, up to two of them."""
    assert found["ended"] == expected["ended"]
    assert found["weights"].keys() == expected["weights"].keys()
    for name, value in expected["weights"].items():
        difference_D = (found["weights"][name] - value).abs()
        if name.endswith("qkv.bias"):
            # A key's bias gets no gradient but rounding, and Adam makes whole steps of that.
            queries_D, _, values_D = difference_D.chunk(3)
            difference_D = torch.cat([queries_D, values_D])
        difference = difference_D.max().item()
        assert difference <= atol, f"{name} differs by {difference}"
    assert len(found["reports"]) == len(expected["reports"])
    for ours, theirs in zip(found["reports"], expected["reports"], strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            if name == "collapsed":
                assert (ours[name] == "None") == (value == "None")
            elif "top1" in name:
                assert ours[name] == pytest.approx(value, abs=2.01 / 719), name
            else:
                assert ours[name] == pytest.approx(value, rel=1e-3), name
