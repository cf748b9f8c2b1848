"""Sampling that does not depend on the batch: one uniform number a row and step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True)
class DecodingRule:
    """How the next token is chosen, and when a caption ends.

    Attributes:
        max_new_tokens: longest caption.
        end: ids of the tokens that end a caption.
        pad: id written after the end.
        temperature: divides the logits of sampled rows.
        top_k: tokens that a sampled row may choose from.
    """

    max_new_tokens: int
    end: tuple[int, ...]
    pad: int
    temperature: float = 1.0
    top_k: int = 50

    def choose(self, logits: "torch.Tensor", uniform: "torch.Tensor | None") -> "torch.Tensor":
        """Return the next token of each row, int64 (B,).

        Args:
            logits: (B, V) of any floating type.
            uniform: float32 (B,) in [0, 1), or none for greedy rows only. A row
                takes the first of its ``top_k`` likeliest tokens, in descending
                order, at which the cumulated probability exceeds its number; a
                row with 0 is greedy.
        """
        import torch

        if uniform is None:
            return logits.argmax(-1)
        count = min(self.top_k, logits.shape[-1])
        values, tokens = logits.float().topk(count, dim=-1)
        cumulated = (values / self.temperature).softmax(-1).cumsum(-1)
        place = (cumulated <= uniform[:, None]).sum(-1, keepdim=True).clamp(max=count - 1)
        return torch.gather(tokens, 1, place).squeeze(1)


def candidate_uniforms(keys: Sequence[str], *, candidates: int, steps: int, seed: int) -> Any:
    """Return the numbers that candidates are drawn by, float32 (images * candidates, steps).

    Every image has a stream of its own, so its captions depend neither on its
    neighbours nor on the order. Candidate 0 has zeros: it is greedy.

    Args:
        keys: what names each image, such as the SHA-256 of its bytes.
        candidates: rows an image.
        steps: tokens a caption.
        seed: of all streams.
    """
    import hashlib

    import numpy as np

    rows = np.zeros((len(keys), candidates, steps), dtype=np.float32)
    for index, key in enumerate(keys):
        digest = hashlib.sha256(f"{seed}\x1f{key}".encode()).digest()
        stream: NDArray[Any] = np.random.Generator(
            np.random.Philox(key=int.from_bytes(digest[:16], "big"))
        ).random((candidates - 1, steps))
        rows[index, 1:] = stream
    # Rounding to float32 may reach 1, which is not below any cumulated probability.
    return np.minimum(rows, np.nextafter(np.float32(1), np.float32(0))).reshape(-1, steps)
