"""What is asked of compute nodes before expensive jobs are sent to them."""

from .launching import TrainLaunch
from .wiring import Wiring

# In GiB: what the jobs of one node write, and how they hand pictures over.
_RESULTS_GIB = 10
_TEMPORARY_GIB = 2
_SHARED_MEMORY_GIB = 0.5


class PreflightWiring:
    """Answers the preflight rules' questions about one experiment."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._compute = wiring.config.compute

    def reports(self, kind: str) -> list[str]:
        """Return the report that jobs of a kind wait for.

        Args:
            kind: ``model`` for captioning and answering, ``train`` for training. Without GPUs
                there is none: the jobs are not expensive, and any machine will do.
        """
        gpus = self._compute.gpus if kind == "model" else self._compute.train_gpus
        base = f"results/{self._wiring.config.experiment}"
        return [f"{base}/preflight/{kind}.json"] if gpus else []

    def models(self, kind: str) -> list[str]:
        """Return the manifests of the models that jobs of a kind read."""
        if kind == "train":
            return sorted(self._wiring.base_manifests().values())
        return [self._wiring.model_manifest(m) for m in self._wiring.experiment.models_in_use]

    def flags(self, kind: str) -> str:
        """Return the flags that say what a node must have."""
        compute, launch = self._compute, TrainLaunch(self._compute)
        train = kind == "train"
        folders = (("results", _RESULTS_GIB), ("/tmp", _TEMPORARY_GIB))  # noqa: S108
        return " ".join(
            (
                f"--gpus {compute.train_gpus if train else compute.gpus}",
                f"--gpu-memory-gib {compute.gpu_memory_gib}",
                f"--memory-mb {launch.mem_mb if train else compute.model_mem_mb}",
                *(f"--folder {path} {gib}" for path, gib in folders),
                f"--folder /dev/shm {_SHARED_MEMORY_GIB}",
            )
        )
