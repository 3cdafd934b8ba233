"""Conversion of old files, in shapes that old files had."""

import os
from pathlib import Path

import pytest
import yaml

from hjepa.cli import main
from hjepa.config import RunConfig, load_config
from hjepa.legacy import Migration, Row, migrate
from hjepa.schema import ConfigError, dotted

NOWHERE = "the old code read it nowhere"


def converted(folder: Path, text: str) -> Migration:
    (folder / "old.yaml").write_text(text)
    return migrate(folder / "old.yaml")


def row(migration: Migration, old_key: str) -> Row:
    (found,) = (row for row in migration.rows if row.old_key == old_key)
    return found


def rows(migration: Migration, old_key: str) -> list[Row]:
    return [row for row in migration.rows if row.old_key == old_key]


def value(migration: Migration, key: str) -> object:
    return dotted(migration.config)[key]


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        converted(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


# The target's momentum


EMA = """
model:
  target_encoder: {{ema_decay: 0.99, ema_end_decay: 1.0, ema_anneal_end_step: {steps}}}
data: {{dataset: {dataset}, batch_size: {batch}}}
"""


def test_ema_steps_become_epochs_and_the_reason_shows_how(tmp_path: Path):
    done = converted(tmp_path, EMA.format(steps=300000, dataset="imagenet100", batch=32))
    assert value(done, "model.ema.momentum_warmup_epochs") == 75.8
    assert value(done, "model.ema.momentum") == 0.99
    assert row(done, "model.target_encoder.ema_anneal_end_step").why == (
        f"steps to epochs: 300,000 / (126,689 images / 32) = 75.8; {NOWHERE}; it counts now"
    )


def test_accumulation_makes_fewer_steps_of_an_epoch(tmp_path: Path):
    text = EMA.format(steps=6250, dataset="cifar10", batch=32) + "training: {accumulation_steps: 4}\n"
    done = converted(tmp_path, text)
    assert value(done, "model.ema.momentum_warmup_epochs") == 16.0
    assert "6,250 / (50,000 images / 32 x 4)" in row(done, "model.target_encoder.ema_anneal_end_step").why


@pytest.mark.parametrize("steps", ["3125.0", "'3125'", "3_125"])
def test_steps_may_be_written_in_any_way_that_is_a_whole_number(tmp_path: Path, steps: str):
    done = converted(tmp_path, EMA.format(steps=steps, dataset="cifar10", batch="'32'"))
    assert value(done, "model.ema.momentum_warmup_epochs") == 2.0


def test_steps_without_a_size_to_reckon_with_are_refused_by_line(tmp_path: Path):
    assert refusal(tmp_path, EMA.format(steps=9, dataset="imagefolder", batch=32)) == (
        "old.yaml: line 3: model.target_encoder.ema_anneal_end_step: 9 steps cannot be put into epochs "
        "without the size of imagefolder.\nGive model.ema.momentum_warmup_epochs in its place."
    )
    assert "whole numbers above 0" in refusal(tmp_path, EMA.format(steps=9, dataset="cifar10", batch=0))


def test_of_both_spellings_of_momentum_the_one_that_the_old_code_read_counts(tmp_path: Path):
    done = converted(tmp_path, "model: {target_encoder: {ema_decay: 0.99}, ema: {momentum: 0.9}}\n")
    assert value(done, "model.ema.momentum") == 0.9
    found = row(done, "model.target_encoder.ema_decay")
    assert found.why == "model.ema.momentum (line 1) says it otherwise, and was what the old code read"
    assert found.new_key == "model.ema.momentum"


# Two spellings of one thing


def test_two_spellings_that_contradict_name_both_lines(tmp_path: Path):
    text = "masking:\n  num_targets: 4\n  num_target_masks: 3\n"
    assert refusal(tmp_path, text) == (
        "old.yaml: line 2: masking.num_targets and line 3: masking.num_target_masks both stand for "
        "masking.num_masks and contradict one another: 4 and 3. Keep one."
    )


def test_two_spellings_that_agree_are_both_told(tmp_path: Path):
    done = converted(tmp_path, "seed: 3\nexperiment: {seed: 3}\n")
    assert value(done, "seed") == 3
    assert row(done, "experiment.seed").why == "seed (line 1) says it"


def test_min_lr_counts_before_its_ratio_for_the_old_code_read_that_alone(tmp_path: Path):
    done = converted(tmp_path, "training:\n  min_lr: 1.0e-6\n  min_lr_ratio: 0.5\nexperiment: {seed: 1}\n")
    assert (value(done, "training.min_lr"), value(done, "training.min_lr_ratio")) == (1e-6, None)
    found = row(done, "training.min_lr_ratio")
    assert found.new_key is None
    assert found.why == f"training.min_lr (line 2) says it, and was what the old code read; {NOWHERE}"


def test_a_contrastive_loss_that_is_switched_off_contradicts_its_own_type(tmp_path: Path):
    message = refusal(tmp_path, "loss:\n  type: cjepa\n  use_contrastive: false\n  jepa_loss_type: mse\n")
    assert "line 2: loss.type and line 3: loss.use_contrastive both stand for loss.use_ntxent" in message


# Names, sections and values


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("experiment: {name: a, seed: 7, save_frequency: 5, eval_frequency: 2}", "seed", 7),
        ("experiment: {name: a}", "logging.experiment_name", "a"),
        ("experiment: {output_dir: results/a}", "checkpoint.checkpoint_dir", "results/a"),
        ("experiment: {save_frequency: 5}", "checkpoint.save_frequency", 5),
        ("experiment: {eval_frequency: 5}", "evaluation.eval_frequency", 5),
        ("data: {transforms: {crop_scale: [0.8, 1.0]}}", "data.augmentation.crop_scale", (0.8, 1.0)),
        ("data: {transforms: {horizontal_flip: true}}", "data.augmentation.horizontal_flip", True),
        ("data: {transforms: {horizontal_flip: 0.5}}", "data.augmentation.horizontal_flip", 0.5),
        ("logging: {use_wandb: true}", "logging.wandb.enabled", True),
        ("logging: {wandb: true}", "logging.wandb.enabled", True),
        ("logging: {use_wandb: false, wandb: {project: p}}", "logging.wandb.project", "p"),
        ("logging: {use_tensorboard: true}", "logging.tensorboard.enabled", True),
        ("logging: {log_freq: 7}", "logging.log_frequency", 7),
        ("logging: {eval_freq: 7}", "evaluation.eval_frequency", 7),
        (
            "training: {optimizer: {type: sgd, lr: 0.1, weight_decay: 0, betas: [0.8, 0.9]}}",
            "training.lr",
            0.1,
        ),
        ("training: {optimizer: {type: sgd}}", "training.optimizer", "sgd"),
        ("training: {scheduler: {type: linear, min_lr: 1e-5, warmup_type: linear}}", "training.min_lr", 1e-5),
        ("training: {scheduler: {type: linear}}", "training.lr_schedule", "linear"),
        ("training: {mixed_precision: true}", "training.use_amp", True),
        ("training: {gradient_clip: 1.5}", "training.clip_grad", 1.5),
        ("training: {checkpoint_freq: 3}", "checkpoint.save_frequency", 3),
        ("training: {keep_last_n: 3}", "checkpoint.keep_last_k", 3),
        ("checkpoint: {save_best: true}", "checkpoint.keep_best_n", 1),
        ("checkpoint: {save_best: false}", "checkpoint.keep_best_n", 0),
        ("model: {use_fpn: true}", "model.fpn.use_fpn", True),
        ("model: {use_rope: true, rope_theta: 100.0}", "model.rope.theta", 100.0),
        ("model: {use_gradient_checkpointing: true}", "training.use_gradient_checkpointing", True),
        ("masking: {scale_range: [0.1, 0.2]}", "masking.mask_scale", (0.1, 0.2)),
        ("masking: {aspect_ratio_range: [0.5, 2.0]}", "masking.aspect_ratio", (0.5, 2.0)),
        ("loss: {vicreg_weight: 0.3}", "loss.vicreg.weight", 0.3),
        ("loss: {vicreg_weight: 0.3}", "loss.use_vicreg", True),
        ("loss: {vicreg_weight: '0'}", "loss.use_vicreg", False),
        ("loss: {vicreg_weight: 0.3, use_vicreg: false}", "loss.use_vicreg", False),
        ("loss: {type: cjepa, jepa_loss_type: huber}", "loss.type", "huber"),
        ("loss: {type: cjepa, use_contrastive: true}", "loss.use_ntxent", True),
        ("loss: {type: cjepa, contrastive_weight: 0.2}", "loss.ntxent.weight", 0.2),
        ("loss: {type: jepa, use_contrastive: true}", "loss.use_ntxent", True),
        ("loss: {type: sigreg}", "loss.use_sigreg", True),
        ("loss: {type: sigreg}", "loss.type", "mse"),
        ("loss: {type: sigreg, sigreg_invariance_weight: 2.0}", "loss.prediction_weight", 2.0),
        ("loss: {type: sigreg, sigreg_num_test_points: 9}", "loss.sigreg.num_points", 9),
        ("loss: {type: sigreg, flatten_patches: true}", "loss.sigreg.flatten_patches", True),
        ("loss: {use_vicreg: true, flatten_patches: true}", "loss.vicreg.flatten_patches", True),
        ("loss: {jepa_weight: 2.0}", "loss.prediction_weight", 2.0),
        ("training: {warmup_lr_ratio: '1e-3'}", "training.warmup_lr_ratio", 1e-3),
        ("training: {lr: 1e-5}", "training.lr", 1e-5),
        ("training: {betas: ['0.9', '0.95']}", "training.betas", (0.9, 0.95)),
        ("training: {epochs: 3.0, warmup_epochs: 1}", "training.epochs", 3),
    ],
)
def test_an_old_key_gives_a_new_one(tmp_path: Path, text: str, key: str, expected: object):
    done = converted(tmp_path, f"{text}\n")
    assert value(done, key) == expected
    assert load_text(tmp_path, done.text) == done.config


