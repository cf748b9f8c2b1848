"""In which order samples are trained on: a pure function of ids, lengths and seed.

Samples are ordered by a hash of seed, epoch and id instead of by a random
generator, so that two arms with the same ids see them in the same order even
if their files list them differently.
"""

import hashlib
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


def modality_grouped(
    keys: Sequence[str],
    lengths: Sequence[int],
    *,
    global_batch: int,
    seed: int,
    epoch: int,
) -> list[int]:
    """Return an epoch's order in which no update mixes image and text-only samples.

    The algorithm is upstream's ``group_by_modality_length``: both kinds are
    shuffled apart and cut into mega-batches of one update each; the mega-batches of
    both kinds are shuffled together, and the two incomplete last ones, merged, come
    last. Inside an update the longest come first. How it is cut into passes is left
    to :mod:`.passes`.

    Args:
        keys: one distinct key a sample.
        lengths: words of a sample, negative for a text-only one.
        global_batch: samples an update.
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
            complete.append(sorted(block, key=lambda i: abs(lengths[i]), reverse=True))
        rest.extend(mixed[whole:])
    # A block is known by its first member in index-free order.
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
                seed=seed,
                epoch=epoch,
            )
        else:
            indices = shuffled(range(len(keys)), keys, seed, f"all:{epoch}")
        order.extend(indices[: plan.updates_per_epoch * plan.global_batch])
    return order
