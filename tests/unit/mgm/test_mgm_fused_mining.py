"""The mining's kernels: on a GPU, or by Triton's interpreter where Triton is installed."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from recap.mgm import fused_mining
from recap.mgm.fused_mining import attend_fused, gives_right_values
from recap.mgm.mining import attend_chunk

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 1e-5
LAYOUTS = [
    (2, 4, 3, 40),
    (1, 2, 8, 100),
    (3, 3, 2, 64),
    (2, 2, 1, 5),
]  # images, grid, side, channels


def drawn(images, grid, side, channels, kind):
    torch.manual_seed(images + grid)
    projected = torch.randn(images, grid**2, channels, device=DEVICE).to(kind)
    offset = torch.randn(images, grid**2, device=DEVICE).to(kind)
    # the mean is much larger than what is left of a candidate without it
    aux = 3 * torch.randn(images, channels, grid * side, grid * side, device=DEVICE) + 50
    pull = torch.randn(images, grid**2, channels, device=DEVICE).to(kind)
    return projected, offset, aux.to(kind), pull


def results(function, projected, offset, aux, pull, side):
    leaves = [projected.detach().requires_grad_(), offset.detach().requires_grad_()]
    out = function(*leaves, aux, EPS, side)
    return out, *torch.autograd.grad((out * pull).sum(), leaves)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_result_and_gradients_are_those_of_the_float64_formula(layout, channels_last) -> None:
    drawing, side = drawn(*layout, torch.float32), layout[2]
    exact = results(attend_chunk, *(tensor.double() for tensor in drawing), side)
    if channels_last:
        drawing = (
            *drawing[:2],
            drawing[2].contiguous(memory_format=torch.channels_last),
            drawing[3],
        )
    found = results(attend_fused, *drawing, side)
    for own, wanted in zip(found[:2], exact[:2], strict=True):
        assert (own - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    # a constant moves all logits of a query alike: its gradient is rounding
    assert (found[2] - exact[2]).abs().max() <= 1e-5 * exact[1].abs().max()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_lower_types_are_rounded_once(kind) -> None:
    drawing, side = drawn(2, 4, 3, 40, kind), 3
    exact = results(attend_chunk, *(tensor.double() for tensor in drawing), side)
    found = results(attend_fused, *drawing, side)
    for own, wanted in zip(found[:2], exact[:2], strict=True):
        assert own.dtype == kind
        assert (own - wanted).abs().max() <= torch.finfo(kind).eps * wanted.abs().max()


def test_part_of_a_map_is_read_where_it_lies() -> None:
    projected, offset, aux, pull = drawn(1, 2, 3, 16, torch.float32)
    whole = torch.zeros(1, 16, 12, 12, device=DEVICE)
    whole[:, :, 6:, :6] = aux
    part = whole[:, :, 6:, :6]
    assert not part.is_contiguous()
    for own, wanted in zip(
        results(attend_fused, projected, offset, part, pull, 3),
        results(attend_fused, projected, offset, aux, pull, 3),
        strict=True,
    ):
        assert torch.equal(own, wanted)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
def test_logits_out_of_range_are_clamped_and_carry_no_gradient(kind, bad) -> None:
    drawing = drawn(1, 2, 3, 16, kind)
    drawing[1][0, 1] = bad  # all logits of one query
    found = results(attend_fused, *drawing, 3)
    wanted = results(attend_chunk, *drawing, 3)
    for own, other in zip(found, wanted, strict=True):
        assert torch.isfinite(own).all()
        torch.testing.assert_close(own, other, rtol=0.1, atol=0.1)
    assert not found[1][0, 1].any()
    assert not found[2][0, 1]
    assert found[1][0, 0].any()


def test_it_is_tried_out_without_touching_the_random_state(monkeypatch) -> None:
    before = torch.get_rng_state()
    with torch.inference_mode():
        assert gives_right_values(DEVICE)
    assert torch.equal(torch.get_rng_state(), before)
    launch = fused_mining._launch

    def wrong(kernel, tensors, *rest):
        launch(kernel, tensors, *rest)
        tensors[-1].add_(1)

    monkeypatch.setattr(fused_mining, "_launch", wrong)
    assert not gives_right_values(DEVICE)
