"""The flags of MGM's TextVQA script, as a request to our runner."""

from argparse import Namespace
from pathlib import Path

from pydantic import ValidationError

from ..errors import RecapError
from ..settings import EvaluateSettings
from .predict import PredictRequest
from .protocol import BenchmarkProtocol


def textvqa_request(flags: Namespace) -> PredictRequest:
    """Return the request that ``eval_textvqa.py``'s flags stand for.

    The model is named by its folder, as upstream does; the journal lies in
    ``.state`` beside the answers unless told otherwise.

    Raises:
        RecapError: for values the settings do not allow, or another template than the
            checkpoint's.
    """
    try:
        protocol = BenchmarkProtocol.model_validate(
            {"kind": "textvqa", "ocr": not flags.no_ocr, "max_new_tokens": flags.max_new_tokens}
        )
        settings = EvaluateSettings(batch_size=flags.batch_size, dtype=flags.dtype)
    except ValidationError as error:
        raise RecapError(f"a flag is out of range: {error}") from error
    if flags.conv_mode is not None:
        _require_template(flags.model_path, flags.conv_mode)
    answers: Path = flags.answers_file
    return PredictRequest(
        checkpoint=flags.model_path,
        questions=flags.question_file,
        image_root=flags.image_folder,
        protocol=protocol,
        settings=settings,
        num_chunks=flags.num_chunks,
        chunk_index=flags.chunk_idx,
        model_id=flags.model_path.resolve().name,
        state_dir=flags.state_dir or answers.parent / ".state",
        answers=answers,
        perf=None,
        control=flags.control,
    )


def _require_template(checkpoint: Path, wanted: str) -> None:
    from ..mgm.configuration import config_from_disk

    trained = config_from_disk(checkpoint).conversation
    if trained != wanted:
        raise RecapError(
            f"{checkpoint} was trained with the template {trained}, not {wanted}; leave "
            "--conv-mode out to use the checkpoint's"
        )
