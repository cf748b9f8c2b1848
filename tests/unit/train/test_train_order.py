import random
from collections import Counter

import pytest

from recap.errors import RecapError
from recap.train.order import modality_grouped, occurrence_keys, training_order
from recap.train.schedule import learning_rate_after, plan_steps
from recap.train_settings import StageSettings


def settings(batch: int, micro: int = 1, **more: object) -> StageSettings:
    values = {"learning_rate": 1e-3, "image_aspect_ratio": "square", "epochs": 1} | more
    return StageSettings(global_batch_size=batch, micro_batch_size=micro, **values)


IDS = [f"{number:05d}" for number in range(103)]
LENGTHS = [random.Random(5).randrange(3, 40) for _ in IDS]
MIXED = [length if index % 3 else -length for index, length in enumerate(LENGTHS)]


@pytest.mark.parametrize("grouped", [False, True])
def test_order_depends_on_ids_and_seed_only(grouped: bool) -> None:
    plan = plan_steps(len(IDS), settings(8, 2, epochs=2))
    order = training_order(IDS, MIXED, plan, grouped=grouped, seed=1)
    shuffled = list(range(len(IDS)))
    random.Random(0).shuffle(shuffled)
    again = training_order(
        [IDS[i] for i in shuffled], [MIXED[i] for i in shuffled], plan, grouped=grouped, seed=1
    )
    assert [IDS[i] for i in order] == [IDS[shuffled[i]] for i in again]
    other = training_order(IDS, MIXED, plan, grouped=grouped, seed=2)
    assert other != order
    first, second = order[:96], order[96:]
    assert len(set(first)) == len(set(second)) == 96
    assert first != second


def test_captions_do_not_change_the_order() -> None:
    plan = plan_steps(len(IDS), settings(8))
    one = training_order(IDS, LENGTHS, plan, grouped=False, seed=1)
    assert one == training_order(IDS, [5] * len(IDS), plan, grouped=False, seed=1)


def test_grouped_updates_hold_one_kind() -> None:
    keys = occurrence_keys(IDS)
    order = modality_grouped(keys, MIXED, global_batch=8, seed=1, epoch=0)
    assert sorted(order) == list(range(len(IDS)))
    kinds = [
        {MIXED[i] > 0 for i in order[start : start + 8]} for start in range(0, len(order) - 8, 8)
    ]
    images, texts = sum(n > 0 for n in MIXED), sum(n < 0 for n in MIXED)
    complete = images // 8 + texts // 8
    assert all(len(kind) == 1 for kind in kinds[:complete])
    # both kinds are mixed over time, not one after the other
    assert len(Counter(str(kind) for kind in kinds[: complete // 2])) == 2


@pytest.mark.parametrize("micro", [1, 2, 4, 8])
def test_the_order_does_not_depend_on_the_micro_batch(micro: int) -> None:
    def order(size: int) -> list[int]:
        plan = plan_steps(len(IDS), settings(8, size))
        return training_order(IDS, MIXED, plan, grouped=True, seed=4)

    assert order(micro) == order(1)


def test_a_grouped_update_starts_with_its_longest_sample() -> None:
    keys = occurrence_keys(IDS)
    order = modality_grouped(keys, MIXED, global_batch=8, seed=1, epoch=0)
    for start in range(0, 64, 8):
        lengths = [abs(MIXED[i]) for i in order[start : start + 8]]
        assert lengths == sorted(lengths, reverse=True)


def test_repeated_ids_are_told_apart() -> None:
    ids = ["a", "b", "a", "a"]
    assert len(set(occurrence_keys(ids))) == 4
    plan = plan_steps(4, settings(4))
    assert sorted(training_order(ids, [1] * 4, plan, grouped=False, seed=0)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("samples", "batch", "updates", "unused", "warmup"),
    [(17_509, 256, 68, 101, 3), (12_000, 128, 93, 96, 3)],
)
def test_step_arithmetic_of_the_reference_runs(
    samples: int, batch: int, updates: int, unused: int, warmup: int
) -> None:
    plan = plan_steps(samples, settings(batch, 4))
    assert (plan.updates, plan.unused, plan.warmup_updates) == (updates, unused, warmup)
    assert plan.accumulation == batch // 4
    assert plan.micro_batch * plan.accumulation * plan.world_size == batch
    spread = plan_steps(samples, settings(batch, 4), world_size=8)
    assert spread.micro_batch * spread.accumulation * 8 == batch


def test_learning_rates_of_the_reference_runs() -> None:
    one = plan_steps(17_509, settings(256))
    logged = {10: 9.72e-4, 20: 8.41e-4, 30: 6.31e-4, 40: 3.92e-4, 50: 1.78e-4, 60: 3.69e-5}
    for update, rate in logged.items():
        assert learning_rate_after(update, one, 1e-3) == pytest.approx(rate, rel=5e-3)
    two = plan_steps(12_000, settings(128))
    logged = {1: 6.67e-6, 3: 2e-5, 10: 1.97e-5, 20: 1.83e-5, 48: 1.0e-5, 50: 9.3e-6, 90: 5.48e-8}
    for update, rate in logged.items():
        assert learning_rate_after(update, two, 2e-5) == pytest.approx(rate, rel=5e-3)
    assert learning_rate_after(93, two, 2e-5) == pytest.approx(0.0, abs=1e-12)


def test_impossible_batches_say_what_to_do() -> None:
    with pytest.raises(RecapError, match=r"may be one of \[1, 2, 4, 8\]"):
        plan_steps(100, settings(8, 3))
    with pytest.raises(RecapError, match=r"may be one of \[1, 2\]"):
        plan_steps(100, settings(8, 8), world_size=4)
    with pytest.raises(RecapError, match="use fewer ranks"):
        plan_steps(100, settings(8, 1), world_size=3)
    with pytest.raises(RecapError, match="fewer than the 8"):
        plan_steps(7, settings(8))
