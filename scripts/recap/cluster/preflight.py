"""Looking at a compute node before the first expensive job is sent to it."""

import importlib
import importlib.metadata
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from ..errors import RecapError
from ..hashing import sha256_file
from ..io import read_json
from .failures import EXIT_BAD_NODE

logger = logging.getLogger(__name__)

_GIB = 1 << 30
_WRITE_BYTES = 64 << 20
# Their libraries fail first where a node differs; the others are Python alone.
IMPORTED = {
    **{name: name for name in ("torch", "transformers", "peft", "accelerate", "pyarrow")},
    "pillow": "PIL",
}


class BadNodeError(RecapError):
    """This node cannot do the work that others can."""

    exit_code = EXIT_BAD_NODE


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        of_node: whether it is the node's own fault: the job is worth trying on another.
        fix: what to do; empty if it is as it must be.
    """

    name: str
    value: str
    fix: str = ""
    of_node: bool = True


@dataclass(frozen=True)
class Demands:
    """What a job needs of its node.

    Attributes:
        gpus: on each node.
        gpu_memory_gib: of each card.
        memory_mb: of the job on each node.
        folders: where the jobs write, with the free bytes they need.
        write_mb_per_second: slowest writing that is not called broken.
    """

    gpus: int
    gpu_memory_gib: float
    memory_mb: int
    folders: dict[str, int]
    write_mb_per_second: float


def node_name() -> str:
    """Return this node's name, as SLURM calls it if it does."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def examine(demands: Demands, manifests: Iterable[Path], environment: Path) -> list[Finding]:
    """Look at everything that one process can see.

    Args:
        demands: what is needed.
        manifests: of the models that the jobs read.
        environment: conda file with the pins of their packages.
    """
    looks: list[Callable[[], Iterable[Finding]]] = [
        lambda: look_at_packages(environment),
        lambda: look_at_gpus(demands),
        lambda: [look_at_memory(demands.memory_mb)],
        lambda: look_at_folders(demands),
        lambda: look_at_models(manifests),
    ]
    found: list[Finding] = []
    for look in looks:
        for finding in look():
            logger.info("%s: %s%s", finding.name, finding.value, finding.fix and " - BAD")
            found.append(finding)
    return found


def look_at_gpus(demands: Demands) -> Iterable[Finding]:
    """Yield number, memory and arithmetic of the visible cards.

    Of several ranks each looks at its own, as every process takes some memory of a card it uses.
    """
    if not demands.gpus:
        return
    import torch

    seen = torch.cuda.device_count()
    enough = seen >= demands.gpus
    yield Finding(
        "GPUs visible",
        f"{seen} of {demands.gpus}",
        "" if enough else "the driver does not see the cards that SLURM gave; drain the node",
    )
    cards = range(min(seen, demands.gpus))
    rank = os.environ.get("LOCAL_RANK")
    for number in cards if rank is None else cards[int(rank) : int(rank) + 1]:
        yield from _look_at_card(number, demands.gpu_memory_gib)


def _look_at_card(number: int, memory_gib: float) -> Iterable[Finding]:
    import torch

    name = torch.cuda.get_device_name(number)
    try:
        free, total = (size / _GIB for size in torch.cuda.mem_get_info(number))
        large = free >= memory_gib
        yield Finding(
            f"GPU {number}, memory",
            f"{free:.1f} of {total:.1f} GiB free ({name})",
            ""
            if large
            else f"{memory_gib:g} GiB are needed: another process holds some, or the "
            "card is too small (compute.gpu_memory_gib)",
        )
        with torch.cuda.device(number):
            # Sums of 256 ones and of powers of two are exact in bfloat16.
            left = torch.ones(256, 256, dtype=torch.bfloat16, device="cuda")
            exact = bool(((left @ left) == 256).all())
        supported = exact and torch.cuda.is_bf16_supported()
        fix = "" if supported else "the card computes wrongly or knows no bfloat16; drain the node"
        yield Finding(f"GPU {number}, bfloat16", "right" if supported else "wrong", fix)
    except RuntimeError as error:
        yield Finding(f"GPU {number}", str(error).splitlines()[0], "the card fails; drain the node")


