"""When jobs would run on a cluster, and what would hold them up."""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .dryrun import PlannedJob


@dataclass(frozen=True)
class Capacity:
    """What jobs share: places in the queue, GPUs and cores; None for cores without a bound."""

    jobs: int
    gpus: int
    cores: int | None


def wall_seconds(
    jobs: Sequence[PlannedJob], seconds: Mapping[int, float], capacity: Capacity
) -> float:
    """Return when the last job would end, if each starts as soon as it can.

    List scheduling (Graham, 1966): whenever something is free, the ready job with the longest
    way to the end goes first. A job that asks for more than there is gets what there is.
    """
    waiting = {job.number: len(job.after) for job in jobs}
    followers = followers_of(jobs)
    left = path_lengths(jobs, seconds)
    by_number = {job.number: job for job in jobs}
    ready = [(-left[n], n) for n, count in waiting.items() if not count]
    heapq.heapify(ready)
    running: list[tuple[float, int]] = []
    cores = math.inf if capacity.cores is None else capacity.cores
    free: dict[str, float] = {"jobs": capacity.jobs, "gpus": capacity.gpus, "cores": cores}
    now = 0.0
    while ready or running:
        for number in _startable(ready, by_number, free, capacity):
            heapq.heappush(running, (now + seconds[number], number))
        now, ended = heapq.heappop(running)
        _give(free, by_number[ended], capacity, 1)
        for number in followers[ended]:
            waiting[number] -= 1
            if not waiting[number]:
                heapq.heappush(ready, (-left[number], number))
    return now


def _startable(
    ready: list[tuple[float, int]],
    jobs: Mapping[int, PlannedJob],
    free: dict[str, float],
    capacity: Capacity,
) -> list[int]:
    """Take the ready jobs that fit out of the queue, longest way first."""
    taken, kept = [], []
    while ready and free["jobs"] > 0:
        entry = heapq.heappop(ready)
        job = jobs[entry[1]]
        if _asked(job, capacity, "gpus") <= free["gpus"] and (
            _asked(job, capacity, "cores") <= free["cores"]
        ):
            _give(free, job, capacity, -1)
            taken.append(job.number)
        else:
            kept.append(entry)
    for entry in kept:
        heapq.heappush(ready, entry)
    return taken


def _asked(job: PlannedJob, capacity: Capacity, what: str) -> int:
    if what == "gpus":
        return min(job.gpus, capacity.gpus)
    return job.threads if capacity.cores is None else min(job.threads, capacity.cores)


def _give(free: dict[str, float], job: PlannedJob, capacity: Capacity, sign: int) -> None:
    free["jobs"] += sign
    for what in ("gpus", "cores"):
        free[what] += sign * _asked(job, capacity, what)


def followers_of(jobs: Sequence[PlannedJob]) -> dict[int, list[int]]:
    """Return for each job those that read its files."""
    followers: dict[int, list[int]] = {job.number: [] for job in jobs}
    for job in jobs:
        for number in job.after:
            followers[number].append(job.number)
    return followers


def path_lengths(jobs: Sequence[PlannedJob], seconds: Mapping[int, float]) -> dict[int, float]:
    """Return for each job the seconds from its start to the end of the longest way from it."""
    followers = followers_of(jobs)
    lengths: dict[int, float] = {}
    waiting = {number: len(after) for number, after in followers.items()}
    ready = [number for number, count in waiting.items() if not count]
    before = {job.number: job.after for job in jobs}
    while ready:
        number = ready.pop()
        longest = max((lengths[other] for other in followers[number]), default=0.0)
        lengths[number] = seconds[number] + longest
        for other in before[number]:
            waiting[other] -= 1
            if not waiting[other]:
                ready.append(other)
    return lengths


def critical_path(jobs: Sequence[PlannedJob], seconds: Mapping[int, float]) -> list[PlannedJob]:
    """Return the longest chain of jobs, which no number of nodes shortens."""
    if not jobs:
        return []
    lengths, followers = path_lengths(jobs, seconds), followers_of(jobs)
    by_number = {job.number: job for job in jobs}
    number = max(by_number, key=lambda n: lengths[n])
    path = [by_number[number]]
    while followers[number]:
        number = max(followers[number], key=lambda n: lengths[n])
        path.append(by_number[number])
    return path
