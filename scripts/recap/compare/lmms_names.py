"""Names of the files in lmms-eval's form; the rules need them, so this imports nothing heavy."""

from collections.abc import Sequence

STEM = "run"


def run_folder(arm: str, seed: int) -> str:
    """Return the name of a run's folder, as lmms-eval names one after the model."""
    return f"{arm}.seed{seed}"


def run_files(arm: str, seed: int, benchmarks: Sequence[str]) -> list[str]:
    """Return a run's files below the export's folder: its results, then a benchmark's samples."""
    folder = run_folder(arm, seed)
    samples = [f"{folder}/{STEM}_samples_{name}.jsonl" for name in benchmarks]
    return [f"{folder}/{STEM}_results.json", *samples]
