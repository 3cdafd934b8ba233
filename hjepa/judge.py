"""What a run's features are worth: the metrics of `hjepa.evaluate`, on the run's images.

Shape letters: N images of a split or bank, M evaluation images, V views, D features.
"""

import os
from collections.abc import Callable
from dataclasses import replace
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
from hjepa.lanes import Part
from hjepa.masking import sample_masks
from hjepa.measure import evaluation_batch
from hjepa.model import Prediction, join
from hjepa.objective import losses
from hjepa.probe import linear_probe_accuracy
from hjepa.run import Run, autocast, build_run, random_stream, to_device
from hjepa.step import NonFiniteError, draw_local, gathered_names, look

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
    size = evaluation_batch(run.config)
    batches = np.split(indices_N, range(size, len(indices_N), size))
    with autocast(run), split.ahead(batches):
        return torch.cat([of(view(to_device(run, split, b))).float() for b in batches])


def view_features(run: Run) -> Tensor:
    """Target features of augmented views of the evaluation split's images, (N, V, D), for LiDAR."""
    settings, val = run.config.evaluation.lidar, run.data.val
    indices_N = evenly_spread(val, settings.num_images)
    with random_stream(run.config.data.split_seed, VIEWS_STREAM):
        views = [
            image_features(run, val, indices_N, _augmented(run, len(indices_N)), run.model.features)
            for _ in range(settings.num_views)
        ]
    return torch.stack(views, dim=1)


def _augmented(run: Run, count: int) -> Callable[[Tensor], Tensor]:
    """Augmented views of `count` images, which come batch by batch: drawn for all at once, so that the
    batches, which depend on the model's size, change nothing."""
    drawn, done = run.augment.draw(count), 0

    def view(images_BCHW: Tensor) -> Tensor:
        nonlocal done
        rows, done = slice(done, done + len(images_BCHW)), done + len(images_BCHW)
        return run.augment.apply_drawn(images_BCHW, drawn.take(lambda values: values[rows]))

    return view


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

    Masks and regularizers are of a batch: images go in as few batches of data.batch_size at the most as they
    fill, all of the same size to within one. They are not augmented, but for the second view of NT-Xent and
    several crops of an image, to which equal views would say nothing. What is drawn is the same at every
    evaluation and for every seed. Of several processes each takes its rows of every batch, as in training.
    """
    val = run.data.val
    run.model.eval()
    sums: dict[str, Tensor] = {}
    batches = loss_batches(len(val), run.config.data.batch_size)
    shares = [_share(run, len(indices_B)) for indices_B in batches]
    own = [share.take(indices_B) for share, indices_B in zip(shares, batches, strict=True)]
    with random_stream(run.config.data.split_seed, LOSS_STREAM), val.ahead(own):
        for indices_P, share in zip(own, shares, strict=True):
            for name, term in _batch_loss(run, val, indices_P, share).items():
                sums[name] = sums.get(name, 0) + term * share.batch
    totals = run.team.sum(torch.stack(list(sums.values())))
    return dict(zip(sums, (totals / len(val)).tolist(), strict=True))


def loss_batches(count: int, batch_size: int) -> list[np.ndarray]:
    """Positions of `count` images, 2 or more, in the fewest batches of `batch_size` at the most, as even as
    can be. One more is in a batch only where an image would be left alone, which has no statistics."""
    return np.array_split(np.arange(count), min(-(-count // batch_size), count // 2))


def _share(run: Run, count: int) -> Share:
    """This process's rows of `count` images, as many for each: the last image stands for missing ones."""
    each = -(-count // run.team.size)
    rows = np.arange(run.team.rank * each, (run.team.rank + 1) * each)
    return Share(count, rows.clip(max=count - 1))


def _batch_loss(run: Run, split: Split, indices_P: np.ndarray, share: Share) -> dict[str, Tensor]:
    """This process's part of the terms of a batch; those of all processes add up."""
    config, model, crops = run.config, run.model, run.config.global_crops
    stored_PCHW = to_device(run, split, indices_P)
    if run.crops is None:
        images_SCHW, boxes_PV4 = run.augment.plain(stored_PCHW), None
    else:
        images_SCHW, boxes_PV4 = run.crops.global_views(stored_PCHW, share)
    own = share.of_each(crops)
    masks = sample_masks(config.masking, own.batch, model.grid, torch.default_generator).of(own)
    masks = masks.to(run.device)
    second_PCHW = run.augment(stored_PCHW, share) if config.loss.adds_ntxent else None
    # As many as in the epoch that has just ended.
    local = draw_local(run, stored_PCHW, boxes_PV4, share, max(run.epoch - 1, 0))
    first = run.team.rank * len(indices_P)
    counts_P1 = torch.arange(first, first + len(indices_P), device=run.device)[:, None] < share.batch
    counts_S1 = counts_P1.repeat_interleave(crops, dim=0)
    weights = [weights_SL * counts_S1 for weights_SL in model.level_weights(masks)]
    totals = list(run.team.sum(torch.stack([weights_SL.sum() for weights_SL in weights])))
    part = Part(images_SCHW, masks, second_PCHW, local)
    prediction = _gathered(run, _predicted(run, part), share.batch)
    terms = losses(config, prediction, weights, totals, run.team.size)
    named = {f"val/{name.removeprefix('train/')}": term for name, term in terms.items()}
    return {"val/loss": torch.stack(list(named.values())).sum(), **named}


def _predicted(run: Run, part: Part) -> Prediction:
    """What the model says of images, of which it is shown a few at a time."""
    crops, local = run.config.global_crops, part.local
    encoded = crops
    if local is not None:
        encoded = max(crops, local.images_BVCHW[0].numel() // part.images_BCHW[0].numel())
    size = max(1, evaluation_batch(run.config) // encoded)
    few = torch.arange(len(part.images_BCHW)).split(size * crops)
    return join([look(run, some) for some in part.split([len(rows) for rows in few])])


def _gathered(run: Run, prediction: Prediction, images: int) -> Prediction:
    """With what regularizers take statistics of from all processes, each of `images` once."""
    if not run.team.grouped:
        return prediction
    whole: dict[str, Tensor] = {}
    for name in gathered_names(run.config):
        value: Tensor | None = getattr(prediction, name)
        if value is not None:
            of_each = 1 if name == "local_BVPD" else run.config.global_crops
            whole[name] = run.team.gather(value)[: images * of_each]
    return replace(prediction, **whole)


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
    if weights is not None and Path(os.path.expanduser(weights)).is_file():
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
