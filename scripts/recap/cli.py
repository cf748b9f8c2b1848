"""What every entry script shares: logging, exit codes, and settings from the shell."""

import argparse
import errno
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from .errors import EXIT_BAD_INPUT, EXIT_BUG, RecapError
from .io import dump_json
from .logs import configure_logging
from .shards import expand_ranges

if TYPE_CHECKING:
    from .settings import Settings

logger = logging.getLogger(__name__)

AnySettings = TypeVar("AnySettings", bound="Settings")

EXIT_CODES = """\
exit codes:
  0  success
  1  a bug: the traceback above it is worth reporting
  2  bad input or configuration, or a full disk, memory or GPU: the message says what to do
  3  an evidence gate failed: the result would not be trustworthy"""

QUOTA_ADVICE = "the disk or quota is full: free space, or write elsewhere, and run it again"
MEMORY_ADVICE = "the machine's memory is full: ask for more, or run fewer jobs at a time"
GPU_MEMORY_ADVICE = (
    "the GPU's memory is full: end other processes on it, choose a type of 16 bits or a "
    "smaller batch where the tool has one, or take a larger card"
)
_ADVICE = {
    (errno.ENOSPC, errno.EDQUOT): QUOTA_ADVICE,
    (errno.EACCES, errno.EPERM, errno.EROFS): "permission is denied: correct the rights of that "
    "path, or write elsewhere",
    (errno.EEXIST, errno.EISDIR, errno.ENOTDIR): "a file lies where a folder is needed, or a "
    "folder where a file is: name another path",
}


def make_parser(description: str, example: str) -> argparse.ArgumentParser:
    """Return a parser whose ``--help`` ends with an example and the exit codes."""
    return argparse.ArgumentParser(
        description=description,
        epilog=f"example:\n  {example}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_device_option(cli: argparse.ArgumentParser) -> None:
    """Add where to compute."""
    cli.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="auto: a GPU if there is one",
    )


def add_json_option(options: argparse.ArgumentParser) -> None:
    """Add ``--json``: the outcome as one JSON object on stdout, a failure's too."""
    options.add_argument(
        "--json",
        action="store_true",
        help="write the outcome to stdout as JSON: ok, exit_code, message, failures (name, "
        "problem, fix) and result; also when it fails",
    )


def run_cli(
    main: Callable[[argparse.Namespace], Any],
    parser: argparse.ArgumentParser,
    argv: list[str] | None = None,
) -> None:
    """Parse, run ``main`` and leave with the exit code its outcome stands for.

    With ``--json`` (see :func:`add_json_option`) what ``main`` returns, or why
    it failed, goes to stdout.
    """
    # The rules pass the files of all shards as one word.
    args = parser.parse_args(expand_ranges(sys.argv[1:] if argv is None else argv))
    configure_logging()
    failures: list[dict[str, str]] = []
    code, message, result = 0, "", None
    try:
        result = main(args)
    except RecapError as error:
        logger.error("%s", error)
        code, message, failures = error.exit_code, str(error), error.failures
    except Exception as error:
        advice = advise(error)
        if advice is None:
            logger.exception("unexpected error")
            code, message = EXIT_BUG, f"{type(error).__name__}: {error}"
        else:
            code, message = EXIT_BAD_INPUT, f"{error}; {advice}"
            logger.error("%s", message)
    if getattr(args, "json", False):
        outcome = {"ok": code == 0, "exit_code": code, "message": message}
        sys.stdout.write(dump_json({**outcome, "failures": failures, "result": result}))
    if code:
        sys.exit(code)


def advise(error: Exception) -> str | None:
    """Return what to do where a machine ran out of something or denies it; None for a bug."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return GPU_MEMORY_ADVICE
    if isinstance(error, MemoryError):
        return MEMORY_ADVICE
    if not isinstance(error, OSError):
        return None
    return next((advice for codes, advice in _ADVICE.items() if error.errno in codes), None)


def load_settings(text: str) -> dict[str, Any]:
    """Read settings given as inline JSON or as the path of a JSON or YAML file.

    Raises:
        RecapError: if ``text`` is neither, or does not hold a mapping.
    """
    if text.lstrip().startswith("{"):
        source, content = "the inline JSON", text
    else:
        path = Path(text)
        if not path.is_file():
            raise RecapError(f"settings file {text} does not exist; pass JSON or a path")
        source, content = str(path), path.read_text(encoding="utf-8")
    try:
        # JSON first: YAML reads 1e-3 as a string.
        value = json.loads(content)
    except json.JSONDecodeError:
        try:
            value = yaml.safe_load(content)
        except yaml.YAMLError as error:
            raise RecapError(f"cannot read settings from {source}: {error}") from error
    if not isinstance(value, dict):
        raise RecapError(f"settings from {source} must be a mapping, not {type(value).__name__}")
    return value


def parse_settings(model: type[AnySettings], text: str, what: str = "--settings") -> AnySettings:
    """Build a settings model from inline JSON or from a JSON or YAML file.

    Args:
        model: the settings model.
        text: what :func:`load_settings` takes.
        what: the option's name, for the message.

    Raises:
        RecapError: naming every key that is wrong.
    """
    # Small jobs take no settings and run by the thousand; pydantic is half their start-up.
    from pydantic import ValidationError

    from .settings import explain

    try:
        return model.model_validate(load_settings(text))
    except ValidationError as error:
        raise RecapError(f"{what}: {explain(error)}") from error
