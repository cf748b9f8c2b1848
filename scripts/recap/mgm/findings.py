"""What a check found: every failure with its place, the problem and what to do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import RecapError


@dataclass
class Findings:
    """Failures and warnings, collected so that one run names all of them.

    Attributes:
        failures: mappings with ``name`` (a tensor, file or part), ``problem`` and ``fix``.
        warnings: sentences.
    """

    failures: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def fail(self, name: str, problem: str, fix: str) -> None:
        """Add a failure."""
        self.failures.append({"name": name, "problem": problem, "fix": fix})

    def attempt(self, name: str, fix: str, action: Callable[[], Any]) -> Any:
        """Return what ``action`` returns; turn a refusal into a failure and return None."""
        try:
            return action()
        except RecapError as error:
            self.fail(name, f"cannot be used: {error}", fix)
            return None


def describe_failures(failures: list[dict[str, str]]) -> str:
    """Return one line a failure: name, problem, what to do."""
    return "\n".join(f"  - {f['name']} {f['problem']}; {f['fix']}" for f in failures)
