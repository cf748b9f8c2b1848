"""Rotary positions on disk: ``rope_theta`` and ``rope_scaling``, in the old form and in ours."""

from collections.abc import Mapping
from typing import Any

from ..errors import RecapError

# of transformers 4.38; its Gemma and Mistral take none
_UPSTREAM_KINDS = {"llama": ("linear", "dynamic")}


def pop_rope(flat: dict[str, Any]) -> dict[str, Any]:
    """Take the rotary settings out of a ``config.json``; return them as transformers 5 does.

    Args:
        flat: the file's content, changed in place. The scaling's kind may be
            called ``type``, as before transformers 4.43, or ``rope_type``.

    Returns:
        ``{"rope_parameters": ...}``, or nothing if the file leaves them to the class.
    """
    theta, scaling = flat.pop("rope_theta", None), flat.pop("rope_scaling", None)
    if theta is None and not scaling:
        return {}
    found = dict(scaling or {})
    old = found.pop("type", None)
    found.setdefault("rope_type", old or "default")
    if theta is not None:
        found["rope_theta"] = theta
    return {"rope_parameters": found}


def rope_to_disk(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return ``rope_theta`` and ``rope_scaling`` of transformers 5's ``rope_parameters``."""
    found = {key: value for key, value in (parameters or {}).items() if key != "type"}
    if "rope_theta" not in found:
        return {}
    theta, kind = found.pop("rope_theta"), found.get("rope_type")
    return {"rope_theta": theta, "rope_scaling": None if kind in (None, "default") else found}


def upstream_scaling(language: str, scaling: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return ``rope_scaling`` in the one form that transformers 4.38 reads.

    Args:
        language: model type of the language model.
        scaling: of :func:`rope_to_disk`.

    Raises:
        RecapError: for a scaling that version does not compute.
    """
    if not scaling:
        return None
    kind, known = scaling["rope_type"], _UPSTREAM_KINDS.get(language, ())
    extra = sorted(set(scaling) - {"rope_type", "factor"})
    if kind not in known or extra or "factor" not in scaling:
        raise RecapError(
            f"rope_scaling {dict(scaling)} of this {language} model is unknown to transformers "
            f"4.38, which upstream uses (it has {', '.join(known) or 'none'} for {language}): "
            "evaluate it with this pipeline, without --format upstream"
        )
    return {"type": kind, "factor": float(scaling["factor"])}
