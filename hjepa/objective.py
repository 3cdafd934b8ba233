"""The objective: what the model's predictions cost, term by term.

Shape letters: S samples of a part of a step, L positions of a level, D features.
"""

import torch
from torch import Tensor

from hjepa.config import RunConfig
from hjepa.losses import ntxent, prediction_loss, random_directions, sigreg, vicreg
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
    the whole step.
    """
    terms = _predictions(config, prediction, weights, totals)
    context_SD, target_SD = prediction.context_BD.float(), prediction.target_BD.float()
    # A target that learns can collapse by itself: it is held up as the context is.
    learning = [context_SD] if config.model.use_target_encoder else [context_SD, target_SD]
    local_BVD = None if prediction.local_BVD is None else prediction.local_BVD.float()
    if config.data.use_multicrop and config.loss.multicrop.weight > 0:
        distance = view_distance(context_SD, target_SD, local_BVD, config.global_crops, config.loss)
        if distance is not None:
            terms["train/multicrop"] = config.loss.multicrop.weight * distance / parts
    if config.loss.use_vicreg:
        for name, term in vicreg(context_SD, target_SD, config.loss.vicreg, learning).items():
            terms[f"train/{name}"] = term / parts
    if config.loss.use_sigreg:
        settings = config.loss.sigreg
        directions_DK = random_directions(context_SD.shape[1], settings.num_slices, context_SD.device)
        # View by view, as in LeJEPA: each has to be normal, not only all of them together.
        views = by_view(learning, local_BVD, config.global_crops)
        distances = [sigreg(view_BD, directions_DK, settings.num_points) for view_BD in views]
        terms["train/sigreg"] = settings.weight * torch.stack(distances).mean() / parts
    if config.loss.use_ntxent:
        assert prediction.second_BD is not None
        settings = config.loss.ntxent
        contrast = ntxent(context_SD, prediction.second_BD.float(), settings.temperature)
        terms["train/ntxent"] = settings.weight * contrast / parts
    return terms


def _predictions(
    config: RunConfig, prediction: Prediction, weights: list[Tensor], totals: list[Tensor]
) -> dict[str, Tensor]:
    """The weighted prediction loss of each level."""
    terms: dict[str, Tensor] = {}
    levels = zip(config.loss.hierarchy_weights, prediction.predicted, prediction.target, strict=True)
    for level, (weight, predicted_SLD, target_SLD) in enumerate(levels):
        error_SL = prediction_loss(predicted_SLD.float(), target_SLD.float(), config.loss)
        total = totals[level].clamp_min(1e-6)
        terms[f"train/loss_level{level}"] = weight * (error_SL * weights[level]).sum() / total
    return terms
