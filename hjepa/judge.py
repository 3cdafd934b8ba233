"""What a run's features are worth: the metrics of `hjepa.evaluate`, on the run's images.

Shape letters: N images of a split or bank, M evaluation images, V views, D features.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hjepa.config import RunConfig
from hjepa.data import Augmentation, Data, Split, load_test
from hjepa.distributed import Share
from hjepa.evaluate import (
    alpha_req,
    collapse_reason,
    feature_std,
    knn_accuracies,
    knn_accuracy,
    knn_accuracy_of_parts,
    lidar,
    rankme,
    raw_pixel_features,
)
from hjepa.masking import sample_masks
from hjepa.objective import losses
from hjepa.probe import linear_probe_accuracy
from hjepa.run import Run, autocast, build_run, random_stream, to_device
from hjepa.step import NonFiniteError, draw_local

EVALUATION_BATCH = 512
RAW_PIXEL_SIDE, RAW_PIXEL_BANK, RAW_PIXEL_QUERIES = 32, 50_000, 10_000
"""Of the raw-pixel baseline: the side in pixels that images are resized to, and the images of bank and
queries; no more than there are."""
_RAW_PIXEL_PART = 8192  # images of the bank at a time, 100 MB
VIEWS_STREAM, LOSS_STREAM = 2**32 - 1, 2**32 - 2  # beyond any epoch's


def split_features(run: Run, split: Split, of: Callable[[Tensor], Tensor]) -> Tensor:
    """`of` applied to a split's images, resized and normalised but not augmented; (N, D) float32.

    Of several processes each computes some and gets all, so all must call this.
    """
    return shared_features(run, split, np.arange(len(split)), run.augment.plain, of)


def shared_features(
    run: Run,
    split: Split,
    indices_N: np.ndarray,
    view: Callable[[Tensor], Tensor],
    of: Callable[[Tensor], Tensor],
) -> Tensor:
    """As `image_features`, the work shared between processes as in `split_features`."""
    each = -(-len(indices_N) // run.team.size)
    # As many for every rank: the last images stand for those that are missing to it.
    own = np.arange(run.team.rank * each, (run.team.rank + 1) * each).clip(max=len(indices_N) - 1)
    own_ND = image_features(run, split, indices_N[own], view, of)
    return run.team.gather(own_ND)[: len(indices_N)]


@torch.no_grad()
def image_features(
    run: Run,
    split: Split,
    indices_N: np.ndarray,
    view: Callable[[Tensor], Tensor],
    of: Callable[[Tensor], Tensor],
) -> Tensor:
    """`of` applied to a view of some of a split's images; (N, D) float32."""
    run.model.eval()
    batches = np.split(indices_N, range(EVALUATION_BATCH, len(indices_N), EVALUATION_BATCH))
    with autocast(run), split.ahead(batches):
        return torch.cat([of(view(to_device(run, split, b))).float() for b in batches])


def view_features(run: Run) -> Tensor:
    """Target features of augmented views of the evaluation split's images, (N, V, D), for LiDAR."""
    settings, val = run.config.evaluation.lidar, run.data.val
    indices_N = evenly_spread(val, settings.num_images)
    with random_stream(run.config.data.split_seed, VIEWS_STREAM):
        views = [
            image_features(run, val, indices_N, run.augment, run.model.features)
            for _ in range(settings.num_views)
        ]
    return torch.stack(views, dim=1)


def evaluate(run: Run) -> tuple[dict[str, float], str | None]:
    """Metrics of the target's features on the evaluation split, and why they count as collapsed."""
    settings, bank = run.config.evaluation, run.data.bank
    bank_ND = split_features(run, bank, run.model.features)
    val_MD = split_features(run, run.data.val, run.model.features)
    if not (bank_ND.isfinite().all() and val_MD.isfinite().all()):
        raise NonFiniteError(f"target features are not finite at step {run.step}")
    bank_N, labels_M = labels(run, bank), labels(run, run.data.val)
    accuracies = knn_accuracies(bank_ND, bank_N, val_MD, labels_M, settings.knn)
    metrics = {
        "val/knn_top1": accuracies[settings.knn.k],
        **{f"val/knn_top1_k{k}": accuracies[k] for k in settings.knn.k_values},
        "val/rankme": rankme(val_MD),
        "val/feature_std": feature_std(val_MD),
    }
    alpha = alpha_req(val_MD)
    if alpha is not None:
        metrics["val/alpha_req"] = alpha
    if settings.lidar.enabled:
        metrics["val/lidar"] = lidar(view_features(run))
    if settings.linear_probe.enabled:
        features = bank_ND, bank_N, val_MD, labels_M
        if run.probe_data is not None:
            features = probe_features(run, run.probe_data)
        metrics["val/linear_probe_top1"] = linear_probe_accuracy(
            *features, settings.linear_probe, run.config.seed
        )
    if settings.val_loss:
        metrics |= evaluation_loss(run)
    return metrics, collapse_reason(val_MD, settings.collapse)


