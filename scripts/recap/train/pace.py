"""How long updates and checkpoints take here: what it needs to end in time."""

import statistics
import time
from collections.abc import Callable, Sequence

SAFETY_FACTOR = 1.5
# For what is not measured: leaving the process, other clocks, a disk that is slower this time.
FLOOR_SECONDS = 10.0
# Until one was written: 1 GB of trained tensors and moments at 100 MB/s.
FIRST_CHECKPOINT_SECONDS = 10.0


class Pace:
    """The longest update and the longest checkpoint of this process.

    The first update of a process compiles and warms up, so it only counts until there is a
    second one.

    Attributes:
        update_seconds: of the longest update; 0 as long as nothing is known.
        checkpoint_seconds: of the longest checkpoint, or what is assumed of the first one.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start the clock of the first update."""
        self.update_seconds = 0.0
        self.checkpoint_seconds = FIRST_CHECKPOINT_SECONDS
        self._clock = clock
        self._updates = 0
        self._checkpoints = 0
        self._began = clock()

    def expect(self, seconds: Sequence[float]) -> None:
        """Take the median of an earlier attempt's updates until one was made here."""
        if seconds and not self._updates:
            self.update_seconds = statistics.median(seconds)

    def begin(self) -> None:
        """Start the clock of an update."""
        self._began = self._clock()

    def update_done(self) -> float:
        """Return the seconds of the update that ends now; the next one begins."""
        seconds = self._clock() - self._began
        known = self.update_seconds if self._updates > 1 else 0.0
        self.update_seconds = max(known, seconds)
        self._updates += 1
        self.begin()
        return seconds

    def checkpoint_done(self) -> None:
        """Note the checkpoint that was written since the last update; the next update begins."""
        known = self.checkpoint_seconds if self._checkpoints else 0.0
        self.checkpoint_seconds = max(known, self._clock() - self._began)
        self._checkpoints += 1
        self.begin()

    def needed(self, passes_done: int = 0, passes: int = 1) -> float:
        """Return the seconds to allow for the rest of an update and a checkpoint.

        ``1.5 * (rest + longest checkpoint) + 10``, where the rest is the share of the passes not
        yet made, of the longest update or of what the passes made so far foretell.

        Args:
            passes_done: passes of the current update that are made.
            passes: passes of an update; at least one.
        """
        whole = self.update_seconds
        if passes_done:
            whole = max(whole, (self._clock() - self._began) * passes / passes_done)
        rest = whole * (passes - passes_done) / passes
        return SAFETY_FACTOR * (rest + self.checkpoint_seconds) + FLOOR_SECONDS
