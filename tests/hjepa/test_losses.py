"""Prediction losses and regularizers against published values, lightly and closed forms."""

from collections.abc import Callable
from typing import Any, get_args

import lightly.loss
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from lightly.loss.vicreg_loss import covariance_loss, invariance_loss, variance_loss
from torch import Tensor

from hjepa.config import RunConfig
from hjepa.losses import (
    PREDICTION_LOSSES,
    LossConfig,
    SigregConfig,
    VicregConfig,
    covariance_penalty,
    fixed_directions,
    ntxent,
    prediction_loss,
    random_directions,
    sigreg,
    variance_penalty,
    vicreg,
)
from hjepa.masking import sample_masks
from hjepa.model import Prediction
from hjepa.objective import losses
from hjepa.run import build_run
from tests.hjepa.draws import normal

Tiny = Callable[..., RunConfig]

CPU = torch.device("cpu")
ONE = torch.ones(1, 1)


# SIGReg


def test_sigreg_of_five_even_points_is_the_reference_value():
    assert sigreg(torch.linspace(-1, 1, 5)[:, None], ONE, 17).item() == pytest.approx(0.164788, abs=1e-6)


@pytest.mark.parametrize("samples", [1, 2, 64])
def test_sigreg_of_a_constant_zero_batch_grows_with_its_size(samples: int):
    found = sigreg(torch.zeros(samples, 1), ONE, 17).item()
    assert found == pytest.approx(0.402048 * samples, rel=1e-5)


def test_sigreg_expects_the_reference_value_of_standard_normal_samples():
    # Identity directions make every feature a draw of its own.
    means = torch.stack([sigreg(normal(32, 500, seed=i), torch.eye(500), 17) for i in range(40)])
    error = means.std() / 40**0.5
    assert error < 0.01
    assert (means.mean() - 1.052464).abs() < 4 * error


@pytest.mark.parametrize("seed", range(5))
def test_sigreg_rises_when_features_shrink_or_shift(seed: int):
    z, directions = normal(256, 16, seed=seed), F.normalize(normal(16, 64, seed=99), dim=0)
    fitting = sigreg(z, directions, 17)
    assert sigreg(0.1 * z, directions, 17) > 10 * fitting
    assert sigreg(z + 1, directions, 17) > 10 * fitting


@pytest.mark.parametrize("points", [3, 17, 33])
def test_sigreg_agrees_with_lightly_on_the_same_directions(points: int):
    z = normal(64, 12) * 1.7 + 0.3
    torch.manual_seed(5)
    expected = lightly.loss.SIGReg(knots=points, num_vectors=48)(z)
    torch.manual_seed(5)
    found = sigreg(z, random_directions(12, 48, CPU), points)
    torch.testing.assert_close(found, expected)


@given(st.integers(0, 1000), st.integers(1, 40), st.floats(0, 10))
def test_sigreg_is_no_less_than_zero_and_blind_to_the_order_of_samples(seed: int, count: int, scale: float):
    z, directions = scale * normal(count, 3, seed=seed), F.normalize(normal(3, 4, seed=seed), dim=0)
    found = sigreg(z, directions, 17)
    assert found >= 0
    torch.testing.assert_close(sigreg(z.flip(0), directions, 17), found, rtol=1e-4, atol=1e-4)


def test_random_directions_are_unit_columns():
    torch.testing.assert_close(random_directions(7, 30, CPU).norm(dim=0), torch.ones(30))


# VICReg


def test_variance_penalty_is_the_hinge_of_each_deviation():
    z = normal(50, 6) * torch.tensor([0.0, 0.1, 0.5, 0.9, 1.5, 4.0])
    deviations = np.sqrt(np.var(z.numpy(), axis=0, ddof=1) + 1e-4)
    assert variance_penalty(z).item() == pytest.approx(np.maximum(0, 1 - deviations).mean(), abs=1e-6)
    assert variance_penalty(torch.ones(5, 3)).item() == pytest.approx(0.99)


