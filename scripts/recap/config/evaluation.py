"""Questions, protocols and answer files of an experiment's benchmarks."""

from ..evaluate.benchmarks import get_benchmark
from .data_paths import DataPaths, as_json


class EvaluationWiring(DataPaths):
    """Answers the evaluation rules' questions about one experiment."""

    def parity_benchmark(self) -> str:
        """Return the benchmark whose questions the parity gate asks."""
        rows = self.experiment.benchmarks
        return next((name for name in rows if rows[name].kind == "textvqa"), next(iter(rows)))

    def questions(self, benchmark: str) -> str:
        """Return the file of the questions that are asked: as it came, or with OCR tokens added."""
        if self.experiment.benchmarks[benchmark].ocr_source == "file":
            return self.question_file(benchmark)
        return f"results/{self.config.experiment}/ocr/{benchmark}/questions.jsonl"

    def question_file(self, benchmark: str) -> str:
        """Return a benchmark's question file as it came."""
        row = self.experiment.benchmarks[benchmark]
        return self.data_file(row, row.questions)

    def annotations(self, benchmark: str) -> list[str]:
        """Return a benchmark's annotation files."""
        row = self.experiment.benchmarks[benchmark]
        return [self.data_file(row, name) for name in row.annotations.split(",")]

    def protocol(self, benchmark: str) -> str:
        """Return a benchmark's protocol as JSON."""
        row = self.experiment.benchmarks[benchmark]
        return as_json({"kind": row.kind, "ocr": row.ocr, "max_new_tokens": row.max_new_tokens})

    def submissions(self) -> list[str]:
        """Return the files to submit, of every run."""
        rows, names = self.experiment.benchmarks, self.config.submissions
        suffixes = {name: get_benchmark(rows[name].kind).submission_format for name in names}
        return [
            f"{self.evaluation(arm, seed, name)}/submission.{suffixes[name]}"
            for name in names
            for arm in self.config.arms
            for seed in self.config.seeds
        ]

    def evaluation(self, arm: str, seed: str | int, benchmark: str, control: str = "") -> str:
        """Return the folder of a run's answers; ``control`` is empty or ``.<condition>``."""
        return f"results/{self.config.experiment}/eval/{arm}/seed{seed}/{benchmark}{control}"

    def answer_shards(self, arm: str, seed: str, benchmark: str, control: str) -> list[str]:
        """Return the answer files of a run, under upstream's names."""
        count = self.config.evaluation_shards
        base = self.evaluation(arm, seed, benchmark, control)
        return [f"{base}/answers/{count}_{index}.jsonl" for index in range(count)]

    def real_answers(self, arm: str, seed: str, benchmark: str, control: str) -> list[str]:
        """Return a run's answers to the real pictures, for those of a control."""
        return [f"{self.evaluation(arm, seed, benchmark)}/merge.jsonl"] if control else []
