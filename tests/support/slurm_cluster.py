"""A real Slurm on this machine, for as long as tests need it: two nodes, each with two GPUs that are none.

The configuration must lie in /etc/slurm, since Snakemake's plugin takes SLURM_CONF out of a job's environment. All
else is in a folder of the tests. The programs stay in the foreground, and end with the tests even if those are killed.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ETC = Path("/etc/slurm")
CONFIGURATION = (ETC / "slurm.conf", ETC / "gres.conf")
OURS = "# Written by tests/support/slurm_cluster.py, and removed by it.\n"
PROGRAMS = ("munged", "slurmctld", "slurmd", "setpriv")
NODES = ("127.0.0.1", "127.0.0.2")
"""Their names are addresses, so that any program finds them."""

# As large as the profile's largest jobs, whatever the machine is; a partition that takes nodes away from another.
SLURM_CONF = """{ours}ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
MinJobAge=300
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
NodeName={nodes[0]} NodeHostname={host} NodeAddr={nodes[0]} Port={first} CPUs=64 RealMemory=900000 Gres=gpu:2
NodeName={nodes[1]} NodeHostname={host} NodeAddr={nodes[1]} Port={second} CPUs=64 RealMemory=900000 Gres=gpu:2
PartitionName=cpu Nodes=ALL MaxTime=1440 Default=YES
PartitionName=gpu Nodes=ALL MaxTime=1440 PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=1440 PriorityTier=2
"""
GRES_CONF = "{ours}Name=gpu File=/dev/null,/dev/zero\n"


class Job(NamedTuple):
    """What Slurm says of a job; `rule` ends in its wildcards, and `limit` is the time that it may take."""

    number: int
    state: str
    partition: str
    rule: str
    limit: str
    nodes: str
    cpus: str
    gpus: str


def why_not() -> str:
    """Why there can be no such Slurm here; nothing if there can."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        return f"needs {', '.join(missing)}: apt-get install --no-install-recommends slurm-wlm munge"
    if os.getuid() != 0:
        return "Slurm's programs need root"
    foreign = [path for path in CONFIGURATION if path.exists() and not path.read_text().startswith(OURS)]
    return f"{foreign[0]} belongs to another Slurm" if foreign else ""


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Have a Slurm. Who comes second waits for the first to end."""
    ETC.mkdir(exist_ok=True)
    lock = os.open(ETC, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with contextlib.ExitStack() as end:
        end.callback(os.close, lock)
        for path in CONFIGURATION:
            end.callback(path.unlink, missing_ok=True)
        _configure(folder)
        for name, command in _programs(folder).items():
            end.enter_context(_running(command, folder / f"{name}.log"))
        until(
            lambda: said("sinfo", "--noheader", "--Node", "--partition=cpu", "--format=%T") == "idle\n" * len(NODES), 60
        )
        end.callback(_cancel_all)
        yield


def said(*command: str) -> str:
    """What a command prints; nothing where Slurm does not answer."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def jobs() -> list[Job]:
    """All jobs of this Slurm, the finished ones too, in the order of their numbers."""
    told = said("squeue", "--noheader", "--states=all", "--sort=i", "--format", "%i|%T|%P|%k|%l|%D|%C")
    asked = said("squeue", "--noheader", "--states=all", "--Format", "jobid:20,tres-per-job:40")
    gpus = dict(line.split() for line in asked.splitlines())
    rows = [line.split("|") for line in told.splitlines()]
    return [Job(int(number), *rest, gpus.get(number, "")) for number, *rest in rows]


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until something holds; AssertionError if it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def _configure(folder: Path) -> None:
    control, first, second = _free_ports(3)
    places = {"folder": folder, "host": socket.gethostname(), "nodes": NODES}
    ports = {"control": control, "first": first, "second": second}
    for path, text in zip(CONFIGURATION, (SLURM_CONF, GRES_CONF), strict=True):
        path.write_text(text.format(ours=OURS, **places, **ports))
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    (folder / "munge.key-file").touch(mode=0o600)
    (folder / "munge.key-file").write_bytes(os.urandom(128))


def _programs(folder: Path) -> dict[str, list[str]]:
    """munged with files of its own, beside one that the machine may have; the controller; a slurmd for each node."""
    names = ("socket", "key-file", "pid-file", "log-file", "seed-file")
    options = [f"--{name}={folder}/munge.{name}" for name in names]
    nodes = {f"slurmd-{node}": ["slurmd", "-D", "-N", node] for node in NODES}
    return {"munged": ["munged", "--foreground", "--force", *options], "slurmctld": ["slurmctld", "-D"], **nodes}


@contextlib.contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with open(log, "w") as file:
        # It ends with this process, but not at an interrupt of both, after which jobs are still cancelled.
        alone = ["setpriv", "--pdeathsig", "KILL", *command]
        program = subprocess.Popen(alone, stdout=file, stderr=file, start_new_session=True)
    try:
        yield
    finally:
        program.terminate()
        program.wait(30)


def _cancel_all() -> None:
    """No job, nor what is left of one, outlives the nodes."""
    said("scancel", "--signal=KILL", "--full", "--user", "root")
    said("scancel", "--user", "root")
    until(lambda: not said("squeue", "--noheader"), 60)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as end:
        sockets = [end.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
