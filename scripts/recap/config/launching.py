"""How a training job is started on its ranks, and what it asks of a cluster.

One rank drives one GPU. On one node ``accelerate launch`` starts the ranks; on
several, SLURM does, one task a rank, so that each rank gets SLURM's signals itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .schema import ComputeSettings

# A rank that ends first may leave the others so long to write down why: no gate's report or log
# is cut off, and no crash of one rank keeps the other GPUs waiting.
GRACE_SECONDS = 60
# A signal must reach the ranks that torchrun's agent started, and the update under way may take
# longer than the 30 seconds that the agent would leave them. torchrun reads PET_<OPTION>.
_AGENT = "env PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGUSR1 PET_SHUTDOWN_TIMEOUT=600"


def lease_command(gpus: int) -> str:
    """Return what goes before a command, so that it has GPUs of its own on this machine."""
    return f"python scripts/lease_gpus.py {gpus}" if gpus else "env"


def gres(compute: ComputeSettings, gpus: int) -> str:
    """Return GPUs of a node as SLURM's generic resources, with the kind of card if one is named."""
    kind = compute.gpu_request.partition(":")[2]
    return ":".join(filter(None, ("gpu", kind, str(gpus)))) if gpus else ""


def gpu_resources(
    compute: ComputeSettings, gpus: int | Callable[[Any], int]
) -> dict[str, int | str | Callable[[Any], int | str]]:
    """Return the resource that asks for a job's GPUs, as the cluster wants it named.

    Args:
        compute: says which name that is.
        gpus: how many, or a function of the wildcards that says so.
    """
    if compute.gpu_request == "gpus":
        return {"gpu": gpus}
    if callable(gpus):
        return {"gres": lambda wildcards: gres(compute, gpus(wildcards))}
    return {"gres": gres(compute, gpus)}


@dataclass(frozen=True)
class TrainLaunch:
    """Ranks, threads, resources and launcher of the training rules."""

    compute: ComputeSettings

    @property
    def local_ranks(self) -> int:
        """Ranks on each node."""
        return max(1, self.compute.train_gpus)

    @property
    def ranks(self) -> int:
        """Ranks in all."""
        return self.local_ranks * self.compute.train_nodes

    @property
    def threads(self) -> int:
        """Threads of the job as Snakemake counts them: of a SLURM task, else of all ranks."""
        ranks = 1 if self.compute.train_nodes > 1 else self.local_ranks
        return self.compute.gpu_threads * ranks

    @property
    def mem_mb(self) -> int:
        """Memory on each node in MB, which is how SLURM counts it."""
        return self.compute.model_mem_mb * self.local_ranks

    def resources(self) -> dict[str, Any]:
        """Return the resources from which Snakemake's SLURM plugin makes its ``sbatch`` line.

        The plugin treats a job as parallel if the key ``mpi`` is there at all, so one node has
        none. GPUs of several nodes are asked for a node (``gres``): their sum (``gpu``) might be
        dealt out unevenly. ``tasks_per_gpu: 0`` keeps the plugin from asking for one task a GPU
        besides, which would hide the node's other GPUs from each rank.
        """
        nodes, gpus = self.compute.train_nodes, self.compute.train_gpus
        if nodes == 1:
            return {"nodes": 1, **gpu_resources(self.compute, gpus)}
        asked: dict[str, Any] = {"mpi": "srun", "nodes": nodes}
        # The plugin takes `tasks_per_node` only from 2 on.
        asked |= {"tasks_per_node": gpus} if gpus > 1 else {"tasks": nodes}
        if gpus:
            asked |= {"gres": gres(self.compute, gpus), "tasks_per_gpu": 0}
        return asked

    def command(self, threads: int) -> str:
        """Return what goes before the script and its arguments.

        Args:
            threads: of the job, which may be fewer than asked for where there are fewer cores.
        """
        if self.compute.train_nodes > 1:
            return self._srun(threads)
        lease = lease_command(self.compute.train_gpus)
        if self.local_ranks == 1:
            return f"{lease} python"
        return " ".join(
            (
                f"{lease} {_AGENT} python -m accelerate.commands.launch --multi_gpu",
                f"--num_processes {self.local_ranks} --num_machines 1 --machine_rank 0",
                "--main_process_port 0",
                f"--num_cpu_threads_per_process {max(1, threads // self.local_ranks)}",
                # Else a user's own `accelerate config` would decide.
                "--gpu_ids all --mixed_precision no --dynamo_backend no",
            )
        )

    def _srun(self, threads: int) -> str:
        """Return the step's whole shape: the plugin hides the job's own from it."""
        nodes, gpus = self.compute.train_nodes, self.compute.train_gpus
        return " ".join(
            (
                f"srun --mpi=none --nodes={nodes} --ntasks={self.ranks}",
                f"--ntasks-per-node={self.local_ranks} --cpus-per-task={threads}",
                *([f"--gres={gres(self.compute, gpus)}"] if gpus else []),
                f"--kill-on-bad-exit=0 --wait={GRACE_SECONDS}",
                "python scripts/start_rank.py",
            )
        )
