import weakref

import mgm_oracles as oracle
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recap.errors import RecapError
from recap.mgm.mining import MAX_CHUNK_ELEMENTS, attend_chunk, build_unit, mine_patch_info
from recap.mgm.projector import build_projector, project

BATCH, GRID, SIDE, WIDTH, CHANNELS = 2, 4, 3, 16, 40
ROW = GRID * SIDE**2 * CHANNELS  # candidate elements of a row of queries


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
    torch.manual_seed(oracle.fresh_seed())
    units = [build_unit(WIDTH, WIDTH), build_unit(CHANNELS, WIDTH), build_unit(CHANNELS, WIDTH)]
    for unit in units:
        torch.nn.init.uniform_(unit[0].weight, 0.5, 2.0)
        torch.nn.init.normal_(unit[0].bias)
    tokens = torch.randn(BATCH, GRID * GRID, WIDTH)
    aux = 3 * torch.randn(BATCH, CHANNELS, GRID * SIDE, GRID * SIDE) + 1
    return tokens, aux, *units


def test_agrees_with_the_float64_oracle(setting):
    tokens, aux, *units = setting
    with torch.no_grad():
        found = mine_patch_info(*setting)
    oracle.close(found, oracle.mined(oracle.double(tokens), oracle.double(aux), *units))


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 7, 8, 9])
def test_chunking_changes_nothing(setting, rows):
    """Less than a row, rows of one picture, one picture, both."""
    with torch.no_grad():
        whole = mine_patch_info(*setting)
        parts = mine_patch_info(*setting, max_chunk_elements=rows * ROW)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)


def gradients(function, tokens, aux, *units, **options):
    """Output, and gradients of a random projection of it, with respect to all that goes in."""
    tokens, aux = (x.detach().clone().requires_grad_() for x in (tokens, aux))
    leaves = [tokens, aux, *(p for unit in units for p in unit.parameters())]
    out = function(tokens, aux, *units, **options)
    pull = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return out, torch.autograd.grad((out * pull.to(out.dtype)).sum(), leaves)


def test_gradients_equal_the_plain_formula(setting):
    """Those of the map too, although the tower is frozen in training."""
    double = [item.double() for item in setting]
    ours, ours_grad = gradients(mine_patch_info, *double, max_chunk_elements=2 * ROW)
    theirs, theirs_grad = gradients(plain, *double)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    for found, wanted in zip(ours_grad, theirs_grad, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)


def test_float32_gradients_equal_the_float64_formula(setting):
    single = [item.float() for item in setting]
    _, found = gradients(mine_patch_info, *single, max_chunk_elements=2 * ROW)
    _, wanted = gradients(plain, *(item.double() for item in setting))
    largest = max(x.abs().max() for x in wanted)
    for own, exact in zip(found, wanted, strict=True):
        # the bias of the keys moves all logits of a query alike: its gradient is rounding
        scale = exact.abs().max() if exact.abs().max() > 1e-9 * largest else largest
        assert (own - exact).abs().max() <= 1e-5 * scale


def test_the_map_s_gradient_needs_the_map_s_graph_alone(setting):
    """With a frozen tower nothing of the candidates' size is differentiated."""
    tokens, aux, *units = setting
    out = mine_patch_info(tokens, aux, *units)
    leaves = [p for unit in units for p in unit.parameters()]
    _, wanted = gradients(mine_patch_info, tokens, aux, *units)
    pull = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = torch.autograd.grad((out * pull.float()).sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted[2:], strict=True))


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_the_guard_candidate_by_candidate(kind):
    """Logits +inf, -inf and NaN become the type's largest, its lowest, and zero."""
    aux = torch.tensor([[3.0, -3.0], [-1.0, 1.0]]).repeat(2, 1).reshape(1, 4, 1, 2).to(kind)
    block = aux[0, :, 0].float().T  # two candidates a block of one row, two columns
    normed = (block - block.mean(-1, keepdim=True)) / (block.var(-1, False, True) + 1e-5).sqrt()
    huge = torch.finfo(kind).max
    for entry, wanted in (
        (huge, [1.0, 0.0]),  # +inf and -inf: all weight on the first
        (-huge, [0.0, 1.0]),
        (float("nan"), [0.5, 0.5]),  # zero each
    ):
        projected = torch.tensor([entry, 0, entry, 0], dtype=kind).reshape(1, 1, 4)
        stacked = aux.reshape(1, 4, 2, 1).expand(1, 4, 2, 2).contiguous()
        stacked[..., 1] = stacked[..., 0]
        found = attend_chunk(projected, torch.zeros(1, 1, dtype=kind), stacked, 1e-5, 2)
        share = torch.tensor(wanted)
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found[0, 0].float(), share @ normed, rtol=0.01, atol=0.01)


