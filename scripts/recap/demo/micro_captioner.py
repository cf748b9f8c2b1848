"""BLIP2-OPT in miniature: a captioner that really captions the world's pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .micro_facts import Lessons
from .micro_init import start_vision
from .micro_pictures import PictureSet, draw_pictures
from .micro_score import score_captions
from .micro_tokenizers import build_opt_tokenizer
from .micro_training import deterministic, train
from .settings import CaptionerSettings
from .streams import Stream, generator

if TYPE_CHECKING:
    import torch

VOCABULARY = 640
MAX_NEW_TOKENS = 32
_IGNORE = -100
_WHITEN = 512  # pictures from which the patch embedding starts


def build_captioner(out: Path, seed: int, settings: CaptionerSettings) -> dict[str, Any]:
    """Train and save model and processor; return what was measured on fresh pictures.

    The model never sees the demo's corpus: its pictures come from streams of
    their own. Like BLIP2-OPT it ends a caption with a newline, which is its
    end-of-sequence token.
    """
    tokenizer = build_opt_tokenizer(seed, VOCABULARY)
    processor = _processor(tokenizer, settings)
    with deterministic(seed):
        model = _model(tokenizer, settings)
        losses = _fit(model, processor, seed, settings)
        held_out = draw_pictures(
            seed, Stream.MICRO_HELD_OUT, settings.held_out, settings.image_size
        )
        captions = _caption(model, processor, held_out)
    model.save_pretrained(str(out), max_shard_size="4MB")
    processor.save_pretrained(str(out))
    return {
        "first_caption_loss": round(losses[0], 4) if losses else None,
        "last_caption_loss": round(float(np.mean(losses[-10:])), 4) if losses else None,
        "held_out_pictures": settings.held_out,
        **score_captions(held_out.scenes, held_out.captions, captions),
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
    }


def _processor(tokenizer: Any, settings: CaptionerSettings) -> Any:
    from transformers import Blip2Processor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    side = settings.image_size
    return Blip2Processor(
        image_processor=BlipImageProcessorPil(size={"height": side, "width": side}),
        tokenizer=tokenizer,
        num_query_tokens=settings.query_tokens,
    )


def _model(tokenizer: Any, settings: CaptionerSettings) -> Any:
    """Return a fresh model; its query tokens differ from the start.

    ``transformers`` starts them at zero, where all of them would stay equal.
    """
    import torch
    from transformers import Blip2ForConditionalGeneration

    model = Blip2ForConditionalGeneration(_config(tokenizer, settings))
    torch.nn.init.normal_(model.query_tokens, std=1.0)
    newline = tokenizer("\n", add_special_tokens=False).input_ids
    generation = {
        "do_sample": False,
        "num_beams": 1,
        "max_new_tokens": MAX_NEW_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": newline[0],
        "pad_token_id": tokenizer.pad_token_id,
    }
    for config in (model.generation_config, model.language_model.generation_config):
        config.update(**generation)
    return model


def _config(tokenizer: Any, settings: CaptionerSettings) -> Any:
    from transformers import Blip2Config

    [newline] = tokenizer("\n", add_special_tokens=False).input_ids
    return Blip2Config(
        vision_config={
            "hidden_size": settings.vision_width,
            "intermediate_size": 4 * settings.vision_width,
            "num_hidden_layers": settings.vision_layers,
            "num_attention_heads": settings.heads,
            "image_size": settings.image_size,
            "patch_size": settings.patch_size,
            "initializer_range": 0.02,
        },
        qformer_config={
            "vocab_size": 32,  # the Q-Former reads no text here
            "hidden_size": settings.qformer_width,
            "intermediate_size": 2 * settings.qformer_width,
            "num_hidden_layers": settings.qformer_layers,
            "num_attention_heads": settings.heads,
            "cross_attention_frequency": 1,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        text_config={
            "model_type": "opt",
            "vocab_size": len(tokenizer),
            "hidden_size": settings.text_width,
            "word_embed_proj_dim": settings.text_width,
            "ffn_dim": 4 * settings.text_width,
            "num_hidden_layers": settings.text_layers,
            "num_attention_heads": settings.heads,
            "max_position_embeddings": 256,
            "dropout": 0.0,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": newline,
            "pad_token_id": tokenizer.pad_token_id,
        },
        num_query_tokens=settings.query_tokens,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        dtype="float32",
    )


def _fit(model: Any, processor: Any, seed: int, settings: CaptionerSettings) -> list[float]:
    """Teach to look first, then to look and to say it; return the losses of the captions."""
    import torch

    pictures = draw_pictures(seed, Stream.MICRO_PICTURE, settings.pictures, settings.image_size)
    start_vision(model.vision_model, _pixel_values(processor, pictures.pixels[:_WHITEN]))
    ids, labels = _encode(processor.tokenizer, pictures.captions, settings.query_tokens)
    lessons = Lessons(
        pictures,
        settings.image_size // settings.patch_size,
        query_width=settings.qformer_width,
        patch_width=settings.vision_width,
    )
    order = _epochs(seed, settings.pictures, settings.steps * settings.batch_size)

    def loss_at(step: int) -> "torch.Tensor":
        picked = order[step * settings.batch_size : (step + 1) * settings.batch_size]
        values = _pixel_values(processor, pictures.pixels[picked])
        if step < settings.look_share * settings.steps:
            seen = model.get_image_features(values)
            queries = seen.qformer_outputs.last_hidden_state
            return lessons.loss(picked, queries, seen.last_hidden_state)
        longest = int((labels[picked] != _IGNORE).any(0).nonzero().max()) + 1
        output = model(
            pixel_values=values,
            input_ids=ids[picked][:, :longest],
            labels=labels[picked][:, :longest],
        )
        queries = output.qformer_outputs.last_hidden_state
        looking = lessons.loss(picked, queries, output.vision_outputs.last_hidden_state)
        caption_losses.append(float(output.loss.detach()))
        total: torch.Tensor = output.loss + looking
        return total

    caption_losses: list[float] = []
    train(
        torch.nn.ModuleList([model, lessons.heads]),
        loss_at,
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        name="captioner",
    )
    return caption_losses


def _epochs(seed: int, count: int, wanted: int) -> np.ndarray:
    """Return ``wanted`` picture indices: whole shuffled passes, one after the other."""
    passes = -(-wanted // count)
    shuffled = [generator(seed, Stream.MICRO_ORDER, n).permutation(count) for n in range(passes)]
    return np.concatenate(shuffled)[:wanted]


def _encode(
    tokenizer: Any, captions: list[str], queries: int
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return ids and labels (N, L): image places, ``</s>``, the caption, a newline, padding."""
    import torch

    image = tokenizer.convert_tokens_to_ids("<image>")
    rows = [tokenizer(f"{caption}\n").input_ids for caption in captions]
    length = queries + max(len(row) for row in rows)
    ids = torch.full((len(rows), length), tokenizer.pad_token_id, dtype=torch.long)
    labels = torch.full((len(rows), length), _IGNORE, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, :queries] = image
        ids[number, queries : queries + len(row)] = torch.tensor(row)
        labels[number, queries + 1 : queries + len(row)] = torch.tensor(row[1:])
    return ids, labels


def _pixel_values(processor: Any, pixels: np.ndarray) -> "torch.Tensor":
    """Return (B, 3, S, S) float32 from (B, S, S, 3) uint8, normalised as the processor does."""
    import torch

    mean = torch.tensor(processor.image_processor.image_mean)
    std = torch.tensor(processor.image_processor.image_std)
    return ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def _caption(model: Any, processor: Any, pictures: PictureSet) -> list[str]:
    """Return a greedy caption for each picture, trimmed."""
    captions: list[str] = []
    for start in range(0, len(pictures.captions), 64):
        values = _pixel_values(processor, pictures.pixels[start : start + 64])
        ids = model.generate(pixel_values=values, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        captions += [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]
    return captions
