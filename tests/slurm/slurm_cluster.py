"""A real SLURM on this one machine: controller, accounting, two nodes with make-believe GPUs.

Debian's packages, run as root without systemd. Nothing of a cluster that may be
installed here is touched: if /etc/slurm/slurm.conf is somebody else's, nothing starts.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from slurm_accounting import ACCOUNTING_PACKAGES, Accounting, free_ports

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", *ACCOUNTING_PACKAGES)
NODES = ("recap1", "recap2")
GPUS = 2
PARTITION = "tests"
# Its jobs make room for those of the other partition, and go back into the queue.
YIELDING = "yielding"
_FOLDER = Path("/etc/slurm")
_FILES = ("slurm.conf", "gres.conf", "cgroup.conf", "slurmdbd.conf")
_PREFIX = "recap-slurm-"


class CannotStartError(Exception):
    """Why there can be no SLURM here."""


def install() -> None:
    """Install the packages that are missing.

    Raises:
        CannotStartError: if this is not root on a Debian with its packages at hand.
    """
    if os.geteuid() != 0:
        raise CannotStartError("SLURM's daemons need root")
    if shutil.which("apt-get") is None:
        raise CannotStartError("SLURM is installed from Debian's packages, and this has no apt-get")
    query = ["dpkg-query", "-W", "-f=${Package} ${Status}\n", *PACKAGES]
    listed = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    missing = [name for name in PACKAGES if f"{name} install ok installed" not in listed]
    if not missing:
        return
    _apt_get("update")
    _apt_get("install", "-y", "--no-install-recommends", *missing)


def _apt_get(*words: str) -> None:
    # Where there is no network it is to say so soon.
    command = ["apt-get", "-qq", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20"]
    command += ["-o", "Acquire::https::Timeout=20", *words]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    # An update that failed is told by its messages alone.
    if done.returncode or (words == ("update",) and "Failed to fetch" in done.stderr):
        raise CannotStartError(f"{' '.join(command)} failed: {done.stderr[-500:]}")


class Cluster:
    """Daemons, their files and the way to ask them."""

    def __init__(self) -> None:
        # A socket's path may have 107 characters, so not below pytest's folders.
        self.root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))
        for name in ("etc", "run", "log", "state", "spool", "dev", "mysql"):
            (self.root / name).mkdir()
        self.root.chmod(0o755)
        self._accounting = Accounting(self.root)

    def start(self) -> None:
        """Write the configuration, start the daemons and wait until the nodes are idle.

        Raises:
            CannotStartError: if another SLURM is configured here, or this one does not come up.
        """
        self._claim_folder()
        self._write_configuration()
        socket_, key = self.root / "run/munge.socket", self.root / "etc/munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._daemon(
            *("munged", "--force", f"--key-file={key}", f"--socket={socket_}"),
            f"--pid-file={self.root}/run/munged.pid",
            f"--log-file={self.root}/log/munged.log",
            f"--seed-file={self.root}/run/munge.seed",
        )
        self._accounting.start_database()
        self._wait("the database", self._accounting.grant)
        self._daemon("slurmdbd")
        self._wait("the accounting", lambda: self._asks("sacctmgr", "-n", "show", "cluster"))
        for record in self._accounting.records():
            self._asks("sacctmgr", "-i", *record)
        self.start_controller()
        for node in NODES:
            (self.root / "spool" / node).mkdir()
            self.start_node(node)
        self.wait_until_idle()

    def start_controller(self) -> None:
        """Start slurmctld and wait until it answers."""
        self._daemon("slurmctld")
        self._wait("the controller", lambda: self._asks("scontrol", "ping"))

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._daemon("slurmd", "-N", node)

    def wait_until_idle(self) -> None:
        """Wait until every node is there and does nothing."""
        self._wait("the nodes", self._nodes_are_idle)

    def kill(self, daemon: str) -> None:
        """End a daemon at once, as a crash or a power cut does."""
        path = self.root / f"run/{daemon}.pid"
        os.kill(int(path.read_text()), signal.SIGKILL)
        path.unlink()

    def stop(self) -> None:
        """End what was started, by its pid files, and remove its files."""
        if (self.root / "run/slurmctld.pid").exists():
            self._asks("scancel", "--user=root")
            self._asks("scancel", "--user=root", "--signal=KILL")
            time.sleep(0.5)
        pids = [
            int(path.read_text())
            for pattern in (
                "slurmd-*.pid",
                "slurmctld.pid",
                "slurmdbd.pid",
                "maria.pid",
                "mung*.pid",
            )
            for path in sorted((self.root / "run").glob(pattern))
        ]
        _end(pids)
        for name in _FILES:
            link = _FOLDER / name
            if link.is_symlink() and link.readlink() == self.root / "etc" / name:
                link.unlink()
        shutil.rmtree(self.root, ignore_errors=True)

    def _claim_folder(self) -> None:
        # Job steps drop SLURM_CONF, so the files must be where SLURM looks by default.
        _FOLDER.mkdir(exist_ok=True)
        for name in _FILES:
            link = _FOLDER / name
            if not (link.is_symlink() or link.exists()):
                continue
            left = link.is_symlink() and link.readlink().parent.parent.name.startswith(_PREFIX)
            if not left or link.exists():
                raise CannotStartError(f"{link} belongs to another SLURM, or to live tests")
            link.unlink()  # of a test that was killed, and whose files are gone
        for name in _FILES:
            (_FOLDER / name).symlink_to(self.root / "etc" / name)

    def _write_configuration(self) -> None:
        host, root = socket.gethostname().split(".")[0], self.root
        ports = free_ports(1 + len(NODES))
        self._accounting.write_configuration()
        lines = [
            "ClusterName=recap",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={ports[0]}",
            "SlurmUser=root",
            "SlurmdUser=root",
            "AuthType=auth/munge",
            # How long a requeued job waits, which is two minutes by default.
            f"AuthInfo=socket={root}/run/munge.socket,cred_expire=10",
            f"StateSaveLocation={root}/state",
            f"SlurmdSpoolDir={root}/spool/%n",
            f"SlurmctldPidFile={root}/run/slurmctld.pid",
            f"SlurmdPidFile={root}/run/slurmd-%n.pid",
            f"SlurmctldLogFile={root}/log/slurmctld.log",
            f"SlurmdLogFile={root}/log/slurmd-%n.log",
            "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU_Memory",
            "SlurmdParameters=config_overrides",
            "GresTypes=gpu",
            *self._accounting.settings(),
            # Without cgroups memory is polled, which is why SLURM calls such a job FAILED.
            "JobAcctGatherType=jobacct_gather/linux",
            "JobAcctGatherFrequency=1",
            "JobAcctGatherParams=OverMemoryKill",
            "SchedulerParameters=batch_sched_delay=0,bf_interval=2",
            "PreemptType=preempt/partition_prio",
            "PreemptMode=REQUEUE",
            "ReturnToService=2",
            "SlurmdTimeout=10",
            "SlurmctldTimeout=10",
            "KillWait=20",
            "MinJobAge=300",
        ]
        lines += [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 "
            f"RealMemory=32000 Gres=gpu:{GPUS}"
            for node, port in zip(NODES, ports[1:], strict=True)
        ]
        nodes = ",".join(NODES)
        lines += [
            f"PartitionName={name} Nodes={nodes} MaxTime=60 DefMemPerCPU=2000 LLN=YES {more}"
            for name, more in (
                (PARTITION, "Default=YES PriorityTier=10"),
                (YIELDING, "PriorityTier=1 PreemptMode=REQUEUE"),
            )
        ]
        (root / "etc/slurm.conf").write_text("\n".join(lines) + "\n")
        # Without a device SLURM does not set CUDA_VISIBLE_DEVICES.
        for number in range(GPUS):
            os.mknod(root / f"dev/gpu{number}", 0o20666, os.makedev(1, 3))
        gres = f"NodeName={nodes} Name=gpu File={root}/dev/gpu[0-{GPUS - 1}]\n"
        (root / "etc/gres.conf").write_text(gres)
        (root / "etc/cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")

    def _daemon(self, *command: str) -> None:
        """Run a command that puts itself into the background."""
        with (self.root / "log/start.log").open("a") as log:
            done = subprocess.run(command, stdout=log, stderr=log, check=False)
        if done.returncode:
            raise CannotStartError(f"{command[0]} did not start:\n{self._logs()}")

    def _asks(self, *command: str) -> bool:
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=5)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def _nodes_are_idle(self) -> bool:
        command = ["sinfo", "--noheader", "--Node", "--format=%N %T"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return set(shown.splitlines()) == {f"{node} idle" for node in NODES}

    def _wait(self, what: str, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise CannotStartError(f"{what} did not come up:\n{self._logs()}")
            time.sleep(0.1)

    def _logs(self) -> str:
        tails = [path.read_text(errors="replace")[-1500:] for path in self.root.glob("log/*.log")]
        return "\n".join(tails)


def _end(pids: list[int]) -> None:
    """End processes: politely, and after five seconds by force."""
    for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 1.0)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        end = time.monotonic() + seconds
        while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < end:
            time.sleep(0.05)
