"""Judging features, checked against scikit-learn and closed forms."""

import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from hjepa.data import Augmentation, DataConfig, Split, load_data
from hjepa.evaluate import (
    CollapseConfig,
    KnnConfig,
    alpha_req,
    collapse_reason,
    effective_rank,
    feature_std,
    knn_accuracies,
    knn_accuracy,
    knn_accuracy_of_parts,
    lidar,
    rankme,
    raw_pixel_features,
)
from hjepa.metrics import metric_mode
from tests.hjepa.draws import normal


def clusters(count: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy points around five fixed directions in 8-D, and their classes."""
    centres = torch.randn(5, 8, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (count,), generator=generator)
    return centres[labels] + spread * torch.randn(count, 8, generator=generator), labels


# k-NN


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (7, 0.5)])
def test_knn_agrees_with_scikit_learn(k: int, temperature: float):
    bank, bank_labels = clusters(200, 1.5, seed=1)
    queries, labels = clusters(300, 1.5, seed=2)
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(bank.numpy(), bank_labels.numpy())
    expected = reference.score(queries.numpy(), labels.numpy())
    found = knn_accuracy(bank, bank_labels, queries, labels, KnnConfig(k=k, temperature=temperature))
    assert 0.3 < expected < 1
    assert found == pytest.approx(expected, abs=1e-9)


def test_knn_is_the_same_in_one_chunk_or_many(monkeypatch: pytest.MonkeyPatch):
    bank, queries = clusters(200, 1.5, seed=1), clusters(300, 1.5, seed=2)
    whole = knn_accuracy(*bank, *queries, KnnConfig())
    monkeypatch.setattr("hjepa.evaluate._MAX_CHUNK_VALUES", 1500)
    assert knn_accuracy(*bank, *queries, KnnConfig()) == whole


def test_knn_takes_all_of_a_bank_smaller_than_k():
    bank, labels = torch.eye(3), torch.tensor([0, 1, 2])
    assert knn_accuracy(bank, labels, bank, labels, KnnConfig(k=20)) == 1.0


def test_knn_gives_a_tie_to_the_lower_class():
    bank, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 0])
    middle = torch.tensor([[1.0, 1.0]])
    assert knn_accuracy(bank, labels, middle, torch.tensor([0]), KnnConfig(temperature=1.0)) == 1.0


def test_knn_survives_a_temperature_at_which_exp_overflows():
    bank, labels = clusters(50, 0.1, seed=1)
    assert knn_accuracy(bank, labels, bank, labels, KnnConfig(temperature=1e-4)) == 1.0


def test_knn_counts_queries_of_a_class_that_the_bank_lacks_as_wrong():
    bank, labels = torch.eye(2), torch.tensor([0, 1])
    assert knn_accuracy(bank, labels, bank, torch.tensor([0, 7]), KnnConfig(k=1)) == 0.5


def test_further_k_agree_with_scikit_learn_and_leave_k_as_it_was():
    bank, queries = clusters(200, 1.5, seed=1), clusters(300, 1.5, seed=2)
    alone = knn_accuracy(*bank, *queries, KnnConfig(k=20))
    found = knn_accuracies(*bank, *queries, KnnConfig(k=20, k_values=(50, 1, 5)))
    assert list(found) == [20, 50, 1, 5]
    assert found[20] == alone
    for k in (1, 5, 50):
        weights = lambda distance: np.exp((1 - distance) / 0.07)  # noqa: E731
        reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weights)
        reference.fit(bank[0].numpy(), bank[1].numpy())
        expected = reference.score(queries[0].numpy(), queries[1].numpy())
        assert found[k] == pytest.approx(expected, abs=1e-9)


def test_k_keeps_its_very_neighbours_among_equals_whatever_else_is_measured():
    # All images alike: which 3 of 40 vote is up to the search, and must not depend on other searches.
    bank, labels = torch.ones(40, 4), torch.randint(0, 7, (40,), generator=torch.Generator().manual_seed(3))
    query = torch.ones(1, 4)
    for label in range(7):
        alone = knn_accuracy(bank, labels, query, torch.tensor([label]), KnnConfig(k=3))
        beside = KnnConfig(k=3, k_values=(30, 3))
        assert knn_accuracies(bank, labels, query, torch.tensor([label]), beside)[3] == alone


def test_more_neighbours_than_images_are_all_images_for_further_k_too(monkeypatch: pytest.MonkeyPatch):
    bank, queries = clusters(30, 1.5, seed=1), clusters(300, 1.5, seed=2)
    found = knn_accuracies(*bank, *queries, KnnConfig(k=2, k_values=(30, 1000)))
    assert found[1000] == found[30]
    monkeypatch.setattr("hjepa.evaluate._MAX_CHUNK_VALUES", 400)
    assert knn_accuracies(*bank, *queries, KnnConfig(k=2, k_values=(30, 1000))) == found


@pytest.mark.parametrize("values", [(0,), (5, 5), (-1, 3)])
def test_further_k_are_different_counts(values: tuple[int, ...]):
    with pytest.raises(ValueError, match="must be different numbers of at least 1"):
        KnnConfig(k_values=values)


def test_a_metric_is_better_one_way_or_reported_by_no_run():
    assert metric_mode("val/knn_top1_k5") == metric_mode("val/lidar") == "max"
    assert metric_mode("val/loss") == "min"
    assert metric_mode("val/knn_top1_k") is metric_mode("val/knn_top1_k05") is metric_mode("loss") is None


def test_knn_refuses_an_empty_bank():
    with pytest.raises(ValueError, match="got 0 and 3 images"):
        knn_accuracy(
            torch.empty(0, 2), torch.empty(0, dtype=torch.long), torch.ones(3, 2), torch.ones(3), KnnConfig()
        )


# Rank and spread


def test_rankme_counts_equally_strong_directions():
    assert rankme(torch.eye(64)[:10].repeat(5, 1)) == pytest.approx(10, rel=1e-3)


def test_rankme_follows_its_definition():
    z = normal(50, 12)
    sizes = np.linalg.svd(z.numpy(), compute_uv=False)
    shares = sizes / sizes.sum() + 1e-7
    assert rankme(z) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


@given(rank=st.integers(1, 6), scale=st.floats(1e-3, 1e3))
def test_rank_is_at_most_that_of_the_features_at_any_scale(rank: int, scale: float):
    z = scale * normal(40, rank) @ normal(rank, 16)
    assert 1 - 1e-3 <= rankme(z) <= rank + 0.01


def test_effective_rank_does_not_see_a_common_direction():
    z = normal(100, 16)
    assert effective_rank(z + 1000) == pytest.approx(effective_rank(z), rel=1e-3)
    assert rankme(z + 1000) < 1.2


def test_features_without_any_difference_have_rank_one():
    assert effective_rank(torch.ones(5, 4)) == pytest.approx(1, abs=1e-3)
    assert rankme(torch.zeros(5, 4)) == pytest.approx(1, abs=1e-3)


def test_std_is_one_for_isotropic_and_zero_for_equal_features():
    assert feature_std(normal(4000, 32)) == pytest.approx(1, abs=0.02)
    assert feature_std(normal(1, 32).expand(10, 32)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("measure", [rankme, effective_rank, feature_std])
def test_measures_of_features_that_are_not_finite_are_nan(measure):
    z = normal(10, 4)
    z[3, 2] = math.inf
    assert math.isnan(measure(z))


@pytest.mark.parametrize("measure", [rankme, effective_rank, feature_std])
def test_measures_of_one_image_are_refused(measure):
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        measure(normal(1, 4))


# Collapse


@pytest.mark.parametrize(
    ("z", "reason"),
    [
        (normal(1, 64) + 1e-6 * normal(300, 64), "nearly the same features"),
        (torch.zeros(300, 64), "nearly the same features"),
        (normal(300, 1) @ normal(1, 64), "too few directions"),
        (1 + normal(300, 1) @ normal(1, 64), "too few directions"),
        (torch.full((300, 64), math.nan), "not finite"),
    ],
)
def test_collapsed_features_are_told_with_the_reason(z: Tensor, reason: str):
    assert reason in (collapse_reason(z, CollapseConfig()) or "")


def digits_at_16_px(tmp_path: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    config = DataConfig(cache_dir=str(tmp_path))
    data = load_data(config)
    augmentation = Augmentation(config.augmentation, config.image_size, data.mean_C, data.std_C)

    def tensors(split: Split) -> tuple[Tensor, Tensor]:
        images = augmentation.plain(torch.from_numpy(split.images(np.arange(len(split)))))
        return images, torch.from_numpy(split.labels_N)

    return tensors(data.train), tensors(data.val)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_untrained_vit_has_not_collapsed(seed: int, tmp_path: Path):
    _, (images, _) = digits_at_16_px(tmp_path)
    torch.manual_seed(seed)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=2, embed_dim=64, depth=4, num_heads=4, num_classes=0
    ).eval()
    with torch.no_grad():
        pooled = vit.forward_features(images)[:, 1:].mean(dim=1)
    assert collapse_reason(pooled, CollapseConfig()) is None


@pytest.mark.parametrize("part", [1, 7, 64, 200])
@pytest.mark.parametrize("k", [1, 20, 500])
def test_a_bank_in_parts_votes_as_a_whole_one(part: int, k: int):
    bank, bank_labels = clusters(200, 1.5, seed=1)
    queries, labels = clusters(300, 1.5, seed=2)
    parts = zip(bank.split(part), bank_labels.split(part), strict=True)
    whole = knn_accuracy(bank, bank_labels, queries, labels, KnnConfig(k=k))
    assert knn_accuracy_of_parts(parts, queries, labels, KnnConfig(k=k)) == whole
    with pytest.raises(ValueError, match="one of them is empty"):
        knn_accuracy_of_parts([], queries, labels, KnnConfig(k=k))


def test_raw_pixels_of_digits_are_a_strong_baseline(tmp_path: Path):
    (bank, bank_labels), (queries, labels) = digits_at_16_px(tmp_path)
    assert raw_pixel_features(bank).shape == (len(bank), 3 * 16 * 16)
    accuracy = knn_accuracy(
        raw_pixel_features(bank), bank_labels, raw_pixel_features(queries), labels, KnnConfig()
    )
    assert accuracy == pytest.approx(0.969, abs=0.002)


# LiDAR


def views(images: int, count: int, noise: float) -> Tensor:
    """Features of views that scatter around each image's own, more so in later directions."""
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(images, 1, 12, generator=random) * torch.logspace(0, -1, 12)
    return centres + noise * torch.randn(images, count, 12, generator=random) * torch.linspace(1, 3, 12)


@pytest.mark.parametrize("noise", [0.1, 1.0, 5.0])
def test_lidar_is_the_entropy_of_the_discriminants_that_scikit_learn_finds(noise: float):
    features = views(60, 30, noise)
    analysis = LinearDiscriminantAnalysis(solver="eigen", priors=np.full(60, 1 / 60))
    analysis.fit(features.flatten(0, 1).double().numpy(), np.repeat(np.arange(60), 30))
    shares = analysis.explained_variance_ratio_
    # Besides rounding, theirs lacks the small constant within, and takes one sample off each class.
    assert lidar(features) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=0.01)


