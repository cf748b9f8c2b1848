"""The flags of MGM's TextVQA script, as requests to our runner."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ..errors import RecapError
from ..settings import EvaluateSettings
from .predict import PredictRequest
from .protocol import BenchmarkProtocol

if TYPE_CHECKING:
    from ..mgm.parts import ModelParts


def textvqa_requests(flags: Namespace) -> list[PredictRequest]:
    """Return the requests that ``eval_textvqa.py``'s flags stand for, one a model.

    A model is named by its folder, as upstream does; the journal lies in
    ``.state`` beside the answers unless told otherwise.

    Raises:
        RecapError: for values the settings do not allow, another template than the
            checkpoint's, or another number of answer files than of models.
    """
    try:
        protocol = BenchmarkProtocol.model_validate(
            {"kind": "textvqa", "ocr": not flags.no_ocr, "max_new_tokens": flags.max_new_tokens}
        )
        settings = EvaluateSettings(batch_size=flags.batch_size or "auto", dtype=flags.dtype)
    except ValidationError as error:
        raise RecapError(f"a flag is out of range: {error}") from error
    models: list[Path] = flags.model_path
    files: list[Path] = flags.answers_file
    if len(models) != len(files):
        raise RecapError(
            f"{len(models)} models but {len(files)} answer files; name one --answers-file a model"
        )
    parts = _parts(flags)
    if flags.conv_mode is not None:
        for model in models:
            _require_template(model, parts, flags.conv_mode)
    return [
        PredictRequest(
            checkpoint=model,
            questions=flags.question_file,
            image_root=flags.image_folder,
            protocol=protocol,
            settings=settings,
            num_chunks=flags.num_chunks,
            chunk_index=flags.chunk_idx,
            model_id=model.resolve().name,
            state_dir=flags.state_dir or answers.parent / ".state",
            answers=answers,
            perf=None,
            control=flags.control,
            parts=parts,
        )
        for model, answers in zip(models, files, strict=True)
    ]


def _parts(flags: Namespace) -> "ModelParts | None":
    """Return the base that adapters are evaluated on, if one is named."""
    from ..mgm.options import parts_from_args

    folders = (flags.language_model, flags.clip, flags.convnext)
    if not any(folders):
        return None
    if not all(folders):
        raise RecapError("an adapter's base needs --model-base, --clip and --convnext")
    return parts_from_args(flags, flags.model_path[0])


def _require_template(checkpoint: Path, parts: "ModelParts | None", wanted: str) -> None:
    from ..mgm.configuration import config_from_disk

    trained = parts.conversation if parts else config_from_disk(checkpoint).conversation
    if trained != wanted:
        raise RecapError(
            f"{checkpoint} was trained with the template {trained}, not {wanted}; leave "
            "--conv-mode out to use the checkpoint's"
        )
