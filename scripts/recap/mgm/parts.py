"""Where the pre-trained parts of an MGM model lie."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import RecapError


@dataclass(frozen=True)
class ModelParts:
    """Local folders an MGM model is put together from.

    Attributes:
        language_model: Hugging Face folder of the language model and its tokenizer.
        clip: Hugging Face folder of the CLIP vision tower, with ``preprocessor_config.json``.
        convnext: OpenCLIP folder of the ConvNeXt tower.
        conversation: name of the conversation template.
        image_size_aux: edge in pixels of the image the ConvNeXt tower sees.
        image_grid: crops a side that CLIP sees; 1 shows it the whole image once.
        image_global: whether CLIP sees the whole image besides the crops.
    """

    language_model: Path
    clip: Path
    convnext: Path
    conversation: str = "gemma"
    image_size_aux: int = 768
    image_grid: int = 1
    image_global: bool = False

    def __post_init__(self) -> None:
        """Turn strings into paths, so that callers may pass either."""
        for name in ("language_model", "clip", "convnext"):
            object.__setattr__(self, name, Path(getattr(self, name)))

    def require(self) -> None:
        """Check that every folder exists.

        Raises:
            RecapError: naming the part and the folder that is missing.
        """
        for name in ("language_model", "clip", "convnext"):
            folder = getattr(self, name)
            if not folder.is_dir():
                raise RecapError(f"{name}: folder {folder} does not exist; fetch or build it first")
