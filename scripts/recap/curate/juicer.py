"""Data-Juicer's own operator classes, without its executor and its side effects.

Importing Data-Juicer takes seconds, lets truncated images pass, logs to standard
error and may install packages at run time; all of that is contained here.
"""

import inspect
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ..errors import RecapError
from .recipe import Operator, name_of, params_of
from .substitutes import install_substitutes
from .texts import TEXT_FLAG

TEXT_KEY = "text"
IMAGE_KEY = "images"


def load_filter(operator: Operator) -> Any:
    """Return an instance of Data-Juicer's class for a filter; see :func:`load_operator`."""
    return load_operator(operator, "Filter")


def load_operator(operator: Operator, family: str) -> Any:
    """Return an instance of Data-Juicer's class for an operator.

    Args:
        operator: its name and parameters.
        family: the base class it must have: ``Filter``, ``Mapper`` or ``Deduplicator``.

    Raises:
        RecapError: if there is no such operator, it knows no such parameter
            (Data-Juicer itself would ignore a misspelt one) or refuses a value.
    """
    base = _data_juicer()
    name = name_of(operator)
    params = {key: value for key, value in params_of(operator).items() if key != TEXT_FLAG}
    cls = base.OPERATORS.modules.get(name)
    if cls is None or not issubclass(cls, getattr(base, family)):
        raise RecapError(f"Data-Juicer has no {family.lower()} named {name!r}; check the recipe")
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


def absolute_samples(rows: list[dict[str, Any]], image_root: Path) -> list[dict[str, Any]]:
    """Return records as Data-Juicer takes them: id, text and absolute image paths."""
    root = image_root.resolve()
    return [
        {
            "id": row["id"],
            TEXT_KEY: row["text"],
            IMAGE_KEY: [str(root / image) for image in row["images"]],
        }
        for row in rows
    ]


def edit_batch(op: Any, samples: list[dict[str, Any]]) -> list[str]:
    """Return the texts that a mapper makes of samples, one for each.

    Args:
        op: a mapper from :func:`load_operator`.
        samples: from :func:`absolute_samples`.

    Raises:
        RecapError: if it changes the number of records, or anything but the text.
    """
    batch: dict[str, list[Any]] = {key: [s[key] for s in samples] for key in samples[0]}
    before = {key: list(values) for key, values in batch.items() if key != TEXT_KEY}
    options: dict[str, Any] = {}
    if "rank" in inspect.signature(op.process_batched).parameters:
        options["rank"] = 0 if op.use_cuda() else None
    with _without_gradients(op):
        after = op.process_batched(batch, **options)
    if set(after) != set(samples[0]) or any(after[key] != before[key] for key in before):
        raise RecapError(
            f"{op._name} changes more than texts (fields {', '.join(sorted(after))}, "
            f"{len(samples)} records in, {len(after[TEXT_KEY])} out); take it out of the recipe, "
            "or run it with dj-process beforehand"
        )
    return [str(text) for text in after[TEXT_KEY]]


def hash_sample(op: Any, sample: dict[str, Any]) -> dict[str, Any]:
    """Return the hashes that a deduplicator computes for a sample, by their keys."""
    # The class's own method: the instance's is wrapped for Data-Juicer's batches.
    found = type(op).compute_hash(op, dict(sample))
    return {key: value for key, value in found.items() if key not in sample}


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
    install_substitutes()
    return base_op


def _refuse_install(_: type, package: str, *__: Any) -> None:
    raise RecapError(
        f"a Data-Juicer operator wants to install {package} while running; "
        "add it to the environment, or take the operator out of the recipe"
    )
