"""The captioner as a Data-Juicer operator, for plain ``dj-process`` recipes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from data_juicer.ops.base_op import OPERATORS, Mapper

from ..curate.records import END_OF_CHUNK, IMAGE_TOKEN, special_tokens_in
from ..hashing import sha256_bytes
from ..settings import CaptionSettings
from .engine import Captioner
from .pixels import ImageFile, load_image, read_image

_READERS = 8


@OPERATORS.register_module("recap_captioning_mapper")
class RecapCaptioningMapper(Mapper):
    """Replaces each caption by a captioner's own, batched and deterministic.

    The text gets the layout of ``image_captioning_mapper`` with
    ``keep_original_sample: false``: chunk by chunk, each image token followed by its
    image's caption. A record without images is left as it is. Load it with
    ``custom_operator_paths: [scripts/recap_captioning_mapper.py]`` and
    ``PYTHONPATH=scripts``.
    """

    _accelerator = "cuda"
    _batched_op = True

    def __init__(
        self,
        hf_img2seq: str,
        prompt: str | None = None,
        max_new_tokens: int = 30,
        num_beams: int = 1,
        dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16",
        model_batch_size: int | Literal["auto"] = "auto",
        memory_gib: float = 20.0,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Note the settings; the model is loaded by the first batch.

        Args:
            hf_img2seq: local folder of a BLIP-2 or InstructBLIP model.
            prompt: text before the caption.
            max_new_tokens: longest caption in tokens.
            num_beams: 1 is greedy.
            dtype: floating-point type of the model.
            model_batch_size: images a forward pass; ``batch_size`` is Data-Juicer's own.
            memory_gib: GPU memory that an automatic batch size may fill.
            *args: of Data-Juicer's operators.
            **kwargs: of Data-Juicer's operators.
        """
        super().__init__(*args, **kwargs)
        self._model = hf_img2seq
        self._settings = CaptionSettings(
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            dtype=dtype,
            batch_size=model_batch_size,
            memory_gib=memory_gib,
        )
        self._engine: Captioner | None = None

    def process_batched(
        self, samples: dict[str, list[Any]], rank: int | None = None
    ) -> dict[str, list[Any]]:
        """Return the samples with new texts.

        Raises:
            ValueError: if a record's image tokens and images differ in number, or a
                caption holds a special token.
        """
        paths = dict.fromkeys(path for images in samples[self.image_key] for path in images)
        captions = dict(zip(paths, self._caption(list(paths), rank), strict=True))
        samples[self.text_key] = [
            _rewrite(text, [captions[path] for path in images]) if images else text
            for text, images in zip(samples[self.text_key], samples[self.image_key], strict=True)
        ]
        return samples

    def _caption(self, paths: list[str], rank: int | None) -> list[str]:
        """Return one caption an image file."""
        if not paths:
            return []
        engine = self._loaded(rank)
        with ThreadPoolExecutor(_READERS) as readers:

            def read(path: str) -> tuple[str, Any]:
                file = ImageFile(path, Path(path), sha256_bytes(read_image(path, Path(path))))
                return file.sha256, engine.pixels.shrink(load_image(file))

            found = list(readers.map(read, paths))
        keys, shrunk = [key for key, _ in found], [pixels for _, pixels in found]
        return [candidates[0] for candidates in engine.caption_shrunk(shrunk, keys)]

    def _loaded(self, rank: int | None) -> Captioner:
        if self._engine is None:
            import torch

            device = "cpu"
            if self.use_cuda():
                device = f"cuda:{(rank or 0) % torch.cuda.device_count()}"
            self._engine = Captioner(self._model, self._settings, device=device)
        return self._engine


def _rewrite(text: str, captions: list[str]) -> str:
    """Return a record's new text, its special tokens in their places."""
    waiting = list(captions)
    chunks = []
    for chunk in text.split(END_OF_CHUNK):
        if chunk.strip():
            count = chunk.count(IMAGE_TOKEN)
            if count > len(waiting):
                break
            chunks.append("".join(f"{IMAGE_TOKEN} {caption} " for caption in waiting[:count]))
            del waiting[:count]
    if waiting or text.count(IMAGE_TOKEN) != len(captions):
        raise ValueError(f"{text.count(IMAGE_TOKEN)} image tokens for {len(captions)} images")
    if stray := sorted({token for caption in captions for token in special_tokens_in(caption)}):
        raise ValueError(f"a caption holds {', '.join(stray)}; mend the captioner's tokenizer")
    return "".join(f"{chunk}{END_OF_CHUNK}" for chunk in chunks)
