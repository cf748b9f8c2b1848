"""In which order samples are trained on: a pure function of ids, lengths and seed.

Samples are ordered by a hash of seed, epoch and id instead of by a random
generator, so that two arms with the same ids see them in the same order even
if their files list them differently.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Sequence

from .schedule import StepPlan


def occurrence_keys(ids: Sequence[str]) -> list[str]:
    """Return one key a sample: its id, and for a repeated id which repetition it is."""
    seen: Counter[str] = Counter()
    keys = []
    for identifier in ids:
        keys.append(f"{identifier}\x1f{seen[identifier]}")
        seen[identifier] += 1
    return keys


def shuffled(indices: Sequence[int], keys: Sequence[str], seed: int, salt: str) -> list[int]:
    """Return ``indices`` in an order that depends only on their keys, seed and salt."""

    def rank(index: int) -> bytes:
        return hashlib.sha256(f"{salt}\x1f{seed}\x1f{keys[index]}".encode()).digest()

    return sorted(indices, key=rank)


def deal(indices: Sequence[int], lengths: Sequence[int], micro_batch: int) -> list[int]:
    """Deal samples into micro-batches of equal size and nearly equal total length.

    Longest first, each sample goes to the micro-batch that is shortest so far
    and not yet full, as in upstream's ``split_to_even_chunks``.
    """
    ordered = sorted(indices, key=lambda index: abs(lengths[index]), reverse=True)
    chunks: list[list[int]] = [[] for _ in range(len(ordered) // micro_batch)]
    heap = [(0, number) for number in range(len(chunks))]
    for index in ordered:
        total, number = heapq.heappop(heap)
        chunks[number].append(index)
        if len(chunks[number]) < micro_batch:
            heapq.heappush(heap, (total + abs(lengths[index]), number))
    return [index for chunk in chunks for index in chunk]


def modality_grouped(
    keys: Sequence[str],
    lengths: Sequence[int],
    *,
    global_batch: int,
    micro_batch: int,
    seed: int,
    epoch: int,
) -> list[int]:
    """Return an epoch's order in which no update mixes image and text-only samples.

    The algorithm is upstream's ``group_by_modality_length``: both kinds are
    shuffled apart and cut into mega-batches of one update each, whose samples
    are dealt into micro-batches by length; the mega-batches of both kinds are
    shuffled together, and the two incomplete last ones, merged, come last.

    Args:
        keys: one distinct key a sample.
        lengths: words of a sample, negative for a text-only one.
        global_batch: samples an update.
        micro_batch: samples a forward pass.
        seed: seed of the order.
        epoch: number of the pass, from 0.

    Returns:
        Every index of ``keys`` once.
    """
    complete: list[list[int]] = []
    rest: list[int] = []
    for kind in ("image", "text"):
        members = [i for i, length in enumerate(lengths) if (length >= 0) == (kind == "image")]
        mixed = shuffled(members, keys, seed, f"{kind}:{epoch}")
        whole = len(mixed) - len(mixed) % global_batch
        for start in range(0, whole, global_batch):
            block = mixed[start : start + global_batch]
            complete.append(deal(block, lengths, micro_batch))
        rest.extend(mixed[whole:])
    # A block is known by its first member in index-free order, so that the order of blocks does
    # not depend on the micro-batch either.
    names = [min(keys[index] for index in block) for block in complete]
    order = shuffled(range(len(complete)), names, seed, f"blocks:{epoch}")
    tail = shuffled(rest, keys, seed, f"rest:{epoch}")
    return [index for number in order for index in complete[number]] + tail


def training_order(
    ids: Sequence[str], lengths: Sequence[int], plan: StepPlan, *, grouped: bool, seed: int
) -> list[int]:
    """Return the indices of all samples of all updates, epoch after epoch.

    Each epoch is cut after its last complete update, so entry ``k`` belongs to
    update ``k // global_batch`` (from 0) whatever the micro-batch or world size.
    """
    keys = occurrence_keys(ids)
    order: list[int] = []
    for epoch in range(plan.epochs):
        if grouped:
            indices = modality_grouped(
                keys,
                lengths,
                global_batch=plan.global_batch,
                micro_batch=plan.micro_batch,
                seed=seed,
                epoch=epoch,
            )
        else:
            indices = shuffled(range(len(keys)), keys, seed, f"all:{epoch}")
        order.extend(indices[: plan.updates_per_epoch * plan.global_batch])
    return order
