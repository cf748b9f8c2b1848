"""How many questions fit a GPU at once, from shapes and a memory budget alone.

Below float32 an answer may depend on the batch it is in, so the number must not
depend on the machine, nor on how many shards a file is cut into.
"""

from typing import Any

from ..errors import RecapError
from ..settings import EvaluateSettings

LARGEST = 64  # 128 were no faster on an H100
_ON_CPU = 16
_GIB = 1 << 30
_FIXED = 1.5 * _GIB  # CUDA context, workspaces, captured graphs, fragmentation
_PICTURE = 0.5 * _GIB  # both towers' activations and the joined map, at 768 pixels, not compiled
_ROOM = 32  # tokens of an answer that its cache has room for at first


def resolve_batch_size(
    config: Any, parameters: int, settings: EvaluateSettings, longest_text: int
) -> int:
    """Return the questions a forward pass, derived where the setting is ``auto``.

    Weights, activations of one pass, and a key-value cache for each question are added
    up: 16.5 GiB for 64 TextVQA questions of MGM-2B, where 13.3 GiB were allocated and
    18.1 reserved. A batch that does not fit is halved. Float32 is taken for a run on CPU.

    Args:
        config: of the MGM.
        parameters: of the whole model.
        settings: of the evaluation.
        longest_text: tokens of the longest prompt without its picture.

    Raises:
        RecapError: if not one question fits.
    """
    from ..mgm.answering import PICTURES_A_PASS, TOKENS_A_PASS

    if isinstance(settings.batch_size, int):
        return settings.batch_size
    if settings.dtype == "float32":
        return _ON_CPU
    text = config.text_config
    passes = 2 * TOKENS_A_PASS * (3 * text.intermediate_size + 8 * text.hidden_size)
    picture = _PICTURE * (config.image_size_aux / 768) ** 2
    left = settings.memory_gib * _GIB - _FIXED - 2 * parameters
    positions = config.image_tokens + longest_text + _ROOM
    question = bytes_a_question(text, positions, config.image_tokens)
    for size in (*range(LARGEST, 8, -8), *range(8, 0, -1)):
        if size * question + max(passes, min(size, PICTURES_A_PASS) * picture) <= left:
            return size
    raise RecapError(
        f"not one question fits {settings.memory_gib} GiB beside the model; raise "
        "evaluate.memory_gib, or set evaluate.batch_size yourself"
    )


def bytes_a_question(text: Any, positions: int, image_tokens: int) -> int:
    """Return the bytes that one more question takes, two bytes a number.

    Args:
        text: configuration of the language model.
        positions: of prompt and answer.
        image_tokens: positions of a picture, whose features are kept besides.
    """
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache = 2 * text.num_hidden_layers * text.num_key_value_heads * width * positions
    logits = 3 * text.vocab_size  # in the model's type and in float32
    return 2 * (cache + logits + image_tokens * text.hidden_size)
