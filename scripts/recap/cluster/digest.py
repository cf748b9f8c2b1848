"""What a person reads about failed jobs when a run is over."""

from collections import Counter

from .records import Failure

_SHOWN_CURED = 10


def failure_digest(failures: list[Failure]) -> str:
    """Return what failed for good, why, and what to do; then what passed by itself.

    Args:
        failures: of a run, oldest first.
    """
    last: dict[str, Failure] = {one.name: one for one in failures}
    open_ones = [one for one in last.values() if not one.cured]
    cured = [one for one in failures if one.cured]
    parts = []
    if open_ones:
        parts.append(f"{_jobs(len(open_ones))} failed:\n")
        parts += [_describe(one, failures) for one in open_ones]
    if cured:
        kinds = Counter(one.kind for one in cured)
        summary = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
        parts.append(f"{_attempts(len(cured))} failed and passed later ({summary}):\n")
        parts += [
            f"  {one.name}, attempt {one.attempt}{_place(one)}: {one.kind}{_requeued(one)}\n"
            for one in cured[:_SHOWN_CURED]
        ]
        if len(cured) > _SHOWN_CURED:
            parts.append(f"  and {len(cured) - _SHOWN_CURED} more\n")
    return "".join(parts)


def _describe(one: Failure, failures: list[Failure]) -> str:
    attempts = sum(other.members == one.members for other in failures)
    code = "" if one.exit_code is None else f", exit code {one.exit_code}"
    lines = [
        f"\n  {one.name}",
        f"    class     {one.kind}{code}, after {_attempts(attempts)}{_place(one)}",
        f"    to do     {one.advice}",
        f"    log       {one.log}",
        *(f"      | {line}" for line in one.log_tail),
    ]
    return "\n".join(lines) + "\n"


def _requeued(one: Failure) -> str:
    return ", requeued by SLURM" if one.requeued else ""


def _place(one: Failure) -> str:
    where = f" on {one.node}" if one.node else ""
    return where + (f" (SLURM job {one.slurm_job})" if one.slurm_job else "")


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def _attempts(count: int) -> str:
    return "1 attempt" if count == 1 else f"{count} attempts"