def test_covariance_penalty_is_the_squared_off_diagonal_over_the_width():
    z = normal(50, 6) @ normal(6, 6, seed=1)
    covariance = np.cov(z.numpy(), rowvar=False)
    expected = (covariance**2).sum() - (np.diag(covariance) ** 2).sum()
    assert covariance_penalty(z).item() == pytest.approx(expected / 6, rel=1e-4)


@pytest.mark.parametrize("eps", [1e-6, 1e-2, 0.5])
def test_the_variance_is_raised_by_what_is_asked_for(eps: float):
    z = 0.3 * normal(40, 8)
    torch.testing.assert_close(variance_penalty(z, eps), variance_loss(z, eps=eps))


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
def test_vicreg_terms_agree_with_lightly(scale: float):
    z, target = scale * normal(40, 8) @ normal(8, 8, seed=1), normal(40, 8, seed=2)
    torch.testing.assert_close(variance_penalty(z), variance_loss(z, eps=1e-4))
    torch.testing.assert_close(covariance_penalty(z), covariance_loss(z))
    terms = vicreg(z, target, VicregConfig(weight=1.0), [z])
    torch.testing.assert_close(terms["vicreg_sim"], 25 * invariance_loss(z, target))


def test_vicreg_of_a_pair_of_equals_agrees_with_lightly_whose_covariance_counts_twice():
    z = 0.3 * normal(40, 8)
    expected = lightly.loss.VICRegLoss(lambda_param=25, mu_param=25, nu_param=0.5)(z, z)
    torch.testing.assert_close(
        torch.stack([*vicreg(z, z, VicregConfig(weight=1), [z, z]).values()]).sum(), expected
    )


def test_vicreg_coefficients_scale_their_terms():
    context, target = 0.3 * normal(20, 4), normal(20, 4, seed=1)
    one = VicregConfig(weight=1, sim_coeff=1, std_coeff=1, cov_coeff=1)
    ones = vicreg(context, target, one, [context])
    found = vicreg(
        context, target, VicregConfig(weight=0.5, sim_coeff=2, std_coeff=3, cov_coeff=4), [context]
    )
    for name, factor in {"vicreg_sim": 1, "vicreg_std": 1.5, "vicreg_cov": 2}.items():
        torch.testing.assert_close(found[name], factor * ones[name])


@pytest.mark.parametrize("penalty", [variance_penalty, covariance_penalty])
def test_vicreg_of_one_sample_is_refused(penalty: Callable[[Tensor], Tensor]):
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        penalty(torch.zeros(1, 4))


# NT-Xent


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("images", [2, 3, 40])
def test_ntxent_and_its_gradients_are_lightlys(temperature: float, images: int):
    views = 0.3 * normal(images, 8).requires_grad_(), normal(images, 8, seed=1).requires_grad_()
    found = ntxent(*views, temperature)
    expected = lightly.loss.NTXentLoss(temperature=temperature)(*views)
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found, views)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, views), rtol=1e-4, atol=1e-6)


def test_ntxent_of_unit_features_needs_no_cosine_and_of_others_sees_their_length():
    views = normal(10, 8), normal(10, 8, seed=1)
    units = [F.normalize(view, dim=1) for view in views]
    torch.testing.assert_close(ntxent(*units, 0.5, cosine=False), ntxent(*views, 0.5))
    # Dot products of vectors twice as long are four times as large.
    torch.testing.assert_close(
        ntxent(2 * views[0], 2 * views[1], 2.0, cosine=False), ntxent(*views, 0.5, cosine=False)
    )


def test_ntxent_of_features_all_alike_is_that_of_a_guess():
    ones = torch.ones(20, 8)
    assert ntxent(ones, ones, 0.1).item() == pytest.approx(np.log(39), rel=1e-5)
    assert ntxent(torch.eye(20), torch.eye(20), 0.1) < 0.01


def test_ntxent_of_one_image_is_refused():
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        ntxent(torch.ones(1, 4), torch.ones(1, 4), 0.1)


# Prediction losses: one contract for every type

every_type = pytest.mark.parametrize("kind", PREDICTION_LOSSES)
every_shape = pytest.mark.parametrize("normalize", [False, True])


def test_every_loss_type_of_the_schema_is_built():
    assert set(get_args(LossConfig.model_fields["type"].annotation)) == set(PREDICTION_LOSSES)


