"""Files of the old shapes, converted and trained for an epoch at reduced width."""

import json
import math
from pathlib import Path

import pytest

from hjepa.cli import main
from tests.hjepa.data.formats import write_cifar10, write_stl10
from tests.hjepa.test_configs_run import SMALL

OF_THE_FIRST_KIND = """
model:
  encoder_type: "vit_small_patch16_224"
  embed_dim: 384
  num_hierarchies: 2
  predictor: {depth: 4, num_heads: 6, mlp_ratio: 4.0}
  ema: {momentum: 0.996, momentum_end: 1.0, momentum_warmup_epochs: 1}
  rope: {use_rope: false, theta: 10000.0}
  fpn: {use_fpn: true, feature_dim: 16, fusion_method: "concat"}
data:
  dataset: "cifar10"
  data_path: "./data/cifar10"
  image_size: 224
  augmentation: {color_jitter: 0.4, horizontal_flip: true, random_crop: true}
training: {epochs: 5, min_lr: 1.0e-6, clip_grad: 3.0, use_amp: true, lr: 1.5e-4, optimizer: "adamw"}
loss: {type: "mse", hierarchy_weights: [1.0, 0.5], normalize_embeddings: false, vicreg_weight: 0.1}
checkpoint: {save_frequency: 2, keep_best_n: 2, checkpoint_dir: "results/checkpoints", resume: null}
logging:
  experiment_name: "first"
  wandb: {enabled: false, project: "h-jepa", entity: null, tags: ["a"]}
  tensorboard: {enabled: true}
evaluation: {eval_frequency: 1, linear_probe: {enabled: false, dataset: "cifar10"}}
distributed: {enabled: false, backend: "nccl", world_size: 1}
"""
OF_THE_SECOND_KIND = """
experiment: {name: second, seed: 3, output_dir: results/second, save_frequency: 5, eval_frequency: 1}
model:
  encoder_type: vit_small_patch16_224
  num_hierarchies: 3
  target_encoder: {ema_decay: 0.996, ema_end_decay: 1.0, ema_anneal_end_step: 300000}
  use_layerscale: true
  layerscale_init: 1e-5
  use_rope: true
  rope_theta: 10000.0
data:
  use_multi_dataset: true
  datasets:
  - {name: cifar10, weight: 0.5, path: ./data/cifar10}
  - {name: stl10, weight: 0.5, path: ./data/stl10}
  sampling_strategy: weighted
  batch_size: 32
  image_size: 224
  transforms: {crop_scale: [0.8, 1.0], horizontal_flip: true, color_jitter: 0.1}
training: {epochs: 3, min_lr_ratio: 0.01, warmup_lr_ratio: 0.001, optimizer: adamw}
masking: {num_target_masks: 4, mask_scale: [0.15, 0.2]}
loss:
  type: cjepa
  jepa_loss_type: smoothl1
  jepa_weight: 1.0
  use_contrastive: true
  contrastive_weight: 0.1
  contrastive_on_context: false
  use_cosine_similarity: true
  hierarchy_weights: [1.0, 0.7, 0.5]
logging: {use_wandb: false, use_tensorboard: true, log_images: true, log_attention: true, log_gradients: true}
evaluation: {knn: {enabled: true, k_values: [1, 5, 20], frequency: 1}}
checkpoint: {save_best: true, metric: val_loss, mode: min, keep_last_k: 3}
"""
OF_THE_THIRD_KIND = """
model: {encoder_type: vit_small_patch16_224, depth: 12, num_hierarchies: 1}
loss:
  type: 'sigreg'
  hierarchy_weights: [1.0]
  sigreg_num_slices: 64
  sigreg_num_test_points: 17
  sigreg_invariance_weight: 25.0
  sigreg_weight: 25.0
  sigreg_fixed_slices: false
  flatten_patches: true
  eps: 1.0e-6
data:
  dataset: cifar10
  data_path: ./data/cifar10
  image_size: 224
  augmentation: {color_jitter: 0.4, random_gray_scale: 0.2, gaussian_blur: 0.5, horizontal_flip: 0.5}
masking: {min_keep: 4, max_keep: 9, scale_range: [0.1, 0.2], aspect_ratio_range: [0.75, 1.5], num_targets: 2}
training:
  optimizer: {type: "adamw", lr: "1.5e-4", weight_decay: 0.05, betas: [0.9, 0.95]}
  scheduler: {type: "cosine", min_lr: 1.0e-6, warmup_type: "linear"}
  mixed_precision: true
  gradient_clip: 1.0
  checkpoint_freq: 10
  keep_last_n: 3
logging: {wandb: false, log_freq: 100, eval_freq: 1, metrics: ["sigreg_loss"]}
---
# loss: {type: hybrid}
"""


@pytest.mark.parametrize(
    "text", [OF_THE_FIRST_KIND, OF_THE_SECOND_KIND, OF_THE_THIRD_KIND], ids=["first", "second", "third"]
)
def test_an_old_file_is_converted_and_trains(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    write_cifar10(Path("data/cifar10"))
    write_stl10(Path("data/stl10"))
    Path("old.yaml").write_text(text)
    assert main(["migrate", "old.yaml", "-o", "new.yaml"]) == 0, capsys.readouterr().err
    words = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    status = main(["new.yaml", *words, "--set", "logging.log_dir=records"])
    out, err = capsys.readouterr()
    assert status == 0, out + err
    (record,) = [json.loads(line) for line in Path("records/metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(value) for value in record.values() if isinstance(value, float))
