"""Real remotes for DVC on this machine, each for the duration of a test: sshd, and Swift with its S3 API."""

import configparser
import os
import pwd
import secrets
import subprocess
from pathlib import Path

import botocore.session

from tests.workflow.daemons import Daemons, free_port, listens, missing

USER = pwd.getpwuid(os.geteuid()).pw_name


class Remote(Daemons):
    """A remote, with the arguments of `dvc remote add` and `modify`: URL and settings for Git, secrets for --local."""

    name: str
    url: str
    secrets: dict[str, str]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.settings: dict[str, str] = {}


class Ssh(Remote):
    """An SSH server that accepts one key."""

    name = "ssh"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.url = f"ssh://{USER}@127.0.0.1:{self.port}{folder}/store"
        self.secrets = {"keyfile": str(folder / "key")}
        (folder / "sshd_config").write_text(f"""
ListenAddress 127.0.0.1:{self.port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
PidFile none
AuthenticationMethods publickey
StrictModes no
UsePAM no
Subsystem sftp internal-sftp
""")

    @staticmethod
    def skip_reason() -> str:
        """Why it cannot run on this machine; empty if it can."""
        names = missing("sshd", "ssh-keygen")
        return f"{names} not found: apt-get install openssh-server" if names else ""

    def up(self) -> None:
        for name in ("host", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name], check=True)
        if os.geteuid() == 0:  # then sshd requires an empty folder for privilege separation
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.start("sshd", "-D", "-e", "-f", self.folder / "sshd_config")
        self.wait(lambda: listens(self.port), "sshd does not listen")


class S3(Remote):
    """A bucket on one disk. All files are in the folder, except Debian's /etc/swift/swift.conf, which is only read."""

    name, url = "s3", "s3://store/results"
    servers = ("account", "container", "object", "proxy")
    # dvc-s3 requires Content-Length in responses to HEAD, which proxy_logging adds.
    filters = ("catch_errors", "proxy_logging", "memcache", "s3api", "tempauth", "slo")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ports = {name: free_port() for name in ("memcached", *self.servers)}
        secret = secrets.token_hex()
        self.settings = {"endpointurl": f"http://127.0.0.1:{self.ports['proxy']}", "region": "us-east-1"}
        self.secrets = {"access_key_id": "tests:dvc", "secret_access_key": secret}
        (folder / "disks" / "one").mkdir(parents=True)
        for name in self.servers[:-1]:
            self.configure(name, devices=folder / "disks", mount_check=False)
        cache = f"127.0.0.1:{self.ports['memcached']}"
        account = {"account_autocreate": True, "user_tests_dvc": f"{secret} .admin"}
        self.configure("proxy", *self.filters, memcache_servers=cache, **account)

    @classmethod
    def skip_reason(cls) -> str:
        """Why it cannot run on this machine; empty if it can."""
        if names := missing("memcached", "swift-ring-builder", *(f"swift-{name}-server" for name in cls.servers)):
            packages = " ".join(f"swift-{name}" for name in cls.servers)
            return f"{names} not found: apt-get install {packages} memcached"
        rings = list(Path("/etc/swift").glob("*.ring.gz"))
        return "Swift is already in use on this machine, in /etc/swift" if rings else ""

    def configure(self, name: str, *filters: str, **settings: object) -> None:
        """Write the configuration of a server. filters: those of its pipeline."""
        common = {"bind_ip": "127.0.0.1", "bind_port": self.ports[name], "swift_dir": self.folder, "user": USER}
        parser = configparser.RawConfigParser()
        parser["DEFAULT"] = {**common, "workers": 0, "log_level": "WARNING", **settings}
        parser["pipeline:main"] = {"pipeline": " ".join([*filters, f"{name}-server"])}
        parser[f"app:{name}-server"] = {"use": f"egg:swift#{name}"}
        for filter in filters:
            parser[f"filter:{filter}"] = {"use": f"egg:swift#{filter}"}
        with (self.folder / f"{name}.conf").open("w") as file:
            parser.write(file)

    def up(self) -> None:
        for name in self.servers[:-1]:
            for command in ("create 4 1 1", f"add r1z1-127.0.0.1:{self.ports[name]}/one 1", "rebalance"):
                ring = ["swift-ring-builder", f"{name}.builder", *command.split()]
                subprocess.run(ring, cwd=self.folder, check=True, capture_output=True)
        self.start("memcached", "-u", USER, "-l", "127.0.0.1", "-p", self.ports["memcached"], "-U", 0)
        for name in self.servers:
            self.start(f"swift-{name}-server", self.folder / f"{name}.conf", "--verbose")
        self.wait(lambda: all(map(listens, self.ports.values())), "Swift does not listen")
        keys = {f"aws_{name}": value for name, value in self.secrets.items()}
        endpoint = {"endpoint_url": self.settings["endpointurl"], "region_name": self.settings["region"]}
        botocore.session.get_session().create_client("s3", **endpoint, **keys).create_bucket(Bucket="store")
