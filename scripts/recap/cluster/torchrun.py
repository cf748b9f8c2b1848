"""What torchrun writes behind the log of its ranks: why it ended, and with which code they did.

``accelerate launch`` and ``torchrun`` end with 1 and a traceback of their own, however a rank
ended. The code of the rank that failed first stands in the summary below that traceback.
"""

import re

_ROOT_CAUSE = re.compile(
    r"^Root Cause \(first observed failure\):\n(?:.*\n)*?  exitcode  : (-?\d+) \(pid: ",
    re.MULTILINE,
)
# Its warnings, such as `W1126 20:48:09.022000 20344 torch/distributed/elastic/…] Sending …`, where
# a path may stand in front of `torch`.
_WARNING = re.compile(r"^[EWI]\d{4} .*[ /]torch/distributed/.*\n?", re.MULTILINE)
_FRAMES = r"^Traceback \(most recent call last\):\n(?: .*\n)*"
_ERRORS = r"torch\.distributed\.elastic\.multiprocessing\."
_SUMMARY = re.compile(
    rf"{_FRAMES}{_ERRORS}(?:errors\.ChildFailedError:.*\n=+\n(?:.*\n)*?=+(?:\n|\Z)"
    r"|api\.SignalException: .*\n?)",
    re.MULTILINE,
)


def rank_exit_code(log: str) -> int | None:
    """Return the exit code of the rank that failed first, a signal's negative.

    Args:
        log: of a job whose ranks torchrun started.

    Returns:
        None if torchrun says nothing of a rank that failed.
    """
    found = _ROOT_CAUSE.findall(log)
    return int(found[-1]) if found else None


def own_lines(log: str) -> str:
    """Return what the ranks themselves wrote."""
    return _SUMMARY.sub("", _WARNING.sub("", log))
