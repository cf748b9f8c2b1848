"""The model's formulas in NumPy float64, written from their definitions.

Nothing here shares code with the product; weights come in as torch modules.
"""

import math

import numpy as np
from scipy.special import erf


def double(tensor):
    """A float64 array of a tensor."""
    return tensor.detach().double().numpy()


def close(found, wanted, share=1e-5):
    """Assert agreement to a share of the largest value wanted."""
    found = found if isinstance(found, np.ndarray) else double(found)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= share * np.abs(wanted).max()


def fresh_seed():
    """A seed that differs from run to run; pytest shows it where a test fails."""
    return int(np.random.default_rng().integers(1 << 30))


def normed(x, norm, eps):
    """LayerNorm over the last axis."""
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * double(norm.weight) + double(norm.bias)


def affine(x, layer):
    """Linear over the last axis."""
    return x @ double(layer.weight).T + double(layer.bias)


def gelu(x):
    """The exact GELU."""
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def softmax(x):
    """Softmax over the last axis."""
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def bilinear(x, size):
    """Half-pixel bilinear resizing (B, C, H, W), no antialiasing.

    Sampling positions are taken in float32, as torch does for float32 input: at
    1536 pixels they are off by up to 1e-4 of a pixel. All else is float64.
    """
    for axis in (2, 3):
        length = x.shape[axis]
        ratio, half = np.float32(length) / np.float32(size), np.float32(0.5)
        source = ratio * (np.arange(size, dtype=np.float32) + half) - half
        source = np.maximum(source, 0)
        low = np.minimum(np.floor(source).astype(int), length - 1)
        high = np.minimum(low + 1, length - 1)
        share = (source - low).astype(np.float64)
        share = share.reshape([-1 if index == axis else 1 for index in range(4)])
        x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
    return x


def mined(tokens, aux, query, key, value):
    """What mining adds, candidate by candidate: tokens (B, N, D), aux (B, C, H, W)."""
    grid = math.isqrt(tokens.shape[1])
    side = aux.shape[-1] // grid
    q = affine(normed(tokens, query[0], 1e-5), query[1])
    out = np.empty_like(tokens)
    for b in range(len(tokens)):
        for n in range(tokens.shape[1]):
            r, c = divmod(n, grid)
            block = aux[b, :, r * side : (r + 1) * side, c * side : (c + 1) * side]
            candidates = block.reshape(block.shape[0], -1).T
            k = affine(normed(candidates, key[0], 1e-5), key[1])
            v = affine(normed(candidates, value[0], 1e-5), value[1])
            logits = k @ q[b, n] / np.sqrt(tokens.shape[-1])
            largest = float(np.finfo(np.float32).max)
            logits = np.nan_to_num(logits, nan=0.0, posinf=largest, neginf=-largest)
            out[b, n] = softmax(logits) @ v
    return out


def projected(x, projector):
    """Linear, exact GELU, Linear."""
    return affine(gelu(affine(x, projector[0])), projector[2])


