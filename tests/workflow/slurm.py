"""A real Slurm on this machine: munged, slurmctld and slurmd from Debian's packages, on loopback, for one test."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
MISSING = [name for name in DAEMONS if shutil.which(name, path=f"/usr/sbin:{os.environ['PATH']}") is None]
ETC, CONFIGURATION = Path("/etc/slurm"), ("slurm.conf", "gres.conf", "cgroup.conf")


def why_not() -> str:
    """What is in the way of a Slurm for tests; empty where nothing is."""
    if MISSING:
        return f"{', '.join(MISSING)} not found: apt-get install slurmctld slurmd slurm-client munge"
    if os.geteuid() != 0:
        return "slurmd wants to be root"
    return "this machine has a Slurm of its own, in /etc/slurm" if (ETC / "slurm.conf").exists() else ""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Slurm:
    """One node with one (pretended) GPU and the partition `main`. Stops what it has started, by its processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.host = folder, socket.gethostname().split(".")[0]
        self.running: dict[str, subprocess.Popen] = {}
        for name in ("ctld", "slurmd", "munge"):
            (folder / name).mkdir(parents=True)
            (folder / name).chmod(0o755)
        self.socket = folder / "munge" / "socket"
        self.conf = folder / "slurm.conf"
        megabytes = int(Path("/proc/meminfo").read_text().split()[1]) // 1024
        self.conf.write_text(f"""
ClusterName=test
SlurmctldHost={self.host}(127.0.0.1)
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={self.socket}
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/slurmd
SlurmctldPidFile={folder}/ctld/pid
SlurmdPidFile={folder}/slurmd/pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2
MinJobAge=3600
ReturnToService=2
KillWait=5
GresTypes=gpu
AccountingStorageType=accounting_storage/none
NodeName={self.host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory={megabytes * 9 // 10} Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes={self.host} Default=YES MaxTime=INFINITE State=UP
""")
        (folder / "gres.conf").write_text(f"NodeName={self.host} Name=gpu File=/dev/null\n")
        (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        (folder / "munge" / "key").write_bytes(secrets.token_bytes(1024))
        (folder / "munge" / "key").chmod(0o400)

    def __enter__(self) -> "Slurm":
        # Snakemake's plugin takes SLURM_CONF from its jobs' environment, so the files must be where Slurm looks.
        ETC.mkdir(exist_ok=True)
        for name in CONFIGURATION:
            (ETC / name).symlink_to(self.folder / name)
        munge = self.folder / "munge"
        files = [f"--{name}={munge / name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        self.start("munged", "--foreground", "--force", f"--key-file={munge / 'key'}", *files)
        self.start("slurmctld", "-D")
        self.start("slurmd", "-D")
        self.wait(lambda: "idle" in self.call("sinfo", "--noheader", "--format=%T"), "the node is not idle")
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self.running)):
            self.stop(name)
        for name in CONFIGURATION:
            (ETC / name).unlink()

    def start(self, name: str, *options: str) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        command = [shutil.which(name, path=f"/usr/sbin:{os.environ['PATH']}"), *options]
        self.running[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        if name == "munged":
            self.wait(self.socket.exists, "munged does not listen")

    def stop(self, name: str) -> None:
        process = self.running.pop(name)
        process.terminate()
        process.wait(30)

    def call(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True).stdout

    def wait(self, holds, otherwise: str, seconds: int = 60) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, otherwise + "\n" + self.logs()
            time.sleep(0.2)

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.log"))
