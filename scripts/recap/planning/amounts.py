"""How many things a job works on, as the priors count them."""

from ..config.experiment import Experiment
from .dryrun import PlannedJob


class Amounts:
    """Answers for the jobs of one experiment."""

    def __init__(self, experiment: Experiment) -> None:
        """Answer for ``experiment``."""
        self._experiment = experiment
        self._config = experiment.config

    def of(self, job: PlannedJob, what: str) -> int:
        """Return how many records, samples or questions a job works on.

        Args:
            job: whose wildcards say what it works on.
            what: ``shard``, ``corpus``, ``pretrain``, ``finetune``, ``questions`` or ``one``.
        """
        train = self._config.train
        if what == "shard":
            return min(self._config.curate.shard_size, self._records(job))
        if what == "corpus":
            return self._records(job)
        if what == "pretrain":
            return round(self._records(job) * train.pretrain.epochs)
        if what == "finetune":
            return round(self._experiment.instructions.samples * train.finetune.epochs)
        if what == "questions":
            return self._questions(job)
        return 1

    def _records(self, job: PlannedJob) -> int:
        """Return the records of a job's corpus, or of its arm's budget if that is smaller."""
        row = self._experiment.arms.get(job.wildcards.get("arm", ""))
        name = job.wildcards.get("corpus") or (row.corpus if row else self._config.corpus)
        corpus = self._experiment.corpora.get(name)
        records = corpus.records if corpus else 1
        return min(records, (row.max_records if row else None) or records)

    def _questions(self, job: PlannedJob) -> int:
        row = self._experiment.benchmarks.get(job.wildcards.get("benchmark", ""))
        shards = int(job.wildcards.get("chunks", "1"))
        return -(-row.count // shards) if row else 1