def load_text(folder: Path, text: str) -> RunConfig:
    (folder / "new.yaml").write_text(text)
    return load_config(folder / "new.yaml")


def test_metrics_and_neighbours_that_need_no_switch_any_more_have_a_row_each(tmp_path: Path):
    done = converted(
        tmp_path,
        "logging: {metrics: [a]}\nevaluation: {knn: {enabled: true, frequency: 5}, eval_frequency: 10}\n",
    )
    assert value(done, "evaluation.eval_frequency") == 10
    assert [row(done, f"evaluation.knn.{key}").new_key for key in ("enabled", "frequency")] == [None, None]
    assert row(done, "logging.metrics").why == f"every metric is always recorded; {NOWHERE}"


def test_every_key_of_a_file_has_a_row(tmp_path: Path):
    text = (
        "experiment: {seed: 1, name: a}\nloss:\n  type: cjepa\n  jepa_loss_type: mse\nmodel:\ndevice: cpu\n"
    )
    done = converted(tmp_path, text)
    assert {row.old_key for row in done.rows} == {
        *("experiment.seed", "experiment.name", "loss.type", "loss.jepa_loss_type", "model", "device"),
    }
    assert row(done, "model").why == "an empty section"


def test_the_new_file_holds_what_the_old_one_set_in_the_order_of_the_schema(tmp_path: Path):
    done = converted(tmp_path, "seed: 1\nexperiment: {name: a}\nmodel: {use_rope: true}\n")
    assert yaml.safe_load(done.text) == {
        "model": {"rope": {"use_rope": True}},
        "logging": {"experiment_name": "a"},
        "seed": 1,
    }
    assert list(yaml.safe_load(done.text)) == ["model", "logging", "seed"]
    assert done.text.startswith("# Converted from old.yaml ")


