"""A real Slurm cluster on this machine: munged, slurmctld and slurmd from Debian packages, on loopback, for a test."""

import os
import secrets
import socket
import subprocess
from pathlib import Path

from tests.workflow.daemons import Daemons, free_port, missing

ETC, CONFIGURATION = Path("/etc/slurm"), ("slurm.conf", "gres.conf", "cgroup.conf")


def skip_reason() -> str:
    """Why Slurm cannot run on this machine; empty if it can."""
    if names := missing("munged", "slurmctld", "slurmd"):
        return f"{names} not found: apt-get install slurmctld slurmd slurm-client munge"
    if os.geteuid() != 0:
        return "slurmd must run as root"
    return "Slurm is already in use on this machine, in /etc/slurm" if (ETC / "slurm.conf").exists() else ""


class Slurm(Daemons):
    """One node with two fake GPUs, and the partition `main`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.host = socket.gethostname().split(".")[0]
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
AuthInfo=socket={self.socket},cred_expire=20
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
NodeName={self.host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory={megabytes * 9 // 10} Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={self.host} Default=YES MaxTime=INFINITE State=UP
""")
        devices = [f"NodeName={self.host} Name=gpu File=/dev/{name}\n" for name in ("null", "zero")]
        (folder / "gres.conf").write_text("".join(devices))
        (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        (folder / "munge" / "key").write_bytes(secrets.token_bytes(1024))
        (folder / "munge" / "key").chmod(0o400)

    def up(self) -> None:
        # Snakemake's plugin removes SLURM_CONF from its jobs' environment, so the files must be where Slurm expects them.
        ETC.mkdir(exist_ok=True)
        for name in CONFIGURATION:
            if (ETC / name).is_symlink() and not (ETC / name).exists():  # of tests that were killed
                (ETC / name).unlink()
            (ETC / name).symlink_to(self.folder / name)
        munge = self.folder / "munge"
        files = [f"--{name}={munge / name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        self.start("munged", "--foreground", "--force", f"--key-file={munge / 'key'}", *files)
        self.wait(self.socket.exists, "munged does not listen")
        self.start("slurmctld", "-D")
        self.start("slurmd", "-D")
        self.wait(lambda: "idle" in self.call("sinfo", "--noheader", "--format=%T"), "the node is not idle")

    def down(self) -> None:
        super().down()
        for link in (ETC / name for name in CONFIGURATION):
            if link.is_symlink() and link.readlink().parent == self.folder:
                link.unlink()

    def call(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True).stdout
