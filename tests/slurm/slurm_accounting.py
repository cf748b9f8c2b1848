"""The accounting of the tests' SLURM: slurmdbd and a MariaDB of its own."""

import random
import socket
import subprocess
from pathlib import Path

ACCOUNTING_PACKAGES = ("slurmdbd", "mariadb-server-core", "mariadb-client-core")
_USER = "slurm"


class Accounting:
    """Configuration and database of slurmdbd."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._database_port, self._port = free_ports(2)

    def settings(self) -> list[str]:
        """Return the lines of slurm.conf."""
        return [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=localhost",
            f"AccountingStoragePort={self._port}",
            f"AccountingStoragePass={self.root}/run/munge.socket",
            # The plugin writes the rule into the comment.
            "AccountingStoreFlags=job_comment",
            "AccountingStorageTRES=gres/gpu",
        ]

    def write_configuration(self) -> None:
        """Write slurmdbd.conf, which SLURM wants nobody else to read."""
        path = self.root / "etc/slurmdbd.conf"
        lines = [
            "AuthType=auth/munge",
            f"AuthInfo=socket={self.root}/run/munge.socket",
            "DbdHost=localhost",
            "DbdAddr=127.0.0.1",
            f"DbdPort={self._port}",
            "SlurmUser=root",
            "StorageType=accounting_storage/mysql",
            "StorageHost=127.0.0.1",
            f"StoragePort={self._database_port}",
            f"StorageUser={_USER}",
            f"StoragePass={_USER}",
            "StorageLoc=slurm_acct_db",
            f"LogFile={self.root}/log/slurmdbd.log",
            f"PidFile={self.root}/run/slurmdbd.pid",
        ]
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)

    def start_database(self) -> None:
        """Start a MariaDB with nothing in it."""
        folder = self.root / "mysql"
        with (self.root / "log/mariadb.log").open("w") as log:
            subprocess.run(
                [
                    *("mariadb-install-db", "--no-defaults", "--user=root", "--skip-test-db"),
                    *(f"--datadir={folder}", "--auth-root-authentication-method=normal"),
                ],
                stdout=log,
                stderr=log,
                check=False,
            )
            server = [
                *("mariadbd", "--no-defaults", "--user=root", f"--datadir={folder}"),
                *(f"--socket={self.root}/run/mysql.sock", f"--pid-file={self.root}/run/maria.pid"),
                *("--bind-address=127.0.0.1", f"--port={self._database_port}"),
                *("--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0"),
                *("--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"),
            ]
            subprocess.Popen(
                server, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def grant(self) -> bool:
        """Let slurmdbd in; return whether the database was there to do so."""
        host = f"{_USER}@'127.0.0.1'"
        statement = (
            f"create user if not exists {host} identified by '{_USER}'; "
            f"grant all on slurm_acct_db.* to {host}"
        )
        done = subprocess.run(
            [
                *("mariadb", "--no-defaults", "-uroot", f"--socket={self.root}/run/mysql.sock"),
                *("-e", statement),
            ],
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def records(self) -> list[list[str]]:
        """Return what sacctmgr is told: the cluster, an account and who may use it."""
        return [
            ["add", "cluster", "recap"],
            ["add", "account", "lab", "Organization=tests", "Description=tests"],
            ["add", "user", "root", "Account=lab", "DefaultAccount=lab"],
        ]


def free_ports(count: int) -> list[int]:
    """Return ports that nothing uses, below those that Linux hands out to whoever asks."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(21_000, 32_000)
        with socket.socket() as one:
            if port not in ports and one.connect_ex(("127.0.0.1", port)):
                ports.append(port)
    return ports
