"""What torch has to know about a rank, from what SLURM says about a task.

``torch.distributed`` reads RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT (https://docs.pytorch.org/docs/stable/distributed.html, environment
variable initialization). SLURM's are in ``man srun``, OUTPUT ENVIRONMENT VARIABLES.
"""

import re
import socket
import subprocess
from collections.abc import Mapping

from ..errors import RecapError

# Ports below 32768, where Linux starts to hand out ports of its own choice.
FIRST_PORT, PORTS = 16_384, 16_384
# Steps of one job are so far apart that neighbouring jobs do not meet.
_STEP_STRIDE = 4096


def rank_environment(slurm: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a rank; rank zero waits for the others on its node.

    Args:
        slurm: the environment of a task that ``srun`` started.

    Raises:
        RecapError: if ``srun`` did not start this process, or rank zero's node has no address.
    """
    try:
        local_ranks = tasks_per_node(slurm["SLURM_STEP_TASKS_PER_NODE"])
        environment = {
            "RANK": slurm["SLURM_PROCID"],
            "WORLD_SIZE": slurm["SLURM_STEP_NUM_TASKS"],
            "LOCAL_RANK": slurm["SLURM_LOCALID"],
            "LOCAL_WORLD_SIZE": str(local_ranks[int(slurm["SLURM_NODEID"])]),
            "MASTER_ADDR": address_of(first_host(slurm["SLURM_STEP_NODELIST"])),
            "MASTER_PORT": str(port_of(int(slurm["SLURM_JOB_ID"]), int(slurm["SLURM_STEP_ID"]))),
        }
    except KeyError as error:
        raise RecapError(
            f"the environment has no {error.args[0]}: start this by `srun`, one task a rank"
        ) from error
    threads = slurm.get("SLURM_CPUS_PER_TASK")
    return environment | ({"OMP_NUM_THREADS": threads} if threads else {})


def first_host(nodes: str) -> str:
    """Return the first name of SLURM's node list, such as ``gpu01`` of ``gpu[01-04,07],big1``."""
    found = re.match(r"(?:\[[^]]*\]|[^],[])+", nodes)
    if found is None:
        raise RecapError(f"SLURM's node list {nodes!r} names no node")
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", found.group())


def tasks_per_node(text: str) -> list[int]:
    """Return the number of tasks of each node from SLURM's short form, such as ``4(x2),1``."""
    counts: list[int] = []
    for part in text.split(","):
        count, _, times = part.rstrip(")").partition("(x")
        counts += [int(count)] * int(times or 1)
    return counts


def port_of(job: int, step: int) -> int:
    """Return the port of rank zero.

    Every rank works it out without asking another. Jobs that run at the same time have
    neighbouring numbers, so two on one node do not meet.
    """
    return FIRST_PORT + (job + _STEP_STRIDE * step) % PORTS


def address_of(host: str) -> str:
    """Return a name or address under which other nodes reach a node.

    Node names are host names on most clusters. Where one is not, SLURM itself knows the address.

    Raises:
        RecapError: if neither the resolver nor SLURM knows it.
    """
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        command = ["scontrol", "show", "node", host, "--oneliner"]
        try:
            shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        except OSError:
            shown = ""
        found = re.search(r"\bNodeAddr=(\S+)", shown)
        if found is None:
            raise RecapError(
                f"rank zero's node {host} has no address here: neither the resolver nor `scontrol "
                "show node` knows it; ask whoever runs the cluster"
            ) from None
        return found.group(1)
    return host
