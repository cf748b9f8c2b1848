"""Data-Juicer's own operator classes, without its executor and its side effects.

Importing Data-Juicer takes seconds, lets truncated images pass, logs to standard
error and may install packages at run time; all of that is contained here.
"""

import inspect
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..errors import RecapError
from .recipe import Operator, name_of, params_of

TEXT_KEY = "text"
IMAGE_KEY = "images"


def load_filter(operator: Operator) -> Any:
    """Return an instance of Data-Juicer's class for a filter.

    Raises:
        RecapError: if there is no such filter, it knows no such parameter
            (Data-Juicer itself would ignore a misspelt one) or refuses a value.
    """
    base = _data_juicer()
    name, params = name_of(operator), params_of(operator)
    cls = base.OPERATORS.modules.get(name)
    if cls is None or not issubclass(cls, base.Filter):
        raise RecapError(f"Data-Juicer has no filter named {name!r}; check the recipe")
    known = set(inspect.signature(cls.__init__).parameters) | set(cls._BASE_PARAMS)
    known -= {"self", "args", "kwargs"}
    if unknown := sorted(set(params) - known):
        raise RecapError(
            f"{name} has no parameter {', '.join(unknown)}; it takes {', '.join(sorted(known))}"
        )
    try:
        return cls(**params)
    except (TypeError, ValueError) as error:
        raise RecapError(f"{name} refuses {params}: {error}") from error


def accepts_context(op: Any) -> bool:
    """Tell whether an operator shares decoded images and split words with others."""
    return "context" in inspect.signature(_statistics_method(op)).parameters


def decodes_images(op: Any) -> bool:
    """Tell whether an operator takes decoded images from the shared context."""
    from data_juicer.ops.op_fusion import LOADED_IMAGES

    return op._name in LOADED_IMAGES.modules


def compute_statistics(
    op: Any, records: list[dict[str, Any]], contexts: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return one dict of statistics a record, by the operator's own code.

    Args:
        op: an instance from :func:`load_filter`.
        records: records with ``text`` and absolute ``images``.
        contexts: one mutable dict a record, shared between operators.
    """
    from data_juicer.utils.constant import Fields

    keys = records[0].keys()
    samples: dict[str, list[Any]] = {key: [record[key] for record in records] for key in keys}
    # Fresh statistics: an operator skips records that already carry its key,
    # and the same operator may appear twice with other parameters.
    samples[Fields.stats] = [{} for _ in records]
    options: dict[str, Any] = {}
    if accepts_context(op):
        samples[Fields.context] = contexts
        options["context"] = True
    if "rank" in inspect.signature(_statistics_method(op)).parameters:
        options["rank"] = 0 if op.use_cuda() else None
    with _without_gradients(op):
        found: list[dict[str, Any]] = op.compute_stats_batched(samples, **options)[Fields.stats]
    return found


def apply_thresholds(op: Any, statistics: list[dict[str, Any]]) -> list[bool]:
    """Return which records an operator keeps, decided on stored statistics."""
    from data_juicer.utils.constant import Fields

    return [bool(kept) for kept in op.process_batched({Fields.stats: statistics})]


def load_image(path: str) -> Any:
    """Decode an image as Data-Juicer does: EXIF rotation applied, then RGB."""
    from data_juicer.utils.mm_utils import load_image as load

    return load(path)


def _without_gradients(op: Any) -> AbstractContextManager[Any]:
    """Return a context in which a model operator keeps no graph; it would by itself."""
    if op.accelerator != "cuda":
        return nullcontext()
    import torch

    return torch.inference_mode()


def _statistics_method(op: Any) -> Any:
    base = _data_juicer()
    overridden = type(op).compute_stats_batched is not base.Filter.compute_stats_batched
    return op.compute_stats_batched if overridden else op.compute_stats_single


def _data_juicer() -> Any:
    # Nothing may be fetched while a job runs.
    for variable, value in (("UV_OFFLINE", "1"), ("PIP_NO_INDEX", "1"), ("HF_HUB_OFFLINE", "1")):
        os.environ.setdefault(variable, value)
    from data_juicer.ops import base_op
    from data_juicer.utils.lazy_loader import LazyLoader
    from loguru import logger as noisy
    from PIL import ImageFile

    ImageFile.LOAD_TRUNCATED_IMAGES = False
    noisy.disable("data_juicer")
    LazyLoader._install_package = classmethod(_refuse_install)
    return base_op


def _refuse_install(_: type, package: str, *__: Any) -> None:
    raise RecapError(
        f"a Data-Juicer operator wants to install {package} while running; "
        "add it to the environment, or take the operator out of the recipe"
    )