def clip_tower(model, images, layers):
    """Hidden state after ``layers`` layers of a CLIP vision model, CLS dropped."""
    inner = getattr(model, "vision_model", model)
    embed, config = inner.embeddings, model.config
    patch, heads = config.patch_size, config.num_attention_heads
    b, _, height, width = images.shape
    cut = images.reshape(b, 3, height // patch, patch, width // patch, patch)
    cut = cut.transpose(0, 2, 4, 1, 3, 5).reshape(b, -1, 3 * patch * patch)
    kernel = double(embed.patch_embedding.weight).reshape(config.hidden_size, -1)
    cls = np.broadcast_to(double(embed.class_embedding), (b, 1, config.hidden_size))
    x = np.concatenate([cls, cut @ kernel.T], axis=1) + double(embed.position_embedding.weight)
    x = normed(x, inner.pre_layrnorm, config.layer_norm_eps)
    for layer in list(inner.encoder.layers)[:layers]:
        h = normed(x, layer.layer_norm1, config.layer_norm_eps)
        attention = layer.self_attn

        def split(y):
            return y.reshape(b, y.shape[1], heads, -1).transpose(0, 2, 1, 3)

        q, k, v = (split(affine(h, getattr(attention, f"{n}_proj"))) for n in "qkv")
        weights = softmax(q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1]))
        mixed = (weights @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        x = x + affine(mixed, attention.out_proj)
        h = affine(normed(x, layer.layer_norm2, config.layer_norm_eps), layer.mlp.fc1)
        x = x + affine(h / (1 + np.exp(-1.702 * h)), layer.mlp.fc2)
    return x[:, 1:]


def convnext_tower(tower, images):
    """All stages of a ConvNeXt at the first one's size, joined."""

    def patches(x, layer):  # a convolution whose kernel is its stride
        b, c, height, width = x.shape
        size = layer.weight.shape[-1]
        cut = x.reshape(b, c, height // size, size, width // size, size)
        out = np.einsum("bchiwj,ocij->bohw", cut, double(layer.weight), optimize=True)
        return out + double(layer.bias)[:, None, None]

    def channel_normed(x, norm):
        return np.moveaxis(normed(np.moveaxis(x, 1, -1), norm, 1e-6), -1, 1)

    x = channel_normed(patches(images, tower.vision_stem[0]), tower.vision_stem[1])
    outputs = []
    for index, stage in enumerate(tower.vision_stages):
        if index:
            x = patches(channel_normed(x, stage.downsample[0]), stage.downsample[1])
        for block in stage.blocks:
            padded = np.pad(x, ((0, 0), (0, 0), (3, 3), (3, 3)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), axis=(2, 3))
            kernel = double(block.conv_dw.weight)[:, 0]
            h = np.einsum("bchwij,cij->bchw", windows, kernel, optimize=True)
            h = np.moveaxis(h + double(block.conv_dw.bias)[:, None, None], 1, -1)
            h = affine(gelu(affine(normed(h, block.norm, 1e-6), block.mlp.fc1)), block.mlp.fc2)
            x = x + np.moveaxis(h * double(block.gamma), -1, 1)
        outputs.append(x)
    return np.concatenate([bilinear(out, outputs[0].shape[-1]) for out in outputs], axis=1)


def views_of(images_aux, size, grid, whole):
    """CLIP's views (B, V, 3, size, size): crops row by row, then the whole picture."""
    resized = bilinear(images_aux, grid * size)
    views = [
        resized[:, :, r * size : (r + 1) * size, c * size : (c + 1) * size]
        for r in range(grid)
        for c in range(grid)
    ]
    if whole:
        views.append(bilinear(resized, size))
    return np.stack(views, axis=1)


def encoded(model, images_aux):
    """Visual embeddings of a whole model from its pictures (B, 3, S, S)."""
    config = model.config
    grid, whole = config.image_grid, config.image_global
    views = views_of(images_aux, config.vision_config.image_size, grid, whole)
    aux = convnext_tower(model.vision_tower_aux, images_aux)
    edge = aux.shape[-1] // grid
    units = [getattr(model, f"vlm_uni_{name}_projector") for name in ("query", "aux", "val")]
    layers = config.vision_config.num_hidden_layers + 1 + config.mm_vision_select_layer
    parts = []
    for v in range(views.shape[1]):
        r, c = divmod(v, grid)
        part = aux[:, :, r * edge : (r + 1) * edge, c * edge : (c + 1) * edge]
        if v == grid * grid:
            part = bilinear(aux, edge)
        tokens = clip_tower(model.vision_tower.vision_tower, views[:, v], layers)
        parts.append(tokens + mined(tokens, part, *units))
    order = ([grid * grid] if whole else []) + list(range(grid * grid))
    return projected(np.concatenate([parts[v] for v in order], axis=1), model.mm_projector)


def spliced(rows, labels, table, features, scale, max_length, side):
    """Splice, cut and pad lists of ids by hand.

    Args:
        rows: unpadded ids a sample, -200 for a picture.
        labels: the same lengths.
        table: token embeddings (vocabulary, hidden).
        features: (pictures, N, hidden), unscaled.
        scale: factor of the whole sequence.
        max_length: cut after expansion.
        side: of the padding.

    Returns:
        embeddings, mask, positions, labels.
    """
    pictures, woven = iter(features), []
    for ids, targets in zip(rows, labels, strict=True):
        vectors, kept = [], []
        for token, target in zip(ids, targets, strict=True):
            inserted = next(pictures) if token == -200 else [table[token]]
            vectors += list(inserted)
            kept += [-100] * len(inserted) if token == -200 else [target]
        woven.append((np.array(vectors)[:max_length] * scale, kept[:max_length]))
    longest = max(len(kept) for _, kept in woven)
    out = [np.zeros((len(rows), longest, table.shape[1])), *np.zeros((2, len(rows), longest), int)]
    out.append(np.full((len(rows), longest), -100))
    for index, (vectors, kept) in enumerate(woven):
        n = len(kept)
        where = slice(longest - n, longest) if side == "left" else slice(0, n)
        for array, value in zip(out, (vectors, 1, np.arange(n), kept), strict=True):
            array[index, where] = value
    return out


def gelu_tanh(x):
    """The tanh form of GELU, which Gemma was trained with."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gemma_norm(x, norm, eps):
    """RMSNorm by (1 + weight): weights are stored around zero."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * (1 + double(norm.weight))


def rotated(x, positions, theta):
    """Half-split rotation of heads (heads, L, d): the first half pairs with the second."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * theta ** (-np.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate(
        [
            first * np.cos(angles) - second * np.sin(angles),
            second * np.cos(angles) + first * np.sin(angles),
        ],
        axis=-1,
    )


def gemma_logits(model, embeddings, activation=gelu_tanh):
    """Logits (L, vocabulary) of one sequence of scaled embeddings (L, hidden)."""
    config, inner, x = model.config, model.model, embeddings
    length, heads, width = len(x), config.num_attention_heads, config.head_dim
    shared = heads // config.num_key_value_heads
    theta, eps = config.rope_parameters["rope_theta"], config.rms_norm_eps
    future = np.triu(np.full((length, length), -np.inf), 1)
    for layer in inner.layers:
        h = gemma_norm(x, layer.input_layernorm, eps)
        attention = layer.self_attn

        def split(linear, h=h):
            return (h @ double(linear.weight).T).reshape(length, -1, width).transpose(1, 0, 2)

        q = rotated(split(attention.q_proj), np.arange(length), theta)
        k = rotated(split(attention.k_proj), np.arange(length), theta).repeat(shared, axis=0)
        v = split(attention.v_proj).repeat(shared, axis=0)
        weights = softmax(q @ k.transpose(0, 2, 1) / np.sqrt(width) + future)
        mixed = (weights @ v).transpose(1, 0, 2).reshape(length, -1)
        x = x + mixed @ double(attention.o_proj.weight).T
        h = gemma_norm(x, layer.post_attention_layernorm, eps)
        gate, up, down = (
            double(getattr(layer.mlp, f"{n}_proj").weight) for n in ("gate", "up", "down")
        )
        x = x + (activation(h @ gate.T) * (h @ up.T)) @ down.T
    return gemma_norm(x, inner.norm, eps) @ double(inner.embed_tokens.weight).T