def look_at_memory(memory_mb: int, meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """Return whether the node has the memory that the job may use."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", meminfo.read_text(encoding="utf-8"), re.MULTILINE)
    have = int(total[1]) * 1024 // 1_000_000 if total else 0
    fix = "" if have >= memory_mb else f"{memory_mb} MB are asked for; the node has less"
    return Finding("memory", f"{have} MB", fix)


def look_at_folders(demands: Demands) -> Iterable[Finding]:
    """Yield free space and, of folders on disk, the speed of writing."""
    for folder, needed in demands.folders.items():
        path = Path(folder)
        shared = not folder.startswith(("/dev/shm", "/tmp"))  # noqa: S108
        try:
            path.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(path).free
            fix = "" if free >= needed else f"{needed / _GIB:.1f} GiB are needed: free some"
            yield Finding(f"{folder}, space", f"{free / _GIB:.1f} GiB free", fix, not shared)
            if not fix and shared:
                speed = write_speed(path)
                slow = speed < demands.write_mb_per_second
                fix = "the file system is ill: ask the administrator" if slow else ""
                yield Finding(f"{folder}, writing", f"{speed:.0f} MB/s", fix)
        except OSError as error:
            yield Finding(folder, str(error), "the folder cannot be written to", not shared)


def write_speed(folder: Path) -> float:
    """Return how fast 64 MiB reach the disk, in MB/s."""
    path = folder / f".preflight.{uuid4().hex[:12]}"
    block = os.urandom(1 << 20)
    started = time.perf_counter()
    try:
        with path.open("wb") as stream:
            for _ in range(_WRITE_BYTES >> 20):
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
    finally:
        path.unlink(missing_ok=True)
    return _WRITE_BYTES / 1e6 / (time.perf_counter() - started)


def look_at_models(manifests: Iterable[Path]) -> Iterable[Finding]:
    """Yield whether each model's files are the ones its manifest describes."""
    for manifest in manifests:
        wrong = []
        listed = read_json(manifest)["outputs"]
        for name, entry in listed.items():
            beside = manifest.parent / name
            path = beside if beside.is_file() else Path(entry["path"])
            if not path.is_file():
                wrong.append(f"{name} is missing")
            elif sha256_file(path) != entry["sha256"]:
                wrong.append(f"{name} is another file")
        fix = f"remove {manifest} and run again, so that it is fetched anew" if wrong else ""
        value = "; ".join(wrong) or f"{len(listed)} files"
        yield Finding(f"model {manifest.parent.name}", value, fix, of_node=False)


def look_at_packages(environment: Path) -> Iterable[Finding]:
    """Yield whether the packages of an environment are there, in the pinned versions."""
    pins = dict(
        re.findall(r"^\s+- ([\w-]+)==(\S+)$", environment.read_text(encoding="utf-8"), re.MULTILINE)
    )
    wrong = []
    for name, version in pins.items():
        try:
            found = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
        else:
            if found != version:
                logger.warning("%s is %s here, %s is pinned", name, found, version)
    for name in pins.keys() & IMPORTED:
        try:
            importlib.import_module(IMPORTED[name])
        except (ImportError, OSError) as error:
            wrong.append(f"{name}: {error}")
    fix = f"install what {environment} lists on the nodes" if wrong else ""
    value = "; ".join(wrong) or f"{len(pins)} packages"
    yield Finding("packages", value, fix, of_node=False)


def require_sound(findings: dict[str, list[Finding]]) -> None:
    """Refuse nodes on which something is not as it must be.

    Args:
        findings: by node.

    Raises:
        BadNodeError: if a node is to blame; the message names it.
        RecapError: if it would be the same on every node.
    """
    bad = [(node, one) for node, rows in findings.items() for one in rows if one.fix]
    if not bad:
        return
    lines = [f"node {node}: {one.name}: {one.value}; {one.fix}" for node, one in bad]
    failures = [
        {"name": f"{node}: {one.name}", "problem": one.value, "fix": one.fix} for node, one in bad
    ]
    error = BadNodeError if any(one.of_node for _, one in bad) else RecapError
    raise error("\n".join(lines), failures)