@every_type
@every_shape
def test_a_prediction_that_equals_the_target_costs_nothing(kind: str, normalize: bool):
    z = normal(2, 3, 8)
    found = prediction_loss(z, z.clone(), LossConfig(type=kind, normalize_embeddings=normalize))
    torch.testing.assert_close(found, torch.zeros(2, 3), rtol=0, atol=1e-6)


@every_type
@every_shape
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
def test_no_prediction_costs_less_than_nothing(kind: str, normalize: bool, seed: int, scale: float):
    config = LossConfig(type=kind, normalize_embeddings=normalize)
    found = prediction_loss(scale * normal(2, 3, 8, seed=seed), normal(2, 3, 8, seed=seed + 1), config)
    assert found.shape == (2, 3)
    assert found.isfinite().all()
    assert (found >= -1e-6).all()


@every_type
@every_shape
def test_gradients_reach_every_position_of_the_prediction(kind: str, normalize: bool):
    predicted = normal(2, 3, 8).requires_grad_()
    config = LossConfig(type=kind, normalize_embeddings=normalize)
    prediction_loss(predicted, normal(2, 3, 8, seed=1), config).sum().backward()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()
    assert (predicted.grad.norm(dim=-1) > 0).all()


@every_type
@every_shape
def test_a_position_costs_by_itself_alone(kind: str, normalize: bool):
    config = LossConfig(type=kind, normalize_embeddings=normalize)
    predicted, target = normal(2, 3, 8), normal(2, 3, 8, seed=1)
    before = prediction_loss(predicted, target, config)
    changed = predicted.clone()
    changed[1, 2] = changed[1, 2].flip(0)
    differs = prediction_loss(changed, target, config) != before
    assert differs.nonzero().tolist() == [[1, 2]]


@every_type
def test_normalised_embeddings_have_no_scale(kind: str):
    config = LossConfig(type=kind, normalize_embeddings=True)
    predicted, target = normal(2, 3, 8), normal(2, 3, 8, seed=1)
    expected = prediction_loss(predicted, target, config)
    torch.testing.assert_close(prediction_loss(7 * predicted, 0.1 * target, config), expected)


@pytest.mark.parametrize("kind", ["mse", "smoothl1", "huber"])
def test_embeddings_left_as_they_are_have_a_scale(kind: str):
    predicted, target = normal(2, 3, 8), normal(2, 3, 8, seed=1)
    config = LossConfig(type=kind)
    assert (prediction_loss(7 * predicted, target, config) > prediction_loss(predicted, target, config)).all()


def closed_form(kind: str, error: Tensor, beta: float, delta: float) -> Tensor:
    size = error.abs()
    return {
        "mse": error**2,
        "smoothl1": torch.where(size < beta, error**2 / (2 * beta), size - beta / 2),
        "huber": torch.where(size < delta, error**2 / 2, delta * (size - delta / 2)),
    }[kind].mean(-1)


@pytest.mark.parametrize("kind", ["mse", "smoothl1", "huber"])
@pytest.mark.parametrize("turn", [0.3, 1.0, 2.0])
def test_the_loss_is_the_published_formula(kind: str, turn: float):
    predicted, target = normal(2, 3, 8), normal(2, 3, 8, seed=1)
    config = LossConfig.model_validate({"type": kind, "smoothl1": {"beta": turn}, "huber": {"delta": turn}})
    expected = closed_form(kind, predicted - target, turn, turn)
    torch.testing.assert_close(prediction_loss(predicted, target, config), expected)


@every_type
def test_the_mean_over_positions_is_what_torch_gives(kind: str):
    predicted, target = normal(2, 3, 8), normal(2, 3, 8, seed=1)
    reference = {
        "mse": F.mse_loss(predicted, target),
        "smoothl1": F.smooth_l1_loss(predicted, target),
        "huber": F.huber_loss(predicted, target),
        "cosine": F.cosine_embedding_loss(predicted.flatten(0, 1), target.flatten(0, 1), torch.ones(6)),
    }
    found = prediction_loss(predicted, target, LossConfig(type=kind)).mean()
    torch.testing.assert_close(found, reference[kind])


