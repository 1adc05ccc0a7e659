"""Real servers on loopback, from Debian's packages, for the time of a test; each is stopped by its process."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PATH = f"/usr/sbin:{os.environ['PATH']}"


def missing(*names: str) -> str:
    """Those programs that are not there."""
    return ", ".join(name for name in names if shutil.which(name, path=PATH) is None)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


class Daemons:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen] = {}

    def up(self) -> None:
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

    def wait(self, holds, otherwise: str, seconds: int = 60) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, otherwise + "\n" + self.logs()
            time.sleep(0.2)

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.log"))
