"""A real Slurm on this machine, for tests: munged, mariadbd, slurmdbd, slurmctld and slurmd, all of them private.

`eval "$(python scripts/start_slurm.py start FOLDER)"` sets SLURM_CONF; `python scripts/start_slurm.py stop FOLDER` ends it.
Everything lies in FOLDER; nothing outside it is written. All listen on loopback, but slurmdbd, which cannot be told to: it
answers nobody without FOLDER's munge key. Starting twice starts once.
Needs Debian's slurm-wlm, munge, slurmdbd and mariadb-server. The user who starts it is SlurmUser."""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PROGRAMS = (
    "munged",
    "mariadbd",
    "mariadb-install-db",
    "mariadb",
    "slurmdbd",
    "slurmctld",
    "slurmd",
    "sbatch",
    "sacctmgr",
)
START_TIMEOUT_S = 30.0  # about 6 s on an idle machine
STOP_TIMEOUT_S = 20.0
CPUS, MEMORY_MIB = 4, 4000  # of the one node, whatever the machine has: its jobs are tiny
# A requeued job waits until the credential of its last incarnation has expired: 120 s by default, and
# 5 s at least (AuthInfo's cred_expire).
SLURM_CONF = """\
ClusterName=paribus
SlurmctldHost={host}(127.0.0.1)
SlurmctldAddr=127.0.0.1
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/slurmd
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
KillWait=10
OverTimeLimit=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PreemptExemptTime=00:00:00
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={folder}/munge/socket
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10
"""
SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser={user}
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={db_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm
"""


def missing() -> list[str]:
    """The programs that are not installed."""
    return [program for program in PROGRAMS if _which(program) is None]


def start(folder: Path) -> str:
    """Start what does not run yet, wait until jobs can be submitted, and return the path of slurm.conf."""
    if lacking := missing():
        raise SystemExit(
            f"start_slurm: {', '.join(lacking)} not found; apt-get install slurm-wlm munge slurmdbd mariadb-server"
        )
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    conf = folder / "slurm.conf"
    if not conf.exists():
        _configure(folder)
    environment = os.environ | {"SLURM_CONF": str(conf)}
    values = dict(line.split("=", 1) for line in (folder / "ports").read_text().splitlines())
    _start_munge(folder)
    _start_database(folder, int(values["db_port"]), values["password"])
    _start(folder, "slurmdbd", ["slurmdbd", "-D"], environment)
    _wait_for("slurmdbd", lambda: _succeeds(["sacctmgr", "-n", "list", "cluster"], environment), folder)
    _succeeds(["sacctmgr", "-i", "add", "cluster", "paribus"], environment)
    _start(folder, "slurmctld", ["slurmctld", "-D", "-f", str(conf)], environment)
    _start(folder, "slurmd", ["slurmd", "-D", "-f", str(conf)], environment)
    _wait_for("slurmctld", lambda: "idle" in _output(["sinfo", "-h", "-o", "%T"], environment), folder)
    return str(conf)


def stop(folder: Path) -> None:
    """End every job and then every daemon, the last one started first; the folder stays."""
    folder = folder.resolve()
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    if _is_running(folder, "slurmctld"):
        _succeeds(["scancel", "--user", getpass.getuser()], environment)
        quiet = time.monotonic() + STOP_TIMEOUT_S
        while _output(["squeue", "-h"], environment).strip() and time.monotonic() < quiet:
            time.sleep(0.2)
    for name in ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged"):
        _end(folder, name)


def _configure(folder: Path) -> None:
    (folder / "munge").mkdir(mode=0o700)
    (folder / "ctld").mkdir()
    (folder / "slurmd").mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    ctld_port, slurmd_port, dbd_port, db_port = _free_ports(4)
    values = {
        "folder": folder,
        "host": socket.gethostname().split(".")[0],
        "user": getpass.getuser(),
        "ctld_port": ctld_port,
        "slurmd_port": slurmd_port,
        "dbd_port": dbd_port,
        "db_port": db_port,
        "password": secrets.token_hex(16),
        "cpus": CPUS,
        "memory": MEMORY_MIB,
    }
    (folder / "ports").write_text(f"db_port={db_port}\npassword={values['password']}\n")
    database = folder / "slurmdbd.conf"
    database.write_text(SLURMDBD_CONF.format(**values))
    database.chmod(0o600)
    (folder / "slurm.conf").write_text(SLURM_CONF.format(**values))


def _start_munge(folder: Path) -> None:
    own = folder / "munge"
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    files = [f"--{option}={own / name}" for option, name in names.items()]
    _start(folder, "munged", ["munged", "--foreground", "--force", *files], dict(os.environ))
    _wait_for("munged", (own / "socket").exists, folder)


def _start_database(folder: Path, port: int, password: str) -> None:
    data = folder / "database"
    user = getpass.getuser()
    if not (data / "mysql").is_dir():
        made = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={user}", "--skip-test-db"]
        subprocess.run([_which(made[0]) or made[0], *made[1:]], check=True, stdout=subprocess.DEVNULL)
    own = [f"--datadir={data}", f"--socket={data}/socket", f"--pid-file={data}/pid", f"--user={user}"]
    net = ["--bind-address=127.0.0.1", f"--port={port}"]
    _start(folder, "mariadbd", ["mariadbd", "--no-defaults", *own, *net], dict(os.environ))
    client = ["mariadb", "--no-defaults", f"--socket={data}/socket", f"--user={user}", "--execute"]
    _wait_for("mariadbd", lambda: _succeeds([*client, "SELECT 1"], dict(os.environ)), folder)
    sql = (
        f"CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}'; "
        f"CREATE USER IF NOT EXISTS 'slurm'@'localhost' IDENTIFIED BY '{password}'; "
        "GRANT ALL ON slurm.* TO 'slurm'@'127.0.0.1'; GRANT ALL ON slurm.* TO 'slurm'@'localhost';"
    )
    subprocess.run([*client, sql], check=True)


# --- daemons -----------------------------------------------------------------------------------------------------------


def _start(folder: Path, name: str, command: Sequence[str], environment: dict[str, str]) -> None:
    """Start a daemon in a session of its own, unless it runs already."""
    if _is_running(folder, name):
        return
    with (folder / f"{name}.out").open("ab") as log:
        process = subprocess.Popen(
            [_which(command[0]) or command[0], *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    (folder / f"{name}.process").write_text(f"{process.pid}\n")


def _end(folder: Path, name: str) -> None:
    if not _is_running(folder, name):
        return
    number = int((folder / f"{name}.process").read_text())
    os.kill(number, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _is_running(folder, name):
        if time.monotonic() > deadline:
            os.kill(number, signal.SIGKILL)
        time.sleep(0.05)


def _is_running(folder: Path, name: str) -> bool:
    """Whether the process that we started is there, and is the same program still."""
    try:
        number = int((folder / f"{name}.process").read_text())
        state = Path(f"/proc/{number}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    program, rest = state[state.index("(") + 1 :].rsplit(")", 1)
    return program == name and rest.split()[0] != "Z"


def _wait_for(name: str, is_ready: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_ready():
        if time.monotonic() > deadline or not _is_running(folder, name):
            logs = [path for path in (folder / f"{name}.out", folder / f"{name}.log") if path.exists()]
            tail = "\n".join(line for path in logs for line in path.read_text(errors="replace").splitlines()[-10:])
            raise SystemExit(f"start_slurm: {name} did not come up:\n{tail}")
        time.sleep(0.1)


def _succeeds(command: Sequence[str], environment: dict[str, str]) -> bool:
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


def _output(command: Sequence[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def _which(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def main(words: Sequence[str]) -> None:
    if len(words) != 2 or words[0] not in ("start", "stop"):
        raise SystemExit("usage: start_slurm.py start|stop FOLDER")
    if words[0] == "stop":
        stop(Path(words[1]))
    else:
        print(f"export SLURM_CONF={start(Path(words[1]))}")


if __name__ == "__main__":
    main(sys.argv[1:])