@pytest.mark.parametrize("weights", [(), (0.0, 0.0), (1.0, -0.5)])
def test_weights_that_weigh_nothing_or_less_are_refused(weights: tuple[float, ...]):
    with pytest.raises(ValueError, match="none may be negative, one must be positive"):
        LossConfig(hierarchy_weights=weights)


# The terms together


def test_hierarchy_weights_scale_the_terms_of_their_levels(tiny: Callable[..., RunConfig]):
    run = build_run(tiny({"loss.use_sigreg": True, "loss.use_vicreg": True}))
    generator = torch.Generator().manual_seed(0)
    masks = sample_masks(run.config.masking, 8, run.model.grid, generator)
    with torch.no_grad():
        prediction = run.model(normal(8, 3, 8, 8), masks)
    weights = run.model.level_weights(masks)
    totals = [level.sum() for level in weights]

    def terms(*hierarchy: float) -> dict[str, Tensor]:
        torch.manual_seed(0)
        changed = {"loss.use_sigreg": True, "loss.use_vicreg": True, "loss.hierarchy_weights": hierarchy}
        return losses(tiny(changed), prediction, weights, totals, 1)

    before, after = terms(1.0, 0.5), terms(3.0, 0.0)
    torch.testing.assert_close(after["train/loss_level0"], 3 * before["train/loss_level0"])
    assert before["train/loss_level1"] > 0
    assert after["train/loss_level1"] == 0
    assert all(after[name] == before[name] for name in before if "level" not in name)
    assert {"train/sigreg", "train/vicreg_sim", "train/vicreg_std", "train/vicreg_cov"} < set(before)


def terms_of(config: RunConfig, images: int = 12, drawn: int = 0) -> tuple[dict[str, Tensor], Prediction]:
    """The loss of a model as initialised, and what it is made of."""
    run = build_run(config)
    generator = torch.Generator().manual_seed(1)
    masks = sample_masks(config.masking, images, run.model.grid, generator)
    views = torch.randn(2, images, 3, 8, 8, generator=generator)
    second = views[1] if config.loss.use_ntxent else None
    prediction = run.model(views[0], masks, second, config.loss.ntxent.on_context)
    weights = run.model.level_weights(masks)
    torch.manual_seed(drawn)
    return losses(config, prediction, weights, [level.sum() for level in weights], 1), prediction


def seen_tokens(prediction: Prediction) -> tuple[Tensor, Tensor]:
    """Context and target tokens of the visible patches, one by one."""
    places = [
        (image, k, patch)
        for image, row in enumerate(prediction.visible_BK.tolist())
        for k, patch in enumerate(row)
    ]
    context = torch.stack([prediction.context_BKD[image, k] for image, k, _ in places])
    return context, torch.stack([prediction.target_BND[image, patch] for image, _, patch in places])


def test_the_prediction_weight_scales_the_levels_and_nothing_else(tiny: Tiny):
    one, _ = terms_of(tiny({"loss.use_sigreg": True}))
    half, _ = terms_of(tiny({"loss.use_sigreg": True, "loss.prediction_weight": 0.5}))
    none, _ = terms_of(tiny({"loss.use_sigreg": True, "loss.prediction_weight": 0.0}))
    for level in ("train/loss_level0", "train/loss_level1"):
        torch.testing.assert_close(half[level], one[level] / 2)
        assert level not in none
    assert one["train/sigreg"] == half["train/sigreg"] == none["train/sigreg"] > 0


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"use_sigreg": True, "sigreg": {"weight": 0.0}},
        {"use_ntxent": True, "ntxent": {"weight": 0.0}},
        {"use_vicreg": True, "vicreg": {"sim_coeff": 0.0, "std_coeff": 0.0, "cov_coeff": 0.0}},
    ],
    ids=str,
)
def test_a_loss_of_nothing_is_refused(others: dict[str, Any]):
    with pytest.raises(ValueError, match="prediction_weight is 0 and no other term has a weight"):
        LossConfig.model_validate({"prediction_weight": 0.0} | others)


