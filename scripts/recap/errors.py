"""Errors a user can act on, and the exit codes they end with."""

from collections.abc import Iterable, Mapping

EXIT_BUG = 1
EXIT_BAD_INPUT = 2
EXIT_GATE_FAILED = 3
EXIT_STOPPED = 130  # as a shell reports a program that Ctrl-C ended

# Pictures are no inputs of any rule, so that mending one makes nothing due by itself.
VALIDATE_AGAIN = "validate the corpus again: run Snakemake with `--forcerun validate_corpus`"


class RecapError(Exception):
    """Bad input or configuration: the message says what, where, and what to do.

    Attributes:
        failures: where several things are wrong, one mapping each with ``name``,
            ``problem`` and ``fix``; the message holds the same in words.
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(self, message: str = "", failures: Iterable[Mapping[str, str]] = ()) -> None:
        super().__init__(message)
        self.failures = [dict(failure) for failure in failures]


class GateError(RecapError):
    """An evidence gate failed: the result would not be trustworthy, so the run stops."""

    exit_code = EXIT_GATE_FAILED


class StoppedByUserError(RecapError):
    """The user pressed Ctrl-C: the message says what is kept and how to go on."""

    exit_code = EXIT_STOPPED
