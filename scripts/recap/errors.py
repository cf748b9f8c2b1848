"""Errors a user can act on, and the exit codes they end with."""

EXIT_BUG = 1
EXIT_BAD_INPUT = 2
EXIT_GATE_FAILED = 3


class RecapError(Exception):
    """Bad input or configuration: the message says what, where, and what to do."""

    exit_code = EXIT_BAD_INPUT


class GateError(RecapError):
    """An evidence gate failed: the result would not be trustworthy, so the run stops."""

    exit_code = EXIT_GATE_FAILED
