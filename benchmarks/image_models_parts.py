"""Models, pictures and Data-Juicer's loops for ``image_models.py``."""

import io
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

# Sizes (width, height) as in MGM's pretraining images: the shorter side has 336 pixels.
SIZES = ((336, 336), (448, 336), (336, 448), (504, 336), (336, 504))
WORDS = [f"word{n}" for n in range(400)]
TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
# Vision side of each model: transformers' names, real sizes.
VIT_B_16 = {"image_size": 224, "patch_size": 16}
CLIP = {
    "clip-vit-b-32": ({"image_size": 224, "patch_size": 32}, {}, 512),
    "clip-vit-l-14-336": (
        {
            "image_size": 336,
            "patch_size": 14,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
        },
        768,
    ),
}
MODELS = ("watermark", *CLIP)


def draw_pictures(folder: Path, count: int) -> list[Path]:
    """Write JPEGs of photographs' size in pixels and bytes, each one different."""
    folder.mkdir(parents=True, exist_ok=True)

    def draw(number: int) -> Path:
        rng = np.random.default_rng(number)
        size = SIZES[number % len(SIZES)]
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        noise = rng.integers(-12, 13, smooth.shape, dtype=np.int16)
        path = folder / f"{number:06d}.jpg"
        Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(path, quality=90)
        return path

    with ThreadPoolExecutor() as pool:
        return list(pool.map(draw, range(count)))


def captions(count: int, seed: int) -> list[str]:
    """Return captions of ten words drawn at random."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=10)) for _ in range(count)]


def build_model(name: str, folder: Path, *, tiny: bool) -> Path:
    """Write a model of the real architecture and size with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    return (_build_watermark if name == "watermark" else _build_clip)(name, folder, tiny)


def _build_watermark(_: str, folder: Path, tiny: bool) -> Path:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(num_labels=2, **VIT_B_16, **(TINY if tiny else {}))
    model = ViTForImageClassification(config)
    model.classifier.weight.data *= 50  # so that the numbers differ between images
    model.save_pretrained(folder)
    _image_processor("vit", "ViTImageProcessor")(
        size={"height": 224, "width": 224}
    ).save_pretrained(folder)
    return folder


def _build_clip(name: str, folder: Path, tiny: bool) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

    vision, text, projection = CLIP[name]
    tokens = {word: n for n, word in enumerate(["<pad>", "<unk>", "<s>", *WORDS, "</s>"])}
    end = tokens["</s>"]
    raw = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))  # noqa: S106
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", end)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
    )
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": end}
    config = CLIPConfig(
        projection_dim=projection,
        text_config={**text, **special, **(TINY if tiny else {})},
        vision_config={**vision, **(TINY if tiny else {})},
    )
    CLIPModel(config).save_pretrained(folder)
    side = vision["image_size"]
    pictures = _image_processor("clip", "CLIPImageProcessor")(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    CLIPProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def _image_processor(family: str, name: str) -> Any:
    from importlib import import_module

    return getattr(
        import_module(f"transformers.models.{family}.image_processing_pil_{family}"), f"{name}Pil"
    )


def their_operator(
    name: str, folder: Path, device: str
) -> tuple[Callable[[Sequence[Path], Sequence[str]], list[float]], str]:
    """Return Data-Juicer's operator, one image a call, and what it is.

    Where the package is missing, its 1.6.1 loop is copied: the image decoded,
    converted, put through the processor, moved to the model's device, the model
    called as ``compute_stats_single`` calls it, without ``no_grad``.
    """
    if find_spec("data_juicer"):
        return _their_class(name, folder, device), "data_juicer's class"
    import transformers
    from transformers import AutoConfig, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    architecture = AutoConfig.from_pretrained(folder).architectures[0]
    model = getattr(transformers, architecture).from_pretrained(folder).to(device)
    one = _watermark_of_one if name == "watermark" else _similarity_of_one
    pictures = getattr(processor, "image_processor", processor)

    def run(paths: Sequence[Path], texts: Sequence[str]) -> list[float]:
        return [one(model, processor, path, text) for path, text in zip(paths, texts, strict=True)]

    return run, f"copy of its loop, {type(pictures).__name__}"


def _watermark_of_one(model: Any, processor: Any, path: Path, _: str) -> float:
    inputs = processor(images=[_load_image(path)], return_tensors="pt").to(model.device)
    logits = model(**inputs).logits
    return float(torch.softmax(logits, dim=-1)[0][1])


def _similarity_of_one(model: Any, processor: Any, path: Path, text: str) -> float:
    inputs = processor(
        text=text,
        images=[_load_image(path)],
        return_tensors="pt",
        truncation=True,
        max_length=model.config.text_config.max_position_embeddings,
        padding=True,
    ).to(model.device)
    return float((model(**inputs).logits_per_text / 100.0).mean())


def _load_image(path: Path) -> Image.Image:
    """As ``data_juicer.utils.mm_utils.load_image``, which goes through datasets' ``Image``."""
    image = Image.open(io.BytesIO(path.read_bytes()))
    image.load()
    if image.getexif().get(Image.ExifTags.Base.Orientation) is not None:
        image = ImageOps.exif_transpose(image)
    return image.convert("RGB")


def _their_class(
    name: str, folder: Path, device: str
) -> Callable[[Sequence[Path], Sequence[str]], list[float]]:
    from recap.curate.juicer import compute_statistics, load_filter

    filters = {
        "watermark": ("image_watermark_filter", "hf_watermark_model", "image_watermark_prob")
    }
    operator, parameter, statistic = filters.get(
        name, ("image_text_similarity_filter", "hf_clip", "image_text_similarity")
    )
    op = load_filter({operator: {parameter: str(folder), "accelerator": device}})

    def run(paths: Sequence[Path], texts: Sequence[str]) -> list[float]:
        samples = [
            {"text": f"<__dj__image> {text} <|__dj__eoc|>", "images": [str(path)]}
            for path, text in zip(paths, texts, strict=True)
        ]
        return [
            found[statistic][0] for found in compute_statistics(op, samples, [{} for _ in samples])
        ]

    return run