def test_what_counts_now_but_cannot_matter_here_says_so(tmp_path: Path):
    done = converted(tmp_path, "model: {rope_theta: 100.0, use_rope: false}\n")
    assert row(done, "model.rope_theta").why.startswith(f"renamed; {NOWHERE}; no effect here: ")


# What cannot be converted

STEPS = """\
model: {target_encoder: {ema_anneal_end_step: 100}}
data:
  dataset: cifar10
  batch_size: 8
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model:\n  use_rop: true\n",
            "line 2: model.use_rop: no such key, then or now.\nNearest: model.use_rope.",
        ),
        ("seed: 1\nloss:\n  type: hybrid\n", "line 3: loss.type: "),
        (
            "training:\n  scheduler: {warmup_type: cosine}\n",
            "line 2: training.scheduler.warmup_type: 'cosine'",
        ),
        ("seed: 1\nexperiment: {name: 'a b'}\n", "line 2: experiment.name: logging.experiment_name: 'a b'"),
        ("evaluation:\n  knn: {k_values: 5}\n", "line 2: evaluation.knn.k_values: 5 must be a list"),
        (
            "model: tall\n",
            "line 1: model: 'tall' is not allowed: a section, must be a map of keys",
        ),
        ("seed: 1\nevaluation:\n  knn: [5]\n", "line 3: evaluation.knn: [5] is not allowed: a section"),
        ("evaluation:\n  knn: {k_values: [5, null]}\n", "[5, None] must be a list of numbers of neighbours"),
        ("evaluation:\n  knn: {k_values: [five]}\n", "line 2: evaluation.knn.k_values: ['five'] must be"),
        ("checkpoint: {metric: []}\n", "line 1: checkpoint.metric: checkpoint.metric: [] is not allowed"),
        ("loss:\n  type: [mse]\n", "loss.type: [\"mse\"] is not allowed: input should be 'mse',"),
        ("loss:\n  type: {}\n  use_vicreg: true\n", "line 2: loss.type: loss.type: input should be 'mse',"),
        ("loss: {type: [], jepa_loss_type: mse}\n", "loss.type"),
        (STEPS.replace("cifar10", "[]"), "without the size of the data set"),
        (STEPS.replace("8", "1" + 400 * "0"), "must be whole numbers above 0 and below 1,000,000,000"),
        (STEPS.replace("8", "null"), "100 steps of data.batch_size None x"),
        (STEPS + "  use_multi_dataset: true\n  datasets: 5\n", "without the size of the data set"),
        ("model: {embed_dim: 1" + 400 * "0" + "}\n", "should be less than or equal to 65536"),
        ("masking:\n  num_targets: many\n", "line 2: masking.num_targets: masking.num_masks: 'many'"),
        ("a: [1\n", "not valid YAML: line 2, column 1: "),
        ("- a\n", "must hold a map of keys to values"),
        ("", "must hold a map of keys to values"),
        ("[" * 2000, "not valid YAML"),
        ("seed: \x00\n", "not valid YAML"),
        ("seed: 1\nseed: 2\n", "line 2: key 'seed' stands twice"),
    ],
)
def test_what_cannot_be_converted_names_the_line(tmp_path: Path, text: str, message: str):
    assert message in refusal(tmp_path, text)


def test_lines_are_the_files_own_though_documents_come_before(tmp_path: Path):
    text = "# one\n%YAML 1.1\n---\n# two\nmodel:\n  use_rop: true\n---\nloss: {}\n"
    assert "line 6: model.use_rop: " in refusal(tmp_path, text)


def test_of_several_documents_the_first_counts_and_that_is_said(tmp_path: Path):
    done = converted(tmp_path, "experiment: {seed: 1}\n---\nexperiment: {seed: 2}\n")
    assert done.notes == ["holds 2 YAML documents: the first counts, as it did in the old code."]
    assert value(done, "seed") == 1


# The command


def test_the_new_file_goes_to_standard_output_and_the_table_to_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "old.yaml").write_text("experiment: {seed: 3}\ndata: {data_path: /path/to/data}\n")
    assert main(["migrate", str(tmp_path / "old.yaml")]) == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out) == {"data": {"data_path": "/path/to/data"}, "seed": 3}
    lines = err.splitlines()
    assert lines[0].split() == ["line", "old", "key", "new", "key", "old", "value", "new", "value", "why"]
    assert lines[1].split()[:3] == ["1", "experiment.seed", "seed"]
    assert lines[-1].startswith("warning: data.data_path: '/path/to/data' is a placeholder")


def test_a_canonical_file_comes_out_byte_by_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_bytes("# Z\u00fcrich\r\nseed: 3\r\n\r\nmodel: {depth:  2}".encode())
    assert main(["migrate", str(old), "-o", str(new)]) == 0
    assert new.read_bytes() == old.read_bytes()
    assert "is canonical already, nothing to convert" in capsys.readouterr().err


def test_a_file_is_replaced_only_when_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text("experiment: {seed: 3}\n")
    new.write_text("mine")
    assert main(["migrate", str(old), "-o", str(new)]) == 2
    assert new.read_text() == "mine"
    assert "exists already; name another file, or add --force." in capsys.readouterr().err
    assert main(["migrate", str(old), "-o", str(new), "--force"]) == 0
    assert load_config(new).seed == 3


def test_a_link_or_device_is_written_to_and_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    old, new, link, pipe = (tmp_path / name for name in ("old.yaml", "new.yaml", "link.yaml", "pipe"))
    old.write_text("experiment: {seed: 3}\n")
    new.write_text("mine")
    link.symlink_to(new)
    os.mkfifo(pipe)
    assert main(["migrate", str(old), "-o", str(link)]) == 2
    assert main(["migrate", str(old), "-o", str(link), "--force"]) == 0
    assert (link.is_symlink(), load_config(new).seed) == (True, 3)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert main(["migrate", str(old), "-o", str(pipe)]) == 0
        assert yaml.safe_load(os.read(reading, 9999)) == {"seed": 3}
    finally:
        os.close(reading)
    assert pipe.is_fifo()


def test_a_failed_conversion_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "old.yaml").write_text("nonsense: 3\n")
    assert main(["migrate", str(tmp_path / "old.yaml"), "-o", str(tmp_path / "deep/new.yaml")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["old.yaml"]
    assert "Traceback" not in capsys.readouterr().err
