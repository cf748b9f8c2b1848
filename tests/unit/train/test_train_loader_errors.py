"""The loader with worker processes: the same batches in order, and messages that stay short."""

import pytest
import torch

from recap.errors import RecapError
from recap.train.loading import UpdateLoader

PASSES = [[[(0,), (1, 2)], [(3,)]], [[(4,), (5,)]], [[(6, 7)]]]
MESSAGE = "sample 5: cannot read image 5.png (it is cut off); repair the file"


class Numbers:
    """Samples that are their numbers; one of them may be broken."""

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken

    def __getitem__(self, index: int) -> int:
        if index == self.broken:
            try:
                raise OSError("it is cut off")
            except OSError as error:
                raise RecapError(MESSAGE) from error
        return index


def collate(rows):
    return {"rows": torch.tensor([sum(row) for row in rows])}


def loader(workers: int, done: int = 0, broken: int | None = None) -> UpdateLoader:
    cpu = torch.device("cpu")
    return UpdateLoader(Numbers(broken), collate, PASSES, lambda: done, cpu, workers, seed=1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1])
def test_updates_come_in_order_from_the_first_to_be_made(workers: int, done: int) -> None:
    found = [
        [update.next()["rows"].tolist() for _ in range(len(update))]
        for update in loader(workers, done)
    ]
    assert found == [[[0, 3], [3]], [[4, 5]], [[13]]][done:]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_read_is_named_without_a_traceback(workers: int) -> None:
    updates = iter(loader(workers, done=1, broken=5))
    with pytest.raises(RecapError) as raised:
        next(updates).next()
    assert str(raised.value) == MESSAGE