@torch.no_grad()
def evaluation_loss(run: Run) -> dict[str, float]:
    """The run's loss and its terms on the evaluation images, as val/loss and so on.

    Images go data.batch_size at a time (the last batches share what is over), as in training, since masks
    and regularizers are of a batch. They are not augmented, but for the second view of NT-Xent and several
    crops of an image, to which equal views would say nothing. What is drawn is the same at every
    evaluation and for every seed.
    """
    val = run.data.val
    run.model.eval()
    sums: dict[str, Tensor] = {}
    batches = np.array_split(np.arange(len(val)), max(1, len(val) // run.config.data.batch_size))
    with random_stream(run.config.data.split_seed, LOSS_STREAM), val.ahead(batches):
        for indices_B in batches:
            for name, term in _batch_loss(run, val, indices_B).items():
                sums[name] = sums.get(name, 0) + term * len(indices_B)
    return {name: total.item() / len(val) for name, total in sums.items()}


def _batch_loss(run: Run, split: Split, indices_B: np.ndarray) -> dict[str, Tensor]:
    config, model, share = run.config, run.model, Share(len(indices_B), slice(None))
    stored_BCHW = to_device(run, split, indices_B)
    if run.crops is None:
        images_BCHW, boxes_BV4 = run.augment.plain(stored_BCHW), None
    else:
        images_BCHW, boxes_BV4 = run.crops.global_views(stored_BCHW, share)
    masks = sample_masks(config.masking, len(images_BCHW), model.grid, torch.default_generator)
    masks = masks.to(run.device)
    second_BCHW = run.augment(stored_BCHW) if config.loss.use_ntxent else None
    # As many as in the epoch that has just ended.
    local = draw_local(run, stored_BCHW, boxes_BV4, share, max(run.epoch - 1, 0))
    weights = model.level_weights(masks)
    with autocast(run):
        prediction = model(images_BCHW, masks, second_BCHW, config.loss.ntxent.on_context, local)
    terms = losses(config, prediction, weights, [weights_BL.sum() for weights_BL in weights], 1)
    named = {f"val/{name.removeprefix('train/')}": term for name, term in terms.items()}
    return {"val/loss": torch.stack(list(named.values())).sum(), **named}


def probe_features(run: Run, data: Data) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Target features and classes of another data set's bank and evaluation images, normalised as the
    run's own."""
    bank_ND = split_features(run, data.bank, run.model.features)
    val_MD = split_features(run, data.val, run.model.features)
    return bank_ND, labels(run, data.bank), val_MD, labels(run, data.val)


def test_accuracy(run: Run) -> float:
    """k-NN accuracy on the test set, with the training images as bank. Nothing may be chosen by it."""
    found = load_test(run.config.data)
    run.team.meet()
    return split_knn(run, found, run.model.features)


def baselines(config: RunConfig) -> dict[str, float]:
    """What learning has to beat: k-NN accuracy on raw pixels (`raw_pixel_accuracy`), on the model with
    random weights, and with pretrained ones where the config has them and their file is there."""
    run = build_run(config, pretrained=False)
    found = {
        "raw_pixels/knn_top1": raw_pixel_accuracy(run),
        "random_init/knn_top1": split_knn(run, run.data.val, run.model.features),
    }
    weights = config.model.pretrained
    if weights is not None and Path(weights).expanduser().is_file():
        run.model.load_pretrained(config.model)
        found["pretrained/knn_top1"] = split_knn(run, run.data.val, run.model.features)
    return found


def raw_pixel_accuracy(run: Run) -> float:
    """k-NN accuracy on the pixels of images of RAW_PIXEL_SIDE px at the most.

    Of RAW_PIXEL_QUERIES evaluation images and RAW_PIXEL_BANK training images at the most, evenly spread. The
    bank passes through in parts, so memory does not grow with the data set.
    """
    side = min(RAW_PIXEL_SIDE, run.config.data.image_size)
    pixels_C = run.data.mean_C, run.data.std_C
    resize = Augmentation(run.config.data.augmentation, side, *pixels_C).to(run.device)

    def pixels(split: Split, indices_N: np.ndarray) -> tuple[Tensor, Tensor]:
        pixels_ND = shared_features(run, split, indices_N, resize.plain, raw_pixel_features)
        return pixels_ND, labels(run, split)[torch.from_numpy(indices_N).to(run.device)]

    bank, val = run.data.bank, run.data.val
    bank_N = evenly_spread(bank, RAW_PIXEL_BANK)
    parts = np.split(bank_N, range(_RAW_PIXEL_PART, len(bank_N), _RAW_PIXEL_PART))
    return knn_accuracy_of_parts(
        (pixels(bank, part) for part in parts),
        *pixels(val, evenly_spread(val, RAW_PIXEL_QUERIES)),
        run.config.evaluation.knn,
    )


def evenly_spread(split: Split, most: int) -> np.ndarray:
    """Positions of `most` of a split's images, all where there are no more; ascending int64."""
    return np.linspace(0, len(split) - 1, min(most, len(split))).astype(np.int64)


def split_knn(run: Run, queries: Split, of: Callable[[Tensor], Tensor]) -> float:
    """k-NN accuracy of the features `of` images on a split, with the training images as bank."""
    bank = run.data.bank
    return knn_accuracy(
        split_features(run, bank, of),
        labels(run, bank),
        split_features(run, queries, of),
        labels(run, queries),
        run.config.evaluation.knn,
    )


def labels(run: Run, split: Split) -> Tensor:
    """Classes of a split's images, (N,) int64 on the run's device."""
    return torch.from_numpy(split.labels_N).to(run.device)