def test_lidar_is_the_papers_formula():
    features = views(20, 5, 0.5).double().numpy()
    centres = features.mean(1)
    within = np.mean([np.outer(d, d) for d in (features - centres[:, None]).reshape(-1, 12)], axis=0)
    between = np.mean([np.outer(d, d) for d in centres - centres.mean(0)], axis=0)
    values = np.linalg.eigvals(np.linalg.inv(within + 1e-4 * np.eye(12)) @ between).real
    shares = values / values.sum() + 1e-7
    found = lidar(torch.from_numpy(features))
    assert found == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)


def test_lidar_counts_directions_in_which_images_differ_beyond_their_views():
    images = torch.eye(8)[:, None].expand(8, 2, 8).clone()
    assert lidar(images) == pytest.approx(7, rel=1e-4)
    one = torch.linspace(0, 1, 8)[:, None, None] * torch.ones(8, 2, 8)
    assert lidar(one) == pytest.approx(1, abs=1e-3)
    assert math.isnan(lidar(torch.full((3, 2, 4), torch.inf)))


@pytest.mark.parametrize("shape", [(1, 5, 4), (5, 1, 4)])
def test_lidar_of_one_image_or_one_view_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="2 views of 2 images"):
        lidar(torch.zeros(shape))


# alpha-ReQ


