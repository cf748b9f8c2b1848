"""Tiny models with random weights and the file layout of the real ones."""

from pathlib import Path

WORDS = ["a", "red", "blue", "square", "circle", "sign", "dog"]
WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
VISION = WIDTH | {"num_hidden_layers": 2, "image_size": 28, "patch_size": 14}


def write_tokenizer(folder, start, end):
    """A word-level tokenizer that puts ``start`` and ``end`` around every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: n for n, word in enumerate(["<pad>", "<unk>", start, *WORDS, end])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, 2), (end, len(vocabulary) - 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token=end
    )
    tokenizer.save_pretrained(folder)
    return vocabulary


def shake(model):
    """Give weights a size at which different inputs give different outputs."""
    import torch

    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def build_clip(folder: Path) -> Path:
    """A whole CLIPModel, 28 pixels, a window of 12 tokens."""
    import torch
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    vocabulary = write_tokenizer(folder, "<s>", "</s>")
    text = WIDTH | {
        "num_hidden_layers": 2,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 12,
        "eos_token_id": vocabulary["</s>"],
        "bos_token_id": 2,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(projection_dim=16, text_config=text, vision_config=VISION))
    model.save_pretrained(folder)
    side = {"height": 28, "width": 28}
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=side).save_pretrained(folder)
    return folder


def build_classifier(folder: Path) -> Path:
    """A ViT with two labels, 28 pixels."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    shake(ViTForImageClassification(ViTConfig(num_labels=2, **VISION))).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def _write_blip_inputs(folder: Path) -> dict[str, int]:
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    BlipImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder)
    return write_tokenizer(folder, "[CLS]", "[SEP]")


def build_blip(folder: Path) -> Path:
    """BLIP with its matching head, 28 pixels, a window of 12 tokens."""
    from transformers import BlipConfig, BlipForImageTextRetrieval

    vocabulary = _write_blip_inputs(folder)
    text = WIDTH | {
        "num_hidden_layers": 2,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 12,
        "encoder_hidden_size": 32,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "sep_token_id": vocabulary["[SEP]"],
    }
    config = BlipConfig(text_config=text, vision_config=VISION, projection_dim=16)
    config.image_text_hidden_size = 16
    shake(BlipForImageTextRetrieval(config)).save_pretrained(folder)
    return folder


def build_itm(folder: Path) -> Path:
    """BLIP-2 with its matching head, 28 pixels, a window of 12 tokens."""
    from transformers import Blip2Config, Blip2ForImageTextRetrieval

    vocabulary = _write_blip_inputs(folder)
    query = WIDTH | {
        "num_hidden_layers": 2,
        "encoder_hidden_size": 32,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 12,
        "use_qformer_text_input": True,
        "pad_token_id": 0,
    }
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=query,
        num_query_tokens=4,
        image_text_hidden_size=16,
        image_token_index=None,
    )
    shake(Blip2ForImageTextRetrieval(config)).save_pretrained(folder)
    return folder