def test_cjepa_by_vicreg_is_the_prediction_loss_and_lightlys_vicreg_of_pooled_features(tiny: Tiny):
    plain, _ = terms_of(tiny())
    both, prediction = terms_of(tiny({"loss.use_vicreg": True, "loss.vicreg.weight": 1.0}))
    context, target = prediction.context_BD, prediction.target_BD
    torch.testing.assert_close(context, prediction.context_BKD.mean(1))
    expected = 25 * invariance_loss(context, target) + 25 * variance_loss(context) + covariance_loss(context)
    torch.testing.assert_close(torch.stack([*both.values()]).sum(), sum(plain.values()) + expected)


@pytest.mark.parametrize("on_context", [False, True])
def test_cjepa_by_ntxent_is_the_prediction_loss_and_lightlys_contrast_of_two_views(
    tiny: Tiny, on_context: bool
):
    changed = {"loss.use_ntxent": True, "loss.ntxent.on_context": on_context}
    plain, _ = terms_of(tiny())
    both, prediction = terms_of(tiny(changed))
    assert prediction.second_BD is not None
    assert prediction.second_BD.requires_grad is on_context
    contrast = lightly.loss.NTXentLoss(temperature=0.1)(prediction.context_BD, prediction.second_BD)
    torch.testing.assert_close(torch.stack([*both.values()]).sum(), sum(plain.values()) + 0.1 * contrast)


def test_without_a_target_encoder_both_sides_are_regularized(tiny: Tiny):
    alone = {"model.use_target_encoder": False, "loss.use_vicreg": True, "loss.use_sigreg": True}
    terms, prediction = terms_of(tiny(alone | {"loss.vicreg.weight": 1.0, "loss.sigreg.weight": 1.0}))
    sides = prediction.context_BD, prediction.target_BD
    reference = lightly.loss.VICRegLoss(lambda_param=25, mu_param=25, nu_param=0.5)(*sides)
    found = torch.stack([terms[f"train/vicreg_{name}"] for name in ("sim", "std", "cov")]).sum()
    torch.testing.assert_close(found, reference)
    torch.manual_seed(0)
    directions = random_directions(16, 256, CPU)
    expected = torch.stack([sigreg(side, directions, 17) for side in sides]).mean()
    torch.testing.assert_close(terms["train/sigreg"], expected)


def test_over_patches_the_samples_are_the_visible_tokens_and_the_targets_at_their_places(tiny: Tiny):
    flat = {"loss.use_vicreg": True, "loss.vicreg.flatten_patches": True, "loss.vicreg.weight": 1.0}
    flat |= {"loss.use_sigreg": True, "loss.sigreg.flatten_patches": True, "loss.sigreg.weight": 1.0}
    terms, prediction = terms_of(tiny(flat))
    context, target = seen_tokens(prediction)
    assert len(context) == 12 * prediction.visible_BK.shape[1]
    torch.testing.assert_close(terms["train/vicreg_sim"], 25 * invariance_loss(context, target))
    torch.testing.assert_close(terms["train/vicreg_std"], 25 * variance_loss(context))
    torch.testing.assert_close(terms["train/vicreg_cov"], covariance_loss(context))
    torch.manual_seed(0)
    torch.testing.assert_close(terms["train/sigreg"], lightly.loss.SIGReg(knots=17, num_vectors=256)(context))


def test_fixed_slices_are_those_of_the_seed_at_every_step_and_draw_nothing(tiny: Tiny):
    fixed = {"loss.use_sigreg": True, "loss.sigreg.fixed_slices": True}

    def found(changed: dict[str, Any], drawn: int) -> float:
        return terms_of(tiny({"loss.use_sigreg": True} | changed), drawn=drawn)[0]["train/sigreg"].item()

    assert found(fixed, 0) == found(fixed, 1)
    assert found({}, 0) != found({}, 1)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    directions = fixed_directions.__wrapped__(7, 30, 3, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(fixed_directions(7, 30, 3, CPU), directions)
    assert not torch.equal(fixed_directions(7, 30, 4, CPU), directions)
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(30))


def test_the_defaults_are_those_of_the_papers():
    assert (VicregConfig().sim_coeff, VicregConfig().std_coeff, VicregConfig().cov_coeff) == (25, 25, 1)
    assert SigregConfig().num_points == 17
