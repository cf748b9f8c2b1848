"""Plain-text logging, the same for every command line of the project."""

import logging
import os
import sys

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure_logging(level: int = logging.INFO) -> None:
    """Send records to standard error; ranks above zero only report warnings."""
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(
        stream=sys.stderr,
        level=level if rank == 0 else logging.WARNING,
        format=_FORMAT,
        datefmt="%H:%M:%S",
        force=True,
    )
    for noisy in ("PIL", "matplotlib", "urllib3", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
