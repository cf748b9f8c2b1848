"""Reading configuration files of others, so that a broken one is named and not a bug."""

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ..errors import RecapError
from ..io import read_json

# what the library raises for a file whose values are none of a configuration
CONFIG_ERRORS = (AttributeError, KeyError, TypeError, ValueError, StrictDataclassError)


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds a mapping.

    Raises:
        RecapError: if it is missing, or holds something else.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise RecapError(
            f"{path} holds a {type(values).__name__} where a mapping is expected; restore the file"
        )
    return values


def read_clip(folder: str | Path) -> Any:
    """Return the configuration of a CLIP vision tower.

    Raises:
        RecapError: if ``config.json`` is missing, broken, or not one of CLIP's.
    """
    from transformers import CLIPVisionConfig

    return _read_config(folder, CLIPVisionConfig, "CLIP")


def read_language(folder: str | Path) -> Any:
    """Return the configuration of a language model.

    Raises:
        RecapError: if ``config.json`` is missing, broken, or of a model that the library
            does not know.
    """
    from transformers import AutoConfig

    return _read_config(folder, AutoConfig, "a language model")


def _read_config(folder: str | Path, kind: Any, what: str) -> Any:
    path = Path(folder) / "config.json"
    read_mapping(path)  # the library takes a missing file for one of defaults
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, *CONFIG_ERRORS) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RecapError(
            f"{path} does not describe {what} known here: {first}; fetch or build {folder} again"
        ) from error
