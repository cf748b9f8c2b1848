"""Whether a Triton kernel of this package can be used on this machine."""

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)


def kernel_works(try_out: Callable[[], bool], without: str) -> bool:
    """Return whether a kernel runs and gives right values, and warn where it doesn't.

    Args:
        try_out: runs it on a small input; returns whether its values are right.
        without: what is done instead, and what that costs.
    """
    try:
        right = try_out()
    except Exception as error:  # no package, no C compiler, an unknown GPU
        logger.warning("%s: %s", without, error)
        return False
    if not right:
        logger.warning("%s: the kernel for it gives wrong values on this GPU", without)
    return right
