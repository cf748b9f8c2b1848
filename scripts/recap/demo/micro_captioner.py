"""BLIP2-OPT in miniature: a captioner that really captions the world's pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .micro_facts import FactLessons, PatchLessons
from .micro_init import WHITEN, start_vision
from .micro_pictures import PictureSet, draw_pictures, normalized
from .micro_score import score_captions
from .micro_tokenizers import build_opt_tokenizer
from .micro_training import Place, batches, count_parameters, deterministic, train
from .settings import CaptionerSettings
from .streams import Stream

if TYPE_CHECKING:
    import torch

VOCABULARY = 640
MAX_NEW_TOKENS = 32
_IGNORE = -100


def build_captioner(
    out: Path, seed: int, settings: CaptionerSettings, place: Place
) -> dict[str, Any]:
    """Train and save model and processor; return what was measured on fresh pictures.

    The model never sees the demo's corpus: its pictures come from streams of
    their own. Like BLIP2-OPT it ends a caption with a newline, which is its
    end-of-sequence token.
    """
    tokenizer = build_opt_tokenizer(seed, VOCABULARY)
    processor = _processor(tokenizer, settings)
    with deterministic(seed):
        model = _model(tokenizer, settings).to(place.device)
        losses = _fit(model, processor, seed, settings, place)
        held_out = draw_pictures(
            seed,
            Stream.MICRO_HELD_OUT,
            settings.held_out,
            settings.image_size,
            workers=place.workers,
        )
        captions = _caption(model, processor, held_out)
    model.to("cpu").save_pretrained(str(out), max_shard_size="4MB")
    processor.save_pretrained(str(out))
    return {
        "first_caption_loss": round(losses[0], 4) if losses else None,
        "last_caption_loss": round(float(np.mean(losses[-10:])), 4) if losses else None,
        "held_out_pictures": settings.held_out,
        **score_captions(held_out.scenes, held_out.captions, captions),
        "parameters": count_parameters(model),
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


def _fit(
    model: Any, processor: Any, seed: int, settings: CaptionerSettings, place: Place
) -> list[float]:
    """Teach to look first, then to look and to say it; return the losses of the captions."""
    import torch

    side, device = settings.image_size, place.device
    pictures = draw_pictures(
        seed, Stream.MICRO_PICTURE, settings.pictures, side, workers=place.workers
    )
    embeddings = model.vision_model.embeddings
    start_vision(
        embeddings.patch_embedding,
        embeddings.position_embedding,
        normalized(pictures.pixels[:WHITEN], processor),
    )
    ids, labels = _encode(processor.tokenizer, pictures.captions, settings.query_tokens)
    facts = FactLessons(pictures, settings.qformer_width, device)
    patches = PatchLessons(pictures, side // settings.patch_size, settings.vision_width, device)
    order = batches(seed, settings.pictures, settings.steps, settings.batch_size)

    def loss_at(step: int) -> "torch.Tensor":
        picked = order[step]
        values = normalized(pictures.pixels[picked], processor, device)
        if step < settings.look_share * settings.steps:
            seen = model.get_image_features(values)
            queries = seen.qformer_outputs.last_hidden_state
            encoded = seen.last_hidden_state
            return facts.loss(picked, queries) + patches.loss(picked, encoded[:, 1:])
        longest = int((labels[picked] != _IGNORE).any(0).nonzero().max()) + 1
        output = model(
            pixel_values=values,
            input_ids=ids[picked][:, :longest].to(device),
            labels=labels[picked][:, :longest].to(device),
        )
        caption_losses.append(output.loss.detach())
        total: torch.Tensor = (
            output.loss
            + facts.loss(picked, output.qformer_outputs.last_hidden_state)
            + patches.loss(picked, output.vision_outputs.last_hidden_state[:, 1:])
        )
        return total

    caption_losses: list[torch.Tensor] = []
    train(
        torch.nn.ModuleList([model, facts.heads, patches.heads]),
        loss_at,
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        name="captioner",
    )
    return [float(loss) for loss in caption_losses]


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


def _caption(model: Any, processor: Any, pictures: PictureSet) -> list[str]:
    """Return a greedy caption for each picture, trimmed."""
    captions: list[str] = []
    for start in range(0, len(pictures.captions), 64):
        values = normalized(pictures.pixels[start : start + 64], processor, model.device)
        ids = model.generate(pixel_values=values, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        captions += [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]
    return captions
