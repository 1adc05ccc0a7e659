"""Real servers from Debian packages, which listen on loopback for the duration of a test."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PATH = f"/usr/sbin:{os.environ['PATH']}"


def missing(*names: str) -> str:
    """The programs that are not installed."""
    return ", ".join(name for name in names if shutil.which(name, path=PATH) is None)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Daemons:
    """A group of servers that start and stop together; a context manager. Their logs are in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen] = {}

    def up(self) -> None:
        """Start all servers, and wait until they are ready."""
        raise NotImplementedError

    def down(self) -> None:
        for name in reversed(list(self.running)):
            self.stop(name)

    def __enter__(self):
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def start(self, name: str, *options: object) -> None:
        command = [shutil.which(name, path=PATH), *map(str, options)]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def stop(self, name: str) -> None:
        process = self.running.pop(name)
        process.terminate()
        process.wait(30)

    def wait(self, condition, failure: str, seconds: int = 60) -> None:
        """Wait until condition() is true. failure: the message if it does not become true in time."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, failure + "\n" + self.logs()
            time.sleep(0.2)

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.log"))
