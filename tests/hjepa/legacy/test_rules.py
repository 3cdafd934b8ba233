"""Every key that the old configs held has a rule, and every rule leads to a key that there is."""

from pathlib import Path

import pytest

from hjepa.catalog import ROOT
from hjepa.config import RunConfig
from hjepa.data.config import OneOfSeveral
from hjepa.legacy.rules import RENAMED, SPECIAL, UNREAD, old_names
from hjepa.schema import leaves

KEYS = dict(leaves(RunConfig))

# By the audit of the predecessor's configs; `[]` is an item of a list.
OLD_KEYS = [
    "checkpoint.checkpoint_dir",
    "checkpoint.keep_best_n",
    "checkpoint.keep_last_k",
    "checkpoint.metric",
    "checkpoint.mode",
    "checkpoint.resume",
    "checkpoint.save_best",
    "checkpoint.save_frequency",
    "data.augmentation.color_jitter",
    "data.augmentation.crop_scale",
    "data.augmentation.deit3.auto_augment",
    "data.augmentation.deit3.cutmix_alpha",
    "data.augmentation.deit3.mixup_alpha",
    "data.augmentation.deit3.mixup_cutmix_prob",
    "data.augmentation.deit3.mixup_switch_prob",
    "data.augmentation.deit3.rand_aug_magnitude",
    "data.augmentation.deit3.rand_aug_num_ops",
    "data.augmentation.deit3.random_erasing_prob",
    "data.augmentation.deit3.random_erasing_ratio",
    "data.augmentation.deit3.random_erasing_scale",
    "data.augmentation.gaussian_blur",
    "data.augmentation.horizontal_flip",
    "data.augmentation.random_crop",
    "data.augmentation.random_gray_scale",
    "data.augmentation.solarization",
    "data.augmentation.strategy",
    "data.batch_size",
    "data.data_path",
    "data.dataset",
    "data.datasets[]",
    "data.datasets[].name",
    "data.datasets[].path",
    "data.datasets[].weight",
    "data.image_size",
    "data.multicrop.adaptive",
    "data.multicrop.adaptive_config.max_local_crops",
    "data.multicrop.adaptive_config.min_local_crops",
    "data.multicrop.adaptive_config.warmup_epochs",
    "data.multicrop.global_color_jitter",
    "data.multicrop.global_crop_scale",
    "data.multicrop.global_crop_size",
    "data.multicrop.local_color_jitter",
    "data.multicrop.local_crop_scale",
    "data.multicrop.local_crop_size",
    "data.multicrop.num_global_crops",
    "data.multicrop.num_local_crops",
    "data.num_workers",
    "data.pin_memory",
    "data.sampling_strategy",
    "data.transforms.color_jitter",
    "data.transforms.crop_scale",
    "data.transforms.horizontal_flip",
    "data.use_multi_dataset",
    "data.use_multicrop",
    "device",
    "distributed.backend",
    "distributed.enabled",
    "distributed.world_size",
    "evaluation.eval_frequency",
    "evaluation.knn.enabled",
    "evaluation.knn.frequency",
    "evaluation.knn.k_values",
    "evaluation.linear_probe.batch_size",
    "evaluation.linear_probe.dataset",
    "evaluation.linear_probe.enabled",
    "evaluation.linear_probe.epochs",
    "evaluation.linear_probe.lr",
    "experiment.description",
    "experiment.eval_frequency",
    "experiment.name",
    "experiment.output_dir",
    "experiment.save_frequency",
    "experiment.seed",
    "logging.eval_freq",
    "logging.experiment_name",
    "logging.log_attention",
    "logging.log_dataset_distribution",
    "logging.log_dir",
    "logging.log_freq",
    "logging.log_frequency",
    "logging.log_gradients",
    "logging.log_images",
    "logging.metrics",
    "logging.tensorboard.enabled",
    "logging.use_tensorboard",
    "logging.use_wandb",
    "logging.wandb",
    "logging.wandb.enabled",
    "logging.wandb.entity",
    "logging.wandb.project",
    "logging.wandb.tags",
    "loss.contrastive_on_context",
    "loss.contrastive_temperature",
    "loss.contrastive_weight",
    "loss.eps",
    "loss.flatten_patches",
    "loss.hierarchy_weights",
    "loss.jepa_loss_type",
    "loss.jepa_weight",
    "loss.normalize_embeddings",
    "loss.sigreg_fixed_slices",
    "loss.sigreg_invariance_weight",
    "loss.sigreg_num_slices",
    "loss.sigreg_num_test_points",
    "loss.sigreg_weight",
    "loss.type",
    "loss.use_contrastive",
    "loss.use_cosine_similarity",
    "loss.use_vicreg",
    "loss.vicreg.cov_coeff",
    "loss.vicreg.sim_coeff",
    "loss.vicreg.std_coeff",
    "loss.vicreg_weight",
    "masking.aspect_ratio",
    "masking.aspect_ratio_range",
    "masking.context_scale",
    "masking.mask_scale",
    "masking.max_keep",
    "masking.min_keep",
    "masking.num_context_masks",
    "masking.num_masks",
    "masking.num_target_masks",
    "masking.num_targets",
    "masking.scale_range",
    "masking.strategy",
    "model.depth",
    "model.ema.momentum",
    "model.ema.momentum_end",
    "model.ema.momentum_warmup_epochs",
    "model.embed_dim",
    "model.encoder_type",
    "model.fpn.feature_dim",
    "model.fpn.fusion_method",
    "model.fpn.use_fpn",
    "model.layerscale_init",
    "model.num_heads",
    "model.num_hierarchies",
    "model.predictor.depth",
    "model.predictor.dropout",
    "model.predictor.mlp_ratio",
    "model.predictor.num_heads",
    "model.predictor.qkv_bias",
    "model.rope.theta",
    "model.rope.use_rope",
    "model.rope_theta",
    "model.target_encoder.ema_anneal_end_step",
    "model.target_encoder.ema_decay",
    "model.target_encoder.ema_end_decay",
    "model.use_flash_attention",
    "model.use_fpn",
    "model.use_gradient_checkpointing",
    "model.use_layerscale",
    "model.use_rope",
    "seed",
    "training.accumulation_steps",
    "training.betas",
    "training.checkpoint_freq",
    "training.clip_grad",
    "training.epochs",
    "training.gradient_clip",
    "training.keep_last_n",
    "training.lr",
    "training.lr_schedule",
    "training.min_lr",
    "training.min_lr_ratio",
    "training.mixed_precision",
    "training.optimizer",
    "training.optimizer.betas",
    "training.optimizer.lr",
    "training.optimizer.type",
    "training.optimizer.weight_decay",
    "training.scheduler.min_lr",
    "training.scheduler.type",
    "training.scheduler.warmup_type",
    "training.use_amp",
    "training.use_gradient_checkpointing",
    "training.warmup_epochs",
    "training.warmup_lr_ratio",
    "training.weight_decay",
]


@pytest.mark.parametrize("key", OLD_KEYS)
def test_an_old_key_has_a_rule_or_its_own_name(key: str):
    listed, _, inside = key.partition("[]")
    if listed != key:
        assert listed in KEYS
        assert not inside or inside[1:] in OneOfSeveral.model_fields
    else:
        assert key in {*SPECIAL, *RENAMED, *KEYS}


@pytest.mark.parametrize("new", sorted(set(RENAMED.values())))
def test_a_renamed_key_leads_to_one_that_there_is(new: str):
    assert new in KEYS


def test_a_key_has_one_rule():
    assert not RENAMED.keys() & SPECIAL.keys()
    # A renamed key that the schema had too would never be taken under its own name.
    assert not RENAMED.keys() & KEYS.keys()


def test_rules_are_for_keys_that_old_files_had():
    # These two go beyond the audit's files: the same switch in the other of its two forms.
    assert set(old_names()) - set(OLD_KEYS) <= {"logging.tensorboard"}
    assert set(OLD_KEYS) >= UNREAD


def test_the_page_on_migration_tells_of_every_rule():
    page = (ROOT / Path("docs/migration.md")).read_text(encoding="utf-8")
    assert [key for key in old_names() if f"`{key}`" not in page] == []
