"""Gemma in miniature: the architecture and files of Gemma-2B-IT, the language of the world."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..mgm.conversation import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from .micro_lessons import PAD, Lesson, collate, write_lessons
from .micro_tiles import shake
from .micro_tokenizers import build_gemma_tokenizer, save_tokenizer
from .micro_training import Place, count_parameters, deterministic, train
from .settings import LanguageSettings
from .streams import Stream, generator

if TYPE_CHECKING:
    import torch

# The prompt is learnt too, at a small weight: it teaches the words.
PROMPT_WEIGHT = 0.03
_LIKENESS = 0.9  # cosine at the start of pieces that spell one word
_WINDOW = 16  # batches among which texts are sorted by length
# Small, so that the weights come in several files with an index, as the real ones do.
_SHARD = "2MB"


def build_language_model(
    out: Path, seed: int, settings: LanguageSettings, place: Place
) -> dict[str, Any]:
    """Train and save the model and its tokenizer; return what was measured.

    Args:
        out: folder of the model, Hugging Face layout.
        seed: of weights and texts.
        settings: sizes and length of the training.
        place: where to train.
    """
    from transformers import GemmaForCausalLM

    tokenizer = build_gemma_tokenizer(seed, settings.vocabulary)
    lessons = write_lessons(
        tokenizer, seed, Stream.MICRO_TEXT, settings.texts, settings.tile_grid, place.workers
    )
    with deterministic(seed):
        model: Any = GemmaForCausalLM(_config(settings, len(tokenizer)))
        _start_embedding(model, tokenizer)
        model.to(place.device)
        batches = _batches(lessons, seed, min(settings.batch_size, len(lessons)))
        losses = train(
            model,
            lambda step: _loss(model, *collate(next(batches), settings.tile_grid)),
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            name="language model",
        )
        held_out = write_lessons(
            tokenizer,
            seed,
            Stream.MICRO_HELD_OUT,
            settings.held_out,
            settings.tile_grid,
            place.workers,
        )
        told, tiled = (_measure(model, held_out[kind::2], settings.tile_grid) for kind in (0, 1))
    model.generation_config.update(do_sample=False, bos_token_id=2, eos_token_id=1, pad_token_id=0)
    model.to("cpu").save_pretrained(str(out), max_shard_size=_SHARD)
    save_tokenizer(tokenizer, out)
    return {
        "first_loss": round(losses[0], 4) if losses else None,
        "last_loss": round(sum(losses[-20:]) / len(losses[-20:]), 4) if losses else None,
        "held_out_texts": settings.held_out,
        "told_exact_answers": told,
        "tiled_exact_answers": tiled,
        "parameters": count_parameters(model),
        "vocabulary": len(tokenizer),
    }


def _config(settings: LanguageSettings, vocabulary: int) -> Any:
    from transformers import GemmaConfig

    return GemmaConfig(
        vocab_size=vocabulary,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=1,
        head_dim=settings.head_dim,
        hidden_act="gelu_pytorch_tanh",
        max_position_embeddings=8192,
        rms_norm_eps=1e-6,
        attention_bias=False,
        attention_dropout=0.0,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=True,
        # Gemma's 0.02 suits its width of 2048: this is the same rule.
        initializer_range=settings.hidden_size**-0.5,
        dtype="float32",
    )


def _start_embedding(model: Any, tokenizer: Any) -> None:
    """Give pieces that spell one word, in any case and with a space or without, like vectors.

    A text says " red" and the answer is "red": to find this out word by word
    takes a model of this size most of its training.
    """
    import torch

    table = model.get_input_embeddings().weight
    kin: dict[str, list[int]] = {}
    # by id: the vocabulary itself comes in another order each time it is asked for
    for piece, number in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1]):
        kin.setdefault(piece.removeprefix("▁").lower(), []).append(number)
    with torch.no_grad():
        for numbers in kin.values():
            shared = torch.randn(table.shape[1]) * model.config.initializer_range
            own = table[sorted(numbers)]
            table[sorted(numbers)] = _LIKENESS**0.5 * shared + (1 - _LIKENESS) ** 0.5 * own


def _batches(lessons: list[Lesson], seed: int, size: int) -> Iterator[list[Lesson]]:
    """Yield batches of texts of like length without end: shuffled passes, one after the other."""
    for turn in count():
        rng = generator(seed, Stream.MICRO_ORDER, turn)
        order = rng.permutation(len(lessons))
        for start in range(0, len(order) - size + 1, _WINDOW * size):
            window = order[start : start + _WINDOW * size]
            near = sorted(window.tolist(), key=lambda index: len(lessons[index].ids))
            firsts = range(0, len(near) - size + 1, size)
            for first in rng.permutation(firsts).tolist():
                yield [lessons[index] for index in near[first : first + size]]


def _logits(model: Any, ids: "torch.Tensor", tiles: "torch.Tensor") -> "torch.Tensor":
    """Return (B, L, V): tiles stand in the places of -200, in batch order."""
    embed = model.get_input_embeddings()
    hidden = embed(ids.clamp(min=0))
    if len(tiles):
        # Through the embedding, so that tiles are scaled as words are.
        table = embed.weight * getattr(embed, "embed_scale", 1.0)
        soft = shake(table, tiles).to(hidden.dtype)
        hidden = hidden.masked_scatter((ids == IMAGE_TOKEN_INDEX).unsqueeze(-1), soft)
    result: torch.Tensor = model(inputs_embeds=hidden, use_cache=False).logits
    return result


def _tensors(model: Any, *arrays: np.ndarray) -> list["torch.Tensor"]:
    import torch

    return [torch.from_numpy(array).to(model.device) for array in arrays]


def _loss(model: Any, ids: np.ndarray, labels: np.ndarray, tiles: np.ndarray) -> "torch.Tensor":
    """Return the weighted mean cross entropy of the next token; padding is on the right."""
    from torch.nn import functional

    numbers, targets, words = _tensors(model, ids, labels, tiles)
    logits = _logits(model, numbers, words)[:, :-1]
    following = numbers[:, 1:]
    weights = (following > PAD).float() * PROMPT_WEIGHT
    weights = weights.masked_fill(targets[:, 1:] != IGNORE_INDEX, 1.0)
    losses = functional.cross_entropy(
        logits.transpose(1, 2), following.clamp(min=0), reduction="none"
    )
    return (losses * weights).sum() / weights.sum()


def _measure(model: Any, lessons: list[Lesson], grid: int) -> float | None:
    """Return the share of texts whose answers are all exact, teacher-forced and greedy.

    An answer is right if each of its tokens is the most likely one after the
    true tokens before it, which equals greedy decoding giving that answer.
    Captions have several true forms: only texts with one-word answers count.
    """
    import torch

    right = total = 0
    with torch.inference_mode():
        for lesson in lessons:
            target = torch.from_numpy(lesson.labels[1:].astype(np.int64))
            trained = target != IGNORE_INDEX
            if int(trained.sum()) > _SHORT_ANSWERS:
                continue
            ids, _, tiles = collate([lesson], grid)
            logits = _logits(model, *_tensors(model, ids, tiles))[0, :-1].cpu()
            right += bool((logits.argmax(-1)[trained] == target[trained]).all())
            total += 1
    return round(right / total, 4) if total else None


_SHORT_ANSWERS = 4 * 6  # up to four answers of a word, its ends included