def test_infinite_logits_are_clamped_and_carry_no_gradient(setting):
    """As in the plain formula: both stay finite, where query, key and value are."""
    tokens, aux, query, key, value = setting
    with torch.no_grad():
        query[1].weight.mul_(1e36)
        key[1].weight.mul_(300)
        q, k = query(tokens), key(aux.permute(0, 2, 3, 1))
        sums = torch.einsum("bnd,bhwd->bnhw", q, k)
        assert torch.isfinite(q).all()
        assert torch.isinf(sums).any()
    for function in (mine_patch_info, plain):
        out, found = gradients(function, tokens, aux, query, key, value)
        assert torch.isfinite(out).all()
        assert all(torch.isfinite(gradient).all() for gradient in found[2:])
        assert all(gradient.any() for gradient in found[-4:])  # those of the values


def test_a_clamped_logit_has_no_gradient():
    """One infinite candidate of three: only the finite ones are differentiated."""
    normal = torch.randn(1, 6, 1, 3).expand(1, 6, 3, 3).contiguous()
    offset = torch.zeros(1, 1, requires_grad=True)
    projected = torch.zeros(1, 1, 6, requires_grad=True)
    moved = torch.autograd.grad(
        attend_chunk(projected, offset, normal, 1e-5, 3)[..., 0].sum(), [projected, offset]
    )
    assert moved[0].any()
    for bad in (float("inf"), -float("inf"), float("nan")):
        clamped = torch.full((1, 1), bad, requires_grad=True)  # every logit is bad
        out = attend_chunk(projected, clamped, normal, 1e-5, 3)
        assert torch.isfinite(out).all()
        found = torch.autograd.grad(out[..., 0].sum(), [projected, clamped])
        assert not found[0].any()
        assert not found[1].any()


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


class Allocations(TorchDispatchMode):
    """Elements of the largest new tensor, and of all new ones alive at the same time."""

    def __init__(self):
        super().__init__()
        self.largest = self.alive = self.peak = 0
        self._known = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if is_tensor(x)}
        out = function(*args, **(kwargs or {}))
        for tensor in filter(is_tensor, tree_leaves(out)):
            storage = tensor.untyped_storage()
            if id(storage) not in given and id(storage) not in self._known:
                elements = storage.nbytes() // tensor.element_size()
                self._known[id(storage)] = elements
                weakref.finalize(storage, self._forget, id(storage))
                self.alive += elements
                self.largest = max(self.largest, elements)
                self.peak = max(self.peak, self.alive)
        return out

    def _forget(self, key):
        self.alive -= self._known.pop(key)


def is_tensor(x):
    return isinstance(x, torch.Tensor)


def full_size(batch, train):
    """Shapes of MGM-2B at 768 pixels, without storage."""
    with torch.device("meta"):
        units = [build_unit(1024, 1024), build_unit(2880, 1024), build_unit(2880, 1024)]
        tokens = torch.empty(batch, 576, 1024, dtype=torch.bfloat16)
        aux = torch.empty(batch, 2880, 192, 192, dtype=torch.bfloat16)
    for unit in units:
        unit.requires_grad_(train)
    return tokens, aux, units


def measured(function, batch=1, train=True):
    tokens, aux, units = full_size(batch, train)
    with Allocations() as seen:
        out = function(tokens, aux, *units)
        forward = (seen.largest, seen.peak)
        if train:
            out.sum().backward()
    assert out.shape == (batch, 576, 1024)
    return forward, (seen.largest, seen.peak)


MAP = 2880 * 192 * 192  # elements of the auxiliary map; keys or values would be 36,864 x 1024


def full_size_plain(tokens, aux, query, key, value):
    blocks = aux.reshape(len(aux), 2880, 24, 8, 24, 8).permute(0, 2, 4, 3, 5, 1)
    candidates = blocks.reshape(len(aux), 576, 64, 2880)
    query, key, value = (unit.to(torch.bfloat16) for unit in (query, key, value))
    q, k, v = query(tokens)[:, :, None], key(candidates), value(candidates)
    logits = torch.nan_to_num((q * k).sum(-1) / 32)
    return (logits.softmax(-1)[..., None] * v).sum(2)


@pytest.mark.parametrize(("batch", "train"), [(1, True), (3, True), (3, False)])
def test_no_more_than_a_chunk_exists_at_once_at_full_size(batch, train):
    """Neither forward nor backward makes candidates, keys, values or a norm of the whole map."""
    for largest, peak in measured(mine_patch_info, batch, train):
        assert largest <= MAX_CHUNK_ELEMENTS < MAP / 3
        # a chunk, its norm, and some tensors of a token's size or a weight's
        assert peak <= 3 * MAX_CHUNK_ELEMENTS < MAP


def test_the_measure_sees_what_the_plain_formula_makes():
    for largest, peak in measured(full_size_plain):
        assert largest >= MAP
        assert peak >= 2 * MAP


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
    torch.manual_seed(oracle.fresh_seed())
    projector = build_projector(WIDTH, 24)
    x = torch.randn(3, 5, WIDTH)
    found = project(x, projector)
    oracle.close(found, oracle.projected(oracle.double(x), projector))
    torch.testing.assert_close(found, projector(x))
    tanh = projector[2](functional.gelu(projector[0](x), approximate="tanh"))
    with pytest.raises(AssertionError):
        oracle.close(tanh, oracle.projected(oracle.double(x), projector))
