"""CLIP's two towers: images and texts to unit vectors, in batches."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecapError
from ..settings import SimilaritySettings
from .records import Record

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image

_READERS = 4


class ClipScorer:
    """A whole ``CLIPModel``; texts are cut at its window, images decoded ahead."""

    def __init__(
        self, model: str | Path, settings: SimilaritySettings, *, device: str = "auto"
    ) -> None:
        """Load model, tokenizer and the PIL image processor from a local folder.

        Raises:
            RecapError: if the folder is not a whole CLIP model, for instance a
                vision tower alone, whose text side would be random.
        """
        import torch
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device, self._batch_size = torch.device(device), settings.batch_size
        try:
            loaded: Any = CLIPModel.from_pretrained(
                model,
                dtype=getattr(torch, settings.dtype),
                local_files_only=True,
                output_loading_info=True,
            )
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model, local_files_only=True)
            # Chosen explicitly: pixels must not depend on torchvision being there.
            self._processor: Any = AutoImageProcessor.from_pretrained(
                model, backend="pil", local_files_only=True
            )
        except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
            raise RecapError(f"{model} is not a loadable CLIP folder: {error}") from error
        self._model, info = loaded
        if missing := sorted(info["missing_keys"]):
            raise RecapError(
                f"{model} is no whole CLIP model: it lacks {len(missing)} tensors, for instance "
                f"{missing[0]}; name a folder with both towers in `similarity.model`"
            )
        self._model.eval().to(self._device)
        self._window = self._model.config.text_config.max_position_embeddings

    def encode_images(
        self, images: Sequence[tuple[str, Record]], root: Path
    ) -> "dict[str, NDArray[Any]]":
        """Return a unit vector, float32 (D,), of each image by its path.

        Args:
            images: distinct paths, each with a record that has it.
            root: folder the paths are relative to.
        """
        import torch

        found: dict[str, NDArray[Any]] = {}
        with ThreadPoolExecutor(_READERS) as readers:
            batches = list(_batches(images, self._batch_size))
            ahead = [readers.submit(_load, row, root / path) for path, row in batches[0]]
            for index, batch in enumerate(batches):
                pictures = [future.result() for future in ahead]
                following = batches[index + 1] if index + 1 < len(batches) else []
                ahead = [readers.submit(_load, row, root / path) for path, row in following]
                pixels = self._processor(images=pictures, return_tensors="pt")["pixel_values"]
                with torch.inference_mode():
                    output = self._model.get_image_features(
                        pixel_values=pixels.to(self._device, self._model.dtype)
                    )
                found |= dict(zip([path for path, _ in batch], _unit(output), strict=True))
        return found

    def encode_texts(self, texts: Sequence[str]) -> "dict[str, NDArray[Any]]":
        """Return a unit vector, float32 (D,), of each distinct text."""
        import torch

        found: dict[str, NDArray[Any]] = {}
        for batch in _batches(texts, self._batch_size):
            tokens = self._tokenizer(
                list(batch),
                padding=True,
                truncation=True,
                max_length=self._window,
                return_tensors="pt",
            ).to(self._device)
            with torch.inference_mode():
                output = self._model.get_text_features(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                )
            found |= dict(zip(batch, _unit(output), strict=True))
        return found


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _unit(output: Any) -> "list[NDArray[Any]]":
    features: torch.Tensor = output.pooler_output.float()
    return list((features / features.norm(dim=-1, keepdim=True)).cpu().numpy())


def _load(row: Record, path: Path) -> "Image":
    """Decode as Data-Juicer does: EXIF rotation applied, then RGB."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # decoders raise many types, SyntaxError among them
        raise RecapError(
            f"id {row['id']!r}: cannot decode {path}: {error}; run validate_corpus.py again"
        ) from error
