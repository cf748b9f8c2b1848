"""Ending a run on request or before it is cut off, at a place where its state is complete."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import RecapError
from .limits import run_end
from .pace import Pace

logger = logging.getLogger(__name__)

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

# torchrun, accelerate launch and SLURM (KillWait) all send SIGKILL this long after SIGTERM.
GRACE_SECONDS = 30.0


class InterruptedRunError(RecapError):
    """The run was asked to stop and can be continued by the same command."""

    exit_code = EXIT_INTERRUPTED


class StopRequest:
    """Why and until when this process may go on; nothing is ever done inside the handler itself.

    Attributes:
        pace: how long things take, to know what still fits in.
    """

    def __init__(
        self,
        end: float | None = None,
        source: str = "",
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Note when the process will be cut off.

        Args:
            end: UNIX time in seconds; None if nobody will.
            source: who says so.
            clock: gives the UNIX time.
        """
        self.pace = Pace()
        self._end = end
        self._source = source
        self._clock = clock
        self._signal: str | None = None

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Signal handler: only write down which signal came and when SIGKILL may follow.

        SIGUSR1 is a word in advance, and moves no end.
        """
        del frame
        if self._signal is None:
            self._signal = signal.Signals(number).name
        if number == signal.SIGTERM:
            kill = self._clock() + GRACE_SECONDS
            self._end = kill if self._end is None else min(self._end, kill)

    def mention(self, where: str) -> None:
        """Say that a signal came, if one did, though the run ends as if none had.

        Whoever sent it may take the run for failed all the same.

        Args:
            where: what is done, such as ``after update 9 of 9``.
        """
        if self._signal is not None:
            logger.warning(
                "stopped by %s %s, when nothing was left to do; should it have to be tried again, "
                "that is short",
                *(self._signal, where),
            )

    def before_update(self) -> bool:
        """Return whether no further update may begin: a signal came, or there is no time for it."""
        return self._signal is not None or self.cuts_short(0, 1)

    def cuts_short(self, passes_done: int, passes: int) -> bool:
        """Return whether the rest of an update, and a checkpoint after it, would come too late."""
        if self._end is None:
            return False
        return self._clock() + self.pace.needed(passes_done, passes) > self._end

    def interruption(self, where: str) -> InterruptedRunError:
        """Return the error that ends the run.

        Args:
            where: what is kept, such as ``after update 3 of 9``.
        """
        advice = "run the same command again to continue"
        if self._signal is not None:
            return InterruptedRunError(f"stopped by {self._signal} {where}; {advice}")
        if self._end is None:
            return InterruptedRunError(f"stopped by another rank {where}; {advice}")
        left, needed = self._end - self._clock(), self.pace.needed()
        return InterruptedRunError(
            f"stopped {where}: {left:.0f} s are left ({self._source}), and another update with its "
            f"checkpoint is given {needed:.0f} s; {advice}, with more time if this one made no "
            "update"
        )


@contextmanager
def stop_requests(time_limit_minutes: float | None = None) -> Iterator[StopRequest]:
    """Catch SIGTERM and SIGUSR1, and know the end of the run, for the duration of the block."""
    request = StopRequest(*run_end(time_limit_minutes))
    previous = {number: signal.signal(number, request.note) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
