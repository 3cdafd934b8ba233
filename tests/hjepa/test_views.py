"""The distance between the views of an image, and the sets of samples that SIGReg sees."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.views import by_view, view_distance


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(context: Tensor, target: Tensor, local: Tensor) -> Tensor:
    """Pair by pair: every crop of every image against the mean of the other global crops' targets."""
    dim = target.shape[-1]
    errors = []
    for image in range(len(target)):
        targets = [F.layer_norm(view, (dim,)) for view in target[image]]
        for number, crop in enumerate([*context[image], *local[image]]):
            others = [view for other, view in enumerate(targets) if other != number]
            if not others:
                continue
            held_to = torch.stack(others).mean(0)
            errors.append((F.layer_norm(crop, (dim,)) - held_to).square().mean())
    return torch.stack(errors).mean()


@pytest.mark.parametrize(("global_crops", "local_crops"), [(1, 3), (2, 0), (2, 4), (3, 2)])
def test_each_crop_is_held_to_the_mean_of_the_other_global_crops(global_crops: int, local_crops: int):
    context, target = random(5, global_crops, 8), random(5, global_crops, 8, seed=1)
    local = random(5, local_crops, 8, seed=2)
    crops = (context.flatten(0, 1), target.flatten(0, 1), local if local_crops else None)
    torch.testing.assert_close(view_distance(*crops, global_crops), reference(context, target, local))


def test_a_crop_that_is_alone_has_no_distance():
    assert view_distance(random(5, 8), random(5, 8), None, 1) is None


def test_views_with_the_same_features_are_not_apart_whatever_their_scale():
    target = random(5, 1, 8).expand(5, 2, 8).flatten(0, 1)
    local = 3 * target.view(5, 2, 8) + 1
    found = view_distance(target, target, local, 2)
    assert found is not None
    assert found.item() == pytest.approx(0, abs=1e-8)
    apart = view_distance(target, target, local.roll(1, 0), 2)
    assert apart is not None
    assert apart > 0.1


def test_the_gradient_reaches_local_and_global_crops_and_a_target_that_learns():
    context, target, local = random(6, 8), random(6, 8, seed=1), random(3, 2, 8, seed=2)
    for tensor in (context, target, local):
        tensor.requires_grad_()
    found = view_distance(context, target, local, 2)
    assert found is not None
    found.backward()
    for tensor in (context, target, local):
        assert tensor.grad is not None
        assert (tensor.grad.flatten(0, -2).norm(dim=-1) > 0).all()


def test_samples_are_apart_by_view():
    context, target, local = random(6, 8), random(6, 8, seed=1), random(3, 2, 5, 8, seed=2)
    found = by_view([context, target], local, 3, 2, False)
    pooled = local.mean(2)
    expected = [context[::2], context[1::2], target[::2], target[1::2], pooled[:, 0], pooled[:, 1]]
    torch.testing.assert_close(found, expected)
    assert torch.equal(*by_view([context], None, 6, 1, False), context)


def test_patches_are_samples_of_the_view_that_they_are_of():
    context, local = random(3, 2, 4, 8), random(3, 2, 5, 8)
    found = by_view([context.flatten(0, 2)], local, 3, 2, True)
    expected = [of_crop.reshape(-1, 8) for crops in (context, local) for of_crop in crops.unbind(1)]
    torch.testing.assert_close(found, expected)
