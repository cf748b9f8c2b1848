"""How an update is cut into forward passes: for each rank, rows of samples of like length.

Which samples make an update is given; how they are grouped inside it changes neither
the loss nor the gradient, as the loss is divided by the update's count of tokens. So
they are sorted by length, which leaves little padding and gives the ranks equal work.
"""

import math
from collections.abc import Sequence

from .schedule import StepPlan

Row = tuple[int, ...]
Pass = list[Row]


def plan_passes(
    order: Sequence[int],
    lengths: Sequence[int],
    plan: StepPlan,
    rank: int,
    capacity: int = 0,
    *,
    alike: bool = False,
) -> list[list[Pass]]:
    """Return the passes of each update that one rank makes.

    Args:
        order: sample indices, one global batch after the other.
        lengths: positions of each sample, text and image.
        plan: step arithmetic.
        rank: from 0.
        capacity: positions of a row into which several samples are packed; 0 for a sample
            a row.
        alike: whether ranks must make equally many passes; one that has fewer gets empty ones.

    Returns:
        Passes an update, each of up to ``plan.micro_batch`` rows of sample indices. Each
        sample of an update is in exactly one pass of one rank. Unpacked, every rank makes
        ``plan.accumulation`` passes.
    """
    updates = []
    for start in range(0, len(order), plan.global_batch):
        rows = rows_of_update(order[start : start + plan.global_batch], lengths, capacity)
        sizes = {row: sum(lengths[index] for index in row) for row in rows}
        rows.sort(key=lambda row: -sizes[row])
        passes = [rows[i : i + plan.micro_batch] for i in range(0, len(rows), plan.micro_batch)]
        mine = passes[rank :: plan.world_size]
        if alike:
            mine += [[]] * (math.ceil(len(passes) / plan.world_size) - len(mine))
        updates.append(mine)
    return updates


def rows_of_update(members: Sequence[int], lengths: Sequence[int], capacity: int) -> list[Row]:
    """Return the rows of an update's samples; see :func:`plan_passes`."""
    return pack(members, lengths, capacity) if capacity else [(index,) for index in members]


def pack(members: Sequence[int], lengths: Sequence[int], capacity: int) -> list[Row]:
    """Pack samples into rows of at most ``capacity`` positions, by first-fit decreasing.

    A sample that is longer than the capacity has a row of its own. At most 11/9 of the
    fewest possible rows, and 6/9 of a row, are used (Dosa 2007).
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(members, key=lambda member: -lengths[member]):
        row = next((r for r, left in enumerate(room) if left >= lengths[index]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(capacity)
        rows[row].append(index)
        room[row] -= lengths[index]
    return [tuple(row) for row in rows]