def decaying(alpha: float, width: int) -> Tensor:
    """Features whose covariance has eigenvalues rank^-alpha exactly."""
    samples = torch.randn(400, width, generator=torch.Generator().manual_seed(0)).double()
    orthogonal, _ = torch.linalg.qr(samples - samples.mean(0))
    turn, _ = torch.linalg.qr(samples[:width])
    return orthogonal * torch.arange(1, width + 1) ** (-alpha / 2) @ turn + 5


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("width", [6, 16, 150])
def test_alpha_is_the_exponent_of_a_power_law(alpha: float, width: int):
    assert alpha_req(decaying(alpha, width)) == pytest.approx(alpha, abs=1e-6)


def test_alpha_is_the_weighted_fit_of_ranks_4_to_100():
    z = torch.randn(300, 120, generator=torch.Generator().manual_seed(1)) * torch.logspace(0, -2, 120)
    values = np.linalg.eigvalsh(np.cov(z.double().numpy(), rowvar=False))[::-1]
    ranks = np.arange(4, 101)
    slope, _ = np.polyfit(np.log(ranks), np.log(values[3:100]), 1, w=ranks**-0.5)
    assert alpha_req(z) == pytest.approx(-slope, rel=1e-6)


def test_too_few_directions_have_no_alpha():
    assert alpha_req(decaying(1.0, 5)) is None
    assert alpha_req(decaying(1.0, 16)[:, :4] @ torch.ones(4, 16).double()) is None
    assert alpha_req(torch.zeros(9, 16)) is None
    assert alpha_req(torch.full((9, 16), torch.nan)) is None
