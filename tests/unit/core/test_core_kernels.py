"""A kernel is only used where it runs and gives right values."""

import logging

from recap.kernels import kernel_works


def without_triton() -> bool:
    raise ModuleNotFoundError("No module named 'triton'")


def test_a_kernel_that_is_right_is_used_in_silence(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert kernel_works(lambda: True, "slowly")
    assert not caplog.messages


def test_one_that_cannot_run_or_is_wrong_is_not_used_and_named(caplog) -> None:
    assert not kernel_works(without_triton, "decoding about 5 % slower")
    assert not kernel_works(lambda: False, "decoding about 5 % slower")
    assert caplog.messages == [
        "decoding about 5 % slower: No module named 'triton'",
        "decoding about 5 % slower: the kernel for it gives wrong values on this GPU",
    ]
