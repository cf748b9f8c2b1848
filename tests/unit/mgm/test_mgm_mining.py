import numpy as np
import pytest
import torch
from scipy.special import erf
from torch.nn import functional

from recap.errors import RecapError
from recap.mgm.mining import build_unit, mine_patch_info
from recap.mgm.projector import build_projector, project

BATCH, GRID, SIDE, WIDTH, CHANNELS = 2, 4, 3, 16, 40
ROW = GRID * SIDE**2 * CHANNELS  # candidate elements of a row of queries


def normed(x, norm):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    weight, bias = (p.detach().double().numpy() for p in (norm.weight, norm.bias))
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def affine(x, layer):
    weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
    return x @ weight.T + bias


def oracle(tokens, aux, query, key, value):
    """The formula candidate by candidate, in float64."""
    x, a = tokens.detach().double().numpy(), aux.detach().double().numpy()
    q = affine(normed(x, query[0]), query[1])
    out = np.empty_like(x)
    for b in range(len(x)):
        for n in range(x.shape[1]):
            r, c = divmod(n, GRID)
            block = a[b, :, r * SIDE : (r + 1) * SIDE, c * SIDE : (c + 1) * SIDE]
            candidates = block.reshape(block.shape[0], -1).T
            k = affine(normed(candidates, key[0]), key[1])
            v = affine(normed(candidates, value[0]), value[1])
            logits = k @ q[b, n] / np.sqrt(x.shape[-1])
            weights = np.exp(logits - logits.max())
            out[b, n] = (weights / weights.sum()) @ v
    return out


def plain(tokens, aux, query, key, value):
    """The formula as upstream computes it, in torch, for gradients."""
    b, channels = aux.shape[:2]
    blocks = aux.reshape(b, channels, GRID, SIDE, GRID, SIDE).permute(0, 2, 4, 3, 5, 1)
    candidates = blocks.reshape(b, GRID * GRID, SIDE * SIDE, channels)
    q, k, v = query(tokens)[:, :, None], key(candidates), value(candidates)
    logits = torch.nan_to_num((q * k).sum(-1) / tokens.shape[-1] ** 0.5)
    return (logits.softmax(-1)[..., None] * v).sum(2)


@pytest.fixture
def setting():
    torch.manual_seed(np.random.default_rng().integers(1 << 30))
    units = [build_unit(WIDTH, WIDTH), build_unit(CHANNELS, WIDTH), build_unit(CHANNELS, WIDTH)]
    for unit in units:
        torch.nn.init.uniform_(unit[0].weight, 0.5, 2.0)
        torch.nn.init.normal_(unit[0].bias)
    tokens = torch.randn(BATCH, GRID * GRID, WIDTH)
    aux = 3 * torch.randn(BATCH, CHANNELS, GRID * SIDE, GRID * SIDE) + 1
    return tokens, aux, *units


def test_agrees_with_the_float64_oracle(setting):
    with torch.no_grad():
        found = mine_patch_info(*setting).numpy()
    wanted = oracle(*setting)
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 7, 8, 9])
def test_chunking_changes_nothing(setting, rows):
    """Less than a row, rows of one picture, one picture, both."""
    with torch.no_grad():
        whole = mine_patch_info(*setting)
        parts = mine_patch_info(*setting, max_chunk_elements=rows * ROW)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)


def test_gradients_equal_the_plain_formula(setting):
    tokens, aux, *units = [item.double() for item in setting]
    tokens, aux = tokens.requires_grad_(), aux.requires_grad_()
    leaves = [tokens, aux, *(p for unit in units for p in unit.parameters())]
    pull = torch.randn(BATCH, GRID * GRID, WIDTH, dtype=torch.float64)
    ours = mine_patch_info(tokens, aux, *units, max_chunk_elements=2 * ROW)
    theirs = plain(tokens, aux, *units)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    ours_grad = torch.autograd.grad((ours * pull).sum(), leaves, allow_unused=True)
    theirs_grad = torch.autograd.grad((theirs * pull).sum(), leaves)
    for own, wanted in zip(ours_grad, theirs_grad, strict=True):
        found = torch.zeros_like(wanted) if own is None else own
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)


def test_infinite_logits_are_clamped_not_spread(setting):
    tokens, aux, query, key, value = setting
    with torch.no_grad():
        query[1].weight.mul_(1e30)
        key[1].weight.mul_(1e30)
        found = mine_patch_info(tokens, aux, query, key, value)
    assert torch.isfinite(found).all()


def test_the_normalised_map_never_exists_as_a_whole(setting):
    tokens, aux, *units = setting

    def saved_elements(function):
        saved = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() != aux.untyped_storage().data_ptr():
                saved[storage.data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = function()
        assert result.requires_grad
        return sum(tensor.numel() for tensor in saved.values())

    ours = saved_elements(lambda: mine_patch_info(tokens, aux, *units, max_chunk_elements=ROW))
    assert ours < aux.numel() < saved_elements(lambda: plain(tokens, aux, *units))


def test_float32_weights_serve_lower_types(setting):
    tokens, aux, *units = setting
    with torch.no_grad():
        exact = mine_patch_info(tokens, aux, *units)
        rough = mine_patch_info(tokens.bfloat16(), aux.bfloat16(), *units)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_maps_that_do_not_tile_are_refused(setting):
    tokens, aux, *units = setting
    with pytest.raises(RecapError, match="do not tile"):
        mine_patch_info(tokens[:, :-1], aux, *units)
    with pytest.raises(RecapError, match="do not tile"):
        mine_patch_info(tokens, aux[..., :-1], *units)


def test_projector_is_linear_exact_gelu_linear():
    projector = build_projector(WIDTH, 24)
    x = torch.randn(3, 5, WIDTH)
    hidden = affine(x.double().numpy(), projector[0])
    hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
    wanted = affine(hidden, projector[2])
    found = project(x, projector).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(project(x, projector), projector(x))
    tanh = projector[2](functional.gelu(projector[0](x), approximate="tanh"))
    assert not torch.equal(project(x, projector), tanh)
