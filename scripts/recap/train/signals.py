"""Ending a run on request, at a place where its state is complete."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import RecapError

logger = logging.getLogger(__name__)

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class InterruptedRunError(RecapError):
    """The run was asked to stop and can be continued by the same command."""

    exit_code = EXIT_INTERRUPTED


class StopRequest:
    """Remembers that a signal came; nothing is ever done inside the handler itself."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Signal handler: only write down which signal came."""
        del frame
        self.signal_name = signal.Signals(number).name

    def raise_if_set(self, doing: str) -> None:
        """Stop here if asked to.

        Raises:
            InterruptedRunError: naming the signal and what was going on.
        """
        if self:
            raise InterruptedRunError(
                f"stopped by {self.signal_name} {doing}; run the same command again to continue"
            )


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch SIGTERM and SIGUSR1 for the duration of the block."""
    request = StopRequest()
    previous = {number: signal.signal(number, request.note) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
