"""Parts of the caption benchmark: a full-size captioner, pictures, and the peers' loops."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

NEW_TOKENS = 12


def build_captioner(folder: Path) -> None:
    """Save BLIP2-OPT-2.7B with random bfloat16 weights and a stand-in tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        OPTConfig,
        PreTrainedTokenizerFast,
    )
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    text = OPTConfig(
        vocab_size=50_304,
        hidden_size=2560,
        ffn_dim=10_240,
        num_hidden_layers=32,
        num_attention_heads=32,
        word_embed_proj_dim=2560,
        eos_token_id=50_118,
        dtype="bfloat16",
    )
    config = Blip2Config(text_config=text.to_dict(), image_token_index=50_265)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = Blip2ForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        model.query_tokens.normal_(std=1.0)
        model.language_projection.weight.normal_(std=0.5)  # captions must depend on the image
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="5GB")
    words = {f"w{index}": index for index in range(50_265)} | {"<image>": 50_265}
    core = Tokenizer(models.WordLevel(words, unk_token="w3"))  # noqa: S106
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="w2",  # noqa: S106
        eos_token="w2",  # noqa: S106
        pad_token="w1",  # noqa: S106
        additional_special_tokens=["<image>"],
    ).save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(folder)


def draw_jpegs(folder: Path, count: int) -> list[Path]:
    """Write JPEGs as large as the stage-1 corpus's: shorter side 336 pixels, about 40 kB."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index}.jpg" for index in range(count)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(_draw_jpeg, paths, range(count)))
    return paths


def _draw_jpeg(path: Path, index: int) -> None:
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(index)
    long = int(generator.choice((336, 336, 448, 504, 597)))
    size = (long, 336) if index % 3 else (336, long)
    coarse = generator.integers(0, 256, (28, 28, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    noisy = smooth + generator.normal(0, 9, smooth.shape)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=88)


class PlainPeer:
    """``generate`` in batches, called as Data-Juicer's captioning operator does.

    Its own lines: one image after the other is opened in this process, the processor
    gets no text, the model samples; only ``max_new_tokens`` is ours.
    """

    def __init__(self, folder: Path, dtype: str, batch_size: int) -> None:
        import torch
        from transformers import (
            AutoImageProcessor,
            AutoTokenizer,
            Blip2ForConditionalGeneration,
            Blip2Processor,
        )

        self._model: Any = Blip2ForConditionalGeneration.from_pretrained(
            folder, dtype=getattr(torch, dtype), device_map="cuda"
        ).eval()
        self._processor = Blip2Processor(
            AutoImageProcessor.from_pretrained(folder, backend="pil"),
            AutoTokenizer.from_pretrained(folder),
            num_query_tokens=32,
        )
        self.batch_size = batch_size

    def run(self, paths: list[Path]) -> None:
        """Caption images from files, one batch after the other."""
        from PIL import Image, ImageOps

        for at in range(0, len(paths), self.batch_size):
            images = [
                ImageOps.exif_transpose(Image.open(path)).convert("RGB")
                for path in paths[at : at + self.batch_size]
            ]
            inputs = self._processor(images=images, text=None, return_tensors="pt")
            if self._model.dtype != inputs["pixel_values"].dtype:
                inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
            inputs = inputs.to(self._model.device)
            tokens = self._model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=True)
            self._processor.batch_decode(tokens, skip_special_tokens=True)


def seconds_of(function: Callable[[], Any]) -> float:
    """Return the wall time of a call, the GPU's work included."""
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def matmul_peak() -> float:
    """Return the best TFLOP/s of a large bfloat16 product in a few tries."""
    import torch

    size = 8192
    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    times = [seconds_of(lambda: [a @ b for _ in range(10)]) / 10 for _ in range(6)]
    return 2 * size**3 / min(times) / 1e12


def flops_an_image(prefix: int = 33, new_tokens: int = NEW_TOKENS) -> dict[str, float]:
    """Return the least FLOPs an image takes: products with weights, and attention's own."""
    tokens, width, inner, layers = 257, 1408, 6144, 39
    vision = (
        layers * (2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * tokens**2 * width)
        + 2 * 256 * 3 * 14 * 14 * width
    )
    query, hidden = 32, 768
    cross = 6 * (
        2 * (2 * query * hidden**2 + 2 * tokens * width * hidden) + 4 * query * tokens * hidden
    )
    qformer = 12 * (2 * query * (4 * hidden**2 + 2 * hidden * 3072)) + cross
    text = 32 * 2 * (4 * 2560**2 + 2 * 2560 * 10_240)
    head = 2 * 2560 * 50_304
    prefill = prefix * text + head
    decode = (new_tokens - 1) * (text + head)
    return {"vision": vision, "qformer": qformer, "prefill": prefill, "decode": decode}
