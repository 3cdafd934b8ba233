"""The objective: what the model's predictions cost, term by term.

Shape letters: S samples of a part of a step, L positions of a level, D features.
"""

import torch
from torch import Tensor

from hjepa.config import RunConfig
from hjepa.encoder import take
from hjepa.losses import fixed_directions, ntxent, prediction_loss, random_directions, sigreg, vicreg
from hjepa.model import Prediction
from hjepa.views import by_view, view_distance


def losses(
    config: RunConfig,
    prediction: Prediction,
    weights: list[Tensor],
    totals: list[Tensor],
    parts: int,
) -> dict[str, Tensor]:
    """The weighted terms of the loss of one of `parts` parts of a step; their sum is minimised.

    `weights` are the positions' weights of this part, each level (S, L); `totals` their sums over
    the whole step. Of several processes each has parts of its own: a term is either a sum over a
    part's positions divided by the whole step's total, or computed of what all processes' parts hold
    and divided by `parts`. Either way the terms of all parts, and their gradients, add up.
    """
    terms = _predictions(config, prediction, weights, totals)
    local_BVPD = None if prediction.local_BVPD is None else prediction.local_BVPD.float()
    if config.data.use_multicrop and config.loss.multicrop.weight > 0:
        context_SD, target_SD = prediction.context_BD.float(), prediction.target_BD.float()
        local_BVD = None if local_BVPD is None else local_BVPD.mean(2)
        distance = view_distance(context_SD, target_SD, local_BVD, config.global_crops)
        if distance is not None:
            terms["train/multicrop"] = config.loss.multicrop.weight * distance / parts
    if config.loss.adds_vicreg:
        context_SD, target_SD = _samples(prediction, config.loss.vicreg.flatten_patches)
        learning = _learning(config, context_SD, target_SD)
        for name, term in vicreg(context_SD, target_SD, config.loss.vicreg, learning).items():
            terms[f"train/{name}"] = term / parts
    if config.loss.adds_sigreg:
        settings = config.loss.sigreg
        learning = _learning(config, *_samples(prediction, settings.flatten_patches))
        directions_DK = _directions(config, learning[0])
        # View by view, as in LeJEPA: each has to be normal, not only all of them together.
        crops = config.global_crops
        images = len(prediction.context_BD) // crops
        views = by_view(learning, local_BVPD, images, crops, settings.flatten_patches)
        distances = [sigreg(view_SD, directions_DK, settings.num_points) for view_SD in views]
        terms["train/sigreg"] = settings.weight * torch.stack(distances).mean() / parts
    if config.loss.adds_ntxent:
        assert prediction.second_BD is not None
        settings = config.loss.ntxent
        first_SD, second_SD = prediction.context_BD.float(), prediction.second_BD.float()
        contrast = ntxent(first_SD, second_SD, settings.temperature, settings.use_cosine_similarity)
        terms["train/ntxent"] = settings.weight * contrast / parts
    return terms


def _samples(prediction: Prediction, flatten_patches: bool) -> tuple[Tensor, Tensor]:
    """Context and target features of images, or of the visible patches of all images, (S, D) each."""
    if not flatten_patches:
        return prediction.context_BD.float(), prediction.target_BD.float()
    seen_BKD = take(prediction.target_BND, prediction.visible_BK)
    return prediction.context_BKD.float().flatten(0, 1), seen_BKD.float().flatten(0, 1)


def _learning(config: RunConfig, context_SD: Tensor, target_SD: Tensor) -> list[Tensor]:
    """The sides whose features have to be held up."""
    # A target that learns can collapse by itself.
    return [context_SD] if config.model.use_target_encoder else [context_SD, target_SD]


def _directions(config: RunConfig, z_SD: Tensor) -> Tensor:
    features, slices = z_SD.shape[1], config.loss.sigreg.num_slices
    if config.loss.sigreg.fixed_slices:
        return fixed_directions(features, slices, config.seed, z_SD.device)
    return random_directions(features, slices, z_SD.device)


def _predictions(
    config: RunConfig, prediction: Prediction, weights: list[Tensor], totals: list[Tensor]
) -> dict[str, Tensor]:
    """The weighted prediction loss of each level; of none where it weighs nothing."""
    if not config.loss.predicts:
        return {}
    overall = config.loss.prediction_weight
    terms: dict[str, Tensor] = {}
    levels = zip(config.loss.hierarchy_weights, prediction.predicted, prediction.target, strict=True)
    for level, (weight, predicted_SLD, target_SLD) in enumerate(levels):
        error_SL = prediction_loss(predicted_SLD.float(), target_SLD.float(), config.loss)
        total = totals[level].clamp_min(1e-6)
        terms[f"train/loss_level{level}"] = overall * weight * (error_SL * weights[level]).sum() / total
    return terms
