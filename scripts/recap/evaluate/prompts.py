"""From questions to prompts that share what is known of their pictures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import RecapError

if TYPE_CHECKING:
    import torch

    from ..mgm.answering import Prompts

_IMAGE_PREFIX = "<image>\n"
_TRIED = 16


class PromptWriter:
    """Writes questions as token ids, in a checkpoint's template."""

    def __init__(self, tokenizer: Any, template: str, limit: int | None) -> None:
        """Take the template, and the positions that a prompt may have with its picture."""
        self._tokenizer, self._template, self._limit = tokenizer, template, limit

    def longest(self, texts: Sequence[str]) -> int:
        """Return about how many tokens the longest text has: of those longest in characters."""
        likely = sorted(texts, key=len, reverse=True)[:_TRIED]
        return max((len(self._ids(text, shown=False)) for text in likely), default=0)

    def encode(
        self, texts: Sequence[str], features: "Sequence[torch.Tensor | None]"
    ) -> list[list[int]]:
        """Return the ids of each prompt, -200 in the place of a picture.

        Args:
            texts: the questions.
            features: (V, N, hidden) of each one's picture, or None.

        Raises:
            RecapError: if a text holds the picture's placeholder, or a prompt would be cut at
                its end, losing the instruction.
        """
        found = []
        for text, feature in zip(texts, features, strict=True):
            ids = self._ids(text, shown=feature is not None)
            length = len(ids) + (0 if feature is None else feature.shape[1] - 1)
            if self._limit is not None and length > self._limit:
                raise RecapError(
                    f"the prompt {text[:80]!r} has {length} tokens with its image, but the "
                    f"checkpoint's tokenizer_model_max_length is {self._limit}; raise it in "
                    "config.json"
                )
            found.append(ids)
        return found

    def _ids(self, text: str, *, shown: bool) -> list[int]:
        from ..mgm.conversation import encode_prompt

        if _IMAGE_PREFIX.strip() in text:
            raise RecapError(f"the question {text[:80]!r} holds the image placeholder; remove it")
        prompt = _IMAGE_PREFIX + text if shown else text
        return encode_prompt(prompt, self._tokenizer, template=self._template)


def share(
    ids: Sequence[Sequence[int]], features: "Sequence[torch.Tensor | None]", variant: int
) -> "Prompts":
    """Return prompts that share their pictures.

    Args:
        ids: of :meth:`PromptWriter.encode`; prompts of one picture are neighbours.
        features: (V, N, hidden) of each one's picture, the same object for the same
            picture; or None for all.
        variant: which of the V.
    """
    import torch

    from ..mgm.answering import Prompts, split_prompt

    parts = [split_prompt(row) for row in ids]
    shown: list[torch.Tensor] = []
    owner: list[int] = []
    for feature in features:
        if feature is not None:
            if not shown or feature is not shown[-1]:
                shown.append(feature)
            owner.append(len(shown) - 1)
    pictures = torch.stack([feature[variant] for feature in shown]) if shown else None
    return Prompts(parts[0][0], pictures, owner, [after for _, after in parts])
