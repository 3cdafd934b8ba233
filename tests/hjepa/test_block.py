"""A transformer block's parts: attention by every kernel, and dropped paths."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hjepa.block import FEW_TOKENS, Attention, BlockSpec, DropPath, rotate
from hjepa.encoder import rotary_table
from tests.hjepa.draws import normal

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
with_and_without_rope = pytest.mark.parametrize("rope", [False, True])


class Operations(TorchDispatchMode):
    """Within, collects the names of torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names = set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def fused(attention: Attention, x_BKD: Tensor) -> list[str]:
    """The kernels of attention in one piece that a pass goes through."""
    with Operations() as seen:
        attention(x_BKD)
    return [name for name in seen.names if "scaled_dot_product" in name]


def attention(flash: bool) -> Attention:
    torch.manual_seed(0)
    return Attention(BlockSpec(32, num_heads=2, mlp_ratio=4.0, flash=flash))


@pytest.mark.parametrize("flash", [False, True])
@with_and_without_rope
def test_either_kernel_gives_softmax_attention_and_its_gradient(flash: bool, rope: bool):
    layer, x_BKD = attention(flash), normal(3, 12, 32).requires_grad_()
    rotary = rotary_table((3, 4), 16, 100.0) if rope else None
    q_BHKE, k_BHKE, v_BHKE = layer.qkv(x_BKD).view(3, 12, 3, 2, 16).permute(2, 0, 3, 1, 4)
    if rotary is not None:
        q_BHKE, k_BHKE = rotate(q_BHKE, rotary), rotate(k_BHKE, rotary)
    shares = (q_BHKE @ k_BHKE.transpose(2, 3) / 16**0.5).softmax(-1)
    expected = layer.proj((shares @ v_BHKE).transpose(1, 2).reshape(3, 12, 32))
    found = layer(x_BKD, rotary)
    torch.testing.assert_close(found, expected)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), x_BKD)
    (gradient,) = torch.autograd.grad(found.square().sum(), x_BKD)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


def test_the_key_chooses_the_kernel():
    assert fused(attention(False), normal(2, 12, 32)) == []
    assert any("flash" in name for name in fused(attention(True), normal(2, 12, 32)))


@with_and_without_rope
@pytest.mark.parametrize("masked", [False, True])
def test_in_bfloat16_on_the_cpu_attention_is_matrix_products(rope: bool, masked: bool):
    layer = attention(True)
    rotary = rotary_table((3, 4), 16, 100.0) if rope else None
    seen = torch.rand(3, 1, 1, 12, generator=torch.Generator().manual_seed(0)) < 0.7 if masked else None
    seen = seen.index_fill(3, torch.tensor(0), True) if seen is not None else None  # each sees something
    gradients, outputs = [], []
    for bfloat16 in (True, False):
        x_BKD = normal(3, 12, 32).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            if bfloat16:
                with Operations() as operations:
                    layer(x_BKD, rotary, seen)
                assert not [name for name in operations.names if "scaled_dot_product" in name]
            outputs.append(layer(x_BKD, rotary, seen).float())
        gradients += torch.autograd.grad(outputs[-1].square().sum(), x_BKD)
    torch.testing.assert_close(*outputs, rtol=0.02, atol=0.02)
    torch.testing.assert_close(*gradients, rtol=0.05, atol=0.1)


def test_in_bfloat16_attention_over_many_tokens_does_not_hold_every_score():
    x_BKD = normal(1, FEW_TOKENS + 1, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert any("flash" in name for name in fused(attention(True), x_BKD))
        assert fused(attention(True), x_BKD[:, 1:]) == []


@needs_cuda
def test_attention_on_cuda_is_flash_attention_in_bfloat16():
    x_BKD = normal(2, 12, 32).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        assert fused(attention(False).cuda(), x_BKD) == []
        names = fused(attention(True).cuda(), x_BKD)
    # cuDNN's is flash attention too, and torch prefers it on some devices.
    assert any("flash" in name or "cudnn" in name for name in names)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_agree_on_cuda(dtype: torch.dtype):
    x_BKD = normal(2, 50, 32).to("cuda", dtype)
    found, expected = (attention(flash).to("cuda", dtype)(x_BKD) for flash in (True, False))
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-2 if dtype == torch.bfloat16 else 1e-3)


def test_a_dropped_path_is_zero_for_whole_samples_and_the_mean_stays():
    torch.manual_seed(0)
    found = DropPath(0.25).train()(torch.ones(20_000, 2, 3))
    assert torch.equal(found, found[:, :1, :1].expand_as(found))
    assert found.unique().tolist() == pytest.approx([0, 4 / 3])
    # Four standard errors of the mean of a share of 20,000.
    assert found.mean().item() == pytest.approx(1, abs=4 * (1 / 3 / 20_000) ** 0.5)
