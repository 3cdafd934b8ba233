"""`hjepa-train check`: every file is reported, and what is unwise in it."""

from pathlib import Path

import pytest
import yaml

from hjepa.cli import main
from hjepa.config import load_config

Captured = pytest.CaptureFixture[str]


RANKED = """\
training: {epochs: N}
evaluation: {eval_frequency: 3}
checkpoint: {save_frequency: 2, keep_best_n: 2}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("device: cpu\n")
    return path


def warnings(path: Path, text: str, capsys: Captured, *options: str) -> list[str]:
    path.write_text(text)
    assert main(["check", "--brief", str(path), *options]) == 0
    out = capsys.readouterr().out
    return [line.removeprefix("# warning: ") for line in out.splitlines() if line.startswith("# warning: ")]


def test_what_is_printed_is_the_resolved_config_with_its_size_as_comments(file: Path, capsys: Captured):
    file.write_text("model: {depth: 2}\n")
    assert main(["check", str(file), "--set", "seed=7"]) == 0
    out = capsys.readouterr().out
    again = file.with_name("again.yaml")
    again.write_text(out)
    assert load_config(again) == load_config(file, {"seed": 7})
    assert "# parameters: encoder " in out
    assert "# tokens of an image: 64, of which " in out
    assert "# memory, estimated: " in out


def test_brief_leaves_the_config_out(file: Path, capsys: Captured):
    assert main(["check", "--brief", str(file)]) == 0
    assert yaml.safe_load(capsys.readouterr().out) is None


def test_one_bad_file_does_not_hide_the_others(file: Path, capsys: Captured):
    bad, missing = file.with_name("bad.yaml"), file.with_name("missing.yaml")
    bad.write_text("sed: 1\n")
    assert main(["check", "--brief", str(bad), str(file), str(missing), "nonesuch", "digits"]) == 2
    out, err = capsys.readouterr()
    heads = [line.removeprefix("# ") for line in out.splitlines() if line.endswith(".yaml")]
    assert [Path(head).name for head in heads] == ["run.yaml", "digits.yaml"]
    for name in ("bad.yaml: sed: no such config key", "missing.yaml: no such file", "nonesuch: no such file"):
        assert name in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/path/to/dataset", "is a placeholder"),
        ("/tmp/data", "is below /tmp"),
        ("/data/imagenet", "is absolute"),
        ("~/data", "is absolute"),
    ],
)
def test_a_path_that_is_no_good_elsewhere_is_warned_of(file: Path, capsys: Captured, path: str, said: str):
    text = f"data: {{dataset: cifar10, data_path: {path}, image_size: 16}}\n"
    (line,) = warnings(file, text, capsys)
    assert line.startswith(f"data.data_path: {path!r} {said}")


def test_paths_within_lists_are_looked_at_too(file: Path, capsys: Captured):
    text = "data: {use_multi_dataset: true, datasets: [{name: cifar10, path: /tmp/c}, {name: digits}]}\n"
    (line,) = warnings(file, text, capsys)
    assert line.startswith("data.datasets[0].path: '/tmp/c' is below /tmp")


def test_a_relative_path_is_not_warned_of(file: Path, capsys: Captured):
    assert warnings(file, "data: {dataset: cifar10, data_path: data/cifar10}\n", capsys) == []


def test_a_named_account_is_warned_of(file: Path, capsys: Captured):
    (line,) = warnings(file, "logging: {wandb: {enabled: true, entity: me}}\n", capsys)
    assert line.startswith("logging.wandb.entity: names a person or a team")


def test_a_key_without_effect_is_warned_of_with_the_place_that_set_it(file: Path, capsys: Captured):
    found = warnings(file, "model: {fpn: {fusion_method: concat}}\n", capsys, "--set", "model.rope.theta=9")
    assert found == [
        "model.rope.theta: is set (--set model.rope.theta) and has no effect: model.rope.use_rope is false.",
        f"model.fpn.fusion_method: is set ({file}) and has no effect: model.fpn.use_fpn is false.",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "training: {optimizer: sgd, betas: [0.8, 0.999]}",
            ["training.betas[1]: ... training.optimizer is sgd, whose momentum is betas[0]."],
        ),
        ("training: {optimizer: sgd, betas: [0.8, 0.95]}", []),
        (
            "data: {use_multi_dataset: true, datasets: [{name: digits, path: here, class_list: a.txt, "
            "unlabeled: true, weight: 2.0}]}",
            [
                "data.datasets[0].path: ... digits is embedded.",
                "data.datasets[0].weight: ... datasets has one set.",
                "data.datasets[0].class_list: ... digits is no folder of images.",
                "data.datasets[0].unlabeled: ... digits has no unlabelled images.",
            ],
        ),
        (
            "data: {use_multi_dataset: true, sampling_strategy: balanced, datasets: [{name: digits}, "
            "{name: stl10, path: here, weight: 3.0, unlabeled: true}]}",
            ["data.datasets[1].weight: ... data.sampling_strategy is balanced."],
        ),
        (
            RANKED.replace("N", "6"),
            [
                "checkpoint.keep_best_n: ... no checkpoint before the last of 6 epochs is evaluated; "
                "checkpoint.save_frequency 2 and evaluation.eval_frequency 3 need a common multiple below 6."
            ],
        ),
        (
            RANKED.replace("N", "7"),
            [],
        ),
        (
            "checkpoint: {keep_best_n: 0, metric: val/rankme}",
            ["checkpoint.metric: ... checkpoint.keep_best_n is 0."],
        ),
        (
            "training: {epochs: 1, lr_schedule: linear}",
            ["training.lr_schedule: ... all of training.epochs 1 is warm-up (training.warmup_epochs)."],
        ),
        ("training: {epochs: 2, lr_schedule: linear}", []),
    ],
)
def test_what_is_set_beside_a_key_that_leaves_it_without_effect_is_warned_of(
    file: Path, capsys: Captured, text: str, said: list[str]
):
    found = warnings(file, text + "\n", capsys)
    assert [line.replace(f"is set ({file}) and has no effect:", "...") for line in found] == said


def test_what_a_file_takes_over_from_another_is_not_warned_of(file: Path, capsys: Captured):
    file.with_name("parent.yaml").write_text("model: {fpn: {use_fpn: true, fusion_method: concat}}\n")
    assert warnings(file, "extends: parent.yaml\nmodel: {fpn: {use_fpn: false}}\n", capsys) == []


def test_a_target_that_stands_still_for_most_of_the_run_is_warned_of(file: Path, capsys: Captured):
    text = "model: {ema: {momentum_warmup_epochs: 3}}\ntraining: {epochs: 9}\n"
    (line,) = warnings(file, text, capsys)
    assert line.startswith(
        "model.ema.momentum_warmup_epochs: 3 of 9 epochs, after which the target stands still"
    )
    assert warnings(file, text.replace("{momentum", "{momentum_end: 0.99, momentum"), capsys) == []
