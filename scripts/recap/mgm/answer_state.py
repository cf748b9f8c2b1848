"""What a batch of answers in the making consists of, and its steps as a CUDA graph."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .decoder import CachedDecoder

_PAD = 0


@dataclass
class Progress:
    """Where each of R rows stands.

    Attributes:
        tokens: int64 (R), the last token of each row.
        places: int64 (R), its position in the cache.
        ended: bool (R).
        out: int64 (R, T), the new tokens.
        count: int64 (1), columns of ``out`` that are filled.
    """

    tokens: torch.Tensor
    places: torch.Tensor
    ended: torch.Tensor
    out: torch.Tensor
    count: torch.Tensor

    @classmethod
    def empty(cls, rows: int, most: int, device: torch.device) -> "Progress":
        """Return the state of rows that all have ended, with room for ``most`` tokens."""
        return cls(
            tokens=torch.full((rows,), _PAD, device=device),
            places=torch.zeros(rows, dtype=torch.int64, device=device),
            ended=torch.ones(rows, dtype=torch.bool, device=device),
            out=torch.full((rows, most), _PAD, device=device),
            count=torch.zeros(1, dtype=torch.int64, device=device),
        )

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return all tensors."""
        return self.tokens, self.places, self.ended, self.out, self.count

    def note(self, chosen: torch.Tensor, stops: torch.Tensor) -> None:
        """Add a token to each row that has not ended.

        Args:
            chosen: int64 (R).
            stops: int64, the tokens that end a row.
        """
        tokens = torch.where(self.ended, _PAD, chosen)
        self.out.index_copy_(1, self.count, tokens.unsqueeze(1))
        self.tokens.copy_(tokens)
        self.ended.logical_or_((tokens.unsqueeze(1) == stops).any(dim=1))
        self.count += 1


class AnswerState:
    """Caches and progress of R rows, for prompts and answers of up to S positions.

    It is made once and used for batch after batch, so that its graph can be, too.
    """

    def __init__(
        self, decoder: CachedDecoder, rows: int, length: int, most: int, like: torch.Tensor
    ) -> None:
        """Allocate.

        Args:
            decoder: makes the steps.
            rows: R.
            length: S.
            most: longest answer, in tokens.
            like: gives type and device.
        """
        self._decoder = decoder
        self.rows, self.length = rows, length
        self.caches = decoder.cache(rows, length, like)
        self.progress = Progress.empty(rows, most, like.device)
        self._replay: Callable[[], None] | None = None

    def begin(self, lengths: torch.Tensor, logits: torch.Tensor, stops: torch.Tensor) -> None:
        """Note the first tokens of a new batch whose prompts are in the caches.

        Args:
            lengths: int64 (B), positions of each prompt; rows beyond have ended.
            logits: (B, vocabulary), behind each prompt.
            stops: int64, the tokens that end a row.
        """
        progress, count = self.progress, len(lengths)
        progress.out.fill_(_PAD)
        progress.count.zero_()
        progress.ended.fill_(True)
        progress.ended[:count] = False
        progress.places.zero_()
        progress.places[:count] = lengths
        chosen = progress.tokens.new_zeros(self.rows)
        chosen[:count] = logits.float().argmax(dim=-1)
        progress.note(chosen, stops)

    def step(self, stops: torch.Tensor) -> None:
        """Make one more token of each row."""
        if self._replay is not None:
            self._replay()
        else:
            self._advance(stops)

    def _advance(self, stops: torch.Tensor) -> None:
        progress = self.progress
        logits = self._decoder.step(progress.tokens, progress.places, self.caches)
        # Rows that have ended go on in the last place, which no other row of theirs reads.
        progress.places.copy_((progress.places + 1).clamp(max=self.length - 1))
        progress.note(logits.float().argmax(dim=-1), stops)

    def capture(self, stops: torch.Tensor) -> None:
        """Capture the step as a CUDA graph; the state stays as it was."""
        kept = [tensor.clone() for tensor in self.progress.tensors()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels are loaded before the capture
            self._advance(stops)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Another thread may be putting pictures into page-locked memory meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._advance(stops)
        for tensor, value in zip(self.progress.tensors(), kept, strict=True):
            tensor.copy_(value)
        self._replay = graph.replay

    def grown(self, length: int, like: torch.Tensor) -> "AnswerState":
        """Return the same state with room for more positions."""
        most = self.progress.out.shape[1]
        larger = AnswerState(self._decoder, self.rows, length, most, like)
        for new, old in zip(larger.caches, self.caches, strict=True):
            new[:, :, :, : self.length] = old
        larger.progress = self.progress
        return larger
