"""Does transformers read a ``tokenizer.model`` as SentencePiece does?"""

from pathlib import Path
from typing import Any

from ..errors import RecapError

_PROBES = ("[INST] What is it? [/INST]", "USER: two words", "a\nb")


def require_same_pieces(tokenizer: Any, folder: str | Path) -> None:
    """Compare a tokenizer that was made from ``tokenizer.model`` with SentencePiece itself.

    transformers 5 reads the file of a Mistral folder without the space in front
    of a text. A ``tokenizer.json`` beside it is read as it is, so folders that
    have one pass.

    Raises:
        RecapError: if the ids of a probe differ.
    """
    model = Path(folder) / "tokenizer.model"
    if (Path(folder) / "tokenizer.json").is_file() or not model.is_file():
        return
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(model))
    for text in _PROBES:
        found, wanted = tokenizer(text, add_special_tokens=False).input_ids, processor.encode(text)
        if list(found) != list(wanted):
            raise RecapError(
                f"{model}: transformers cuts {text!r} into {found}, SentencePiece into {wanted}; "
                "put the model's tokenizer.json beside it, which is read as it is"
            )
