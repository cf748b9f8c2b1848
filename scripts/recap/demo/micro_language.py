"""Gemma in miniature: the architecture and files of Gemma-2B-IT, the language of the world."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..mgm.conversation import IGNORE_INDEX, encode_sample
from .micro_text import text_sample
from .micro_tokenizers import build_gemma_tokenizer, save_tokenizer
from .micro_training import deterministic, train
from .settings import LanguageSettings
from .streams import Stream

if TYPE_CHECKING:
    import torch

# The prompt is learnt too, at a small weight: it teaches the words.
PROMPT_WEIGHT = 0.1
_PAD = 0
# Small, so that the weights come in several files with an index, as the real ones do.
_SHARD = "2MB"


def build_language_model(out: Path, seed: int, settings: LanguageSettings) -> dict[str, Any]:
    """Train and save the model and its tokenizer; return what was measured.

    Args:
        out: folder of the model, Hugging Face layout.
        seed: of weights and texts.
        settings: sizes and length of the training.
    """
    from transformers import GemmaForCausalLM

    tokenizer = build_gemma_tokenizer(seed, settings.vocabulary)
    with deterministic(seed):
        model = GemmaForCausalLM(_config(settings, len(tokenizer)))
        losses = train(
            model,
            lambda step: _loss(model, _batch(tokenizer, seed, step, settings.batch_size)),
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            name="language model",
        )
        exact = _measure(model, tokenizer, seed, settings.held_out)
    model.generation_config.update(do_sample=False, bos_token_id=2, eos_token_id=1, pad_token_id=0)
    model.save_pretrained(str(out), max_shard_size=_SHARD)
    save_tokenizer(tokenizer, out)
    return {
        "first_loss": round(losses[0], 4) if losses else None,
        "last_loss": round(sum(losses[-20:]) / len(losses[-20:]), 4) if losses else None,
        "held_out_texts": settings.held_out,
        "held_out_exact_answers": exact,
        "parameters": sum(p.numel() for p in model.parameters()),
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
        dtype="float32",
    )


def _conversation(rounds: list[tuple[str, str]]) -> list[dict[str, str]]:
    turns: list[dict[str, str]] = []
    for user, answer in rounds:
        turns += [{"from": "human", "value": user}, {"from": "gpt", "value": answer}]
    return turns


def _batch(tokenizer: Any, seed: int, step: int, size: int) -> tuple["torch.Tensor", ...]:
    """Return ids (B, L) int64, attention mask (B, L), and weights of the targets (B, L)."""
    import torch

    encoded = [
        encode_sample(_conversation(text_sample(seed, Stream.MICRO_TEXT, index)), tokenizer)
        for index in range(step * size, (step + 1) * size)
    ]
    length = max(len(ids) for ids, _ in encoded)
    ids = torch.full((size, length), _PAD, dtype=torch.long)
    weights = torch.zeros((size, length))
    for row, (sample, labels) in enumerate(encoded):
        ids[row, : len(sample)] = torch.tensor(sample)
        trained = [PROMPT_WEIGHT if label == IGNORE_INDEX else 1.0 for label in labels]
        weights[row, : len(sample)] = torch.tensor(trained)
    return ids, (ids != _PAD).long(), weights


def _loss(model: Any, batch: tuple["torch.Tensor", ...]) -> "torch.Tensor":
    """Return the weighted mean cross entropy of the next token."""
    from torch.nn import functional

    ids, mask, weights = batch
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    losses = functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()


def _measure(model: Any, tokenizer: Any, seed: int, count: int) -> float | None:
    """Return the share of held-out texts answered exactly, teacher-forced and greedy.

    An answer is right if each of its tokens is the most likely one after the
    true tokens before it, which equals greedy decoding giving that answer.
    """
    import torch

    right = 0
    with torch.inference_mode():
        for index in range(count):
            rounds = text_sample(seed, Stream.MICRO_HELD_OUT, index)[:1]
            ids, labels = encode_sample(_conversation(rounds), tokenizer)
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
            target = torch.tensor(labels[1:])
            trained = target != IGNORE_INDEX
            right += bool((logits.argmax(-1)[trained] == target[trained]).all())
    return round(right / count, 4) if count else None
