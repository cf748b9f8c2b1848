"""Files for benchmarks whose answers somebody else scores."""

from pathlib import Path

from ..errors import GateError, RecapError
from .answers import control_of, read_answers, single_value
from .benchmarks import get_benchmark
from .gates import refuse_simulated
from .protocol import BenchmarkProtocol


def write_submission(
    protocol: BenchmarkProtocol, answers_path: Path, annotations: Path, out: Path
) -> None:
    """Write one model's answers to the real pictures in the form of an upload.

    Args:
        protocol: the protocol the answers were made under.
        answers_path: merged answers.
        annotations: the file that says which questions an upload holds.
        out: the file to write; its suffix must be the benchmark's.

    Raises:
        GateError: for no answers, or simulated ones.
        RecapError: for answers of a control or of several models, or if the
            benchmark's own check fails.
    """
    benchmark = get_benchmark(protocol.kind)
    if benchmark.submission_format and out.suffix != f".{benchmark.submission_format}":
        raise RecapError(f"{out}: {protocol.kind} is submitted as .{benchmark.submission_format}")
    answers = read_answers(answers_path)
    if not answers:
        raise GateError(f"{answers_path} holds no answer; there is nothing to submit")
    refuse_simulated(answers, answers_path)
    single_value(answers, "model_id", answers_path)
    control = control_of(answers, answers_path)
    if control != "none":
        raise RecapError(
            f"{answers_path} was made under {control}; only real answers are submitted"
        )
    benchmark.write_submission(answers, annotations, out)
