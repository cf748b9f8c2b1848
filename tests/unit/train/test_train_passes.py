"""How updates are cut into passes: every sample once, whatever the ranks and the packing."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from recap.train.passes import pack, plan_passes
from recap.train.schedule import plan_steps
from recap.train_settings import StageSettings


def plan(samples: int, batch: int, micro: int, ranks: int = 1):
    settings = StageSettings(
        global_batch_size=batch,
        micro_batch_size=micro,
        learning_rate=1e-3,
        image_aspect_ratio="square",
    )
    return plan_steps(samples, settings, ranks)


@given(
    st.lists(st.integers(1, 100), min_size=8, max_size=64),
    st.sampled_from([(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (1, 4)]),
    st.sampled_from([0, 100, 130, 400]),
)
def test_every_sample_of_an_update_is_in_one_pass_of_one_rank(lengths, cut, capacity) -> None:
    micro, ranks = cut
    steps = plan(len(lengths), 8, micro, ranks)
    order = list(range(len(lengths)))[: steps.updates * 8]
    by_rank = [plan_passes(order, lengths, steps, rank, capacity) for rank in range(ranks)]
    for number in range(steps.updates):
        passes = [rows for updates in by_rank for rows in updates[number]]
        found = Counter(index for rows in passes for row in rows for index in row)
        assert found == Counter(order[number * 8 : number * 8 + 8])
        assert all(len(rows) <= micro for rows in passes)
        if capacity:
            assert all(sum(lengths[i] for i in row) <= capacity for rows in passes for row in rows)
        else:
            assert {len(updates[number]) for updates in by_rank} == {steps.accumulation}


def test_passes_hold_samples_of_like_length_and_ranks_equal_work() -> None:
    lengths = [10, 40, 20, 30, 11, 41, 21, 31]
    steps = plan(8, 8, 2, 2)
    first, second = (plan_passes(range(8), lengths, steps, rank) for rank in (0, 1))
    assert first == [[[(5,), (1,)], [(6,), (2,)]]]
    assert second == [[[(7,), (3,)], [(4,), (0,)]]]
    padded = sum(2 * max(lengths[i] for (i,) in rows) for rows in first[0] + second[0])
    assert padded == sum(lengths) + 4


def test_packing_by_hand() -> None:
    lengths = [60, 50, 45, 40, 5, 120]
    # decreasing: 120 alone, 60, 50 + 45, then 40 beside 60, 5 beside 50 + 45
    assert pack(range(6), lengths, 100) == [(5,), (0, 3), (1, 2, 4)]
