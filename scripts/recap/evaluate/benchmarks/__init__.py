"""The benchmarks: a folder each, found by its name.

To add one, make a folder whose ``__init__.py`` ends with ``BENCHMARK = ...``, an
instance of a :class:`~.base.Benchmark` subclass that reads questions and scores
answers, and a row in the benchmarks sheet with that folder's name as ``kind``.
The runner, the journal, the gather step and the gates are shared.
"""

from importlib import import_module

from ...errors import RecapError
from ..protocol import available_kinds
from .base import Benchmark


def get_benchmark(kind: str) -> Benchmark:
    """Return the benchmark of that kind.

    Raises:
        RecapError: if there is no such folder.
    """
    if kind not in available_kinds():
        raise RecapError(f"unknown kind {kind!r}; known are {', '.join(available_kinds())}")
    benchmark: Benchmark = import_module(f".{kind}", __name__).BENCHMARK
    return benchmark
