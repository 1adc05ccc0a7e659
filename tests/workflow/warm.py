"""A warm start for the commands of a project: most of their time would be spent importing.

A server imports the heavy packages once and forks for each command. The command runs as usual, in a process with its
own folder, environment, input and output; only the imports of installed packages, and what CodeCarbon knows of the
processor, are shared. `--cold` starts each command by itself, as users do.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

COMMANDS = {"dvc": "dvc", "snakemake": "snakemake"}  # the modules behind console scripts
PRELOADED = (
    "numpy", "spacy", "spacy.cli.package", "thinc.api", "torch", "torch.distributed", "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto", "transformers.models.bert.modeling_bert", "matplotlib.pyplot", "pydantic",
    "yaml", "tqdm", "venv", "codecarbon", "mlflow", "mlflow.store.tracking.sqlalchemy_store", "alembic", "jinja2",
    "dvc.cli", "dvc.cli.parser", "dvc.repo", "dvc.repo.reproduce", "dvc.repo.status", "dvc.dvcfile", "dvc_data.index",
    "snakemake.cli", "snakemake.workflow", "snakemake.executors.local",
)  # fmt: skip

CLIENT = """#!{python} -IS
import os, signal, socket, sys
name, argv = os.path.basename(sys.argv[0]), sys.argv[1:]
if name == "python":
    if argv[:1] != ["-m"] or not argv[1].startswith(("workflow.", "snakemake")):
        os.execv("{python}", ["{python}", *argv])
    module, argv = argv[1], argv[2:]
else:
    module = {commands}[name]
import json
server = socket.socket(socket.AF_UNIX)
server.connect("{address}")
request = json.dumps([module, argv, os.getcwd(), dict(os.environ), sys.argv[0]]).encode()
socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
server.sendall(request)
answers = server.makefile("r")
pid = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
sys.exit(int(answers.readline() or 137))
"""


class Server:
    """Runs until `stop`, or until the tests' process ends. `bin`: the folder with its commands, for PATH."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="warm-"))
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        address = str(self.folder / "socket")
        for name in ("python", *COMMANDS):
            script = self.bin / name
            script.write_text(CLIENT.format(python=sys.executable, commands=COMMANDS, address=address))
            script.chmod(0o755)
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        env |= {"PYTHONHASHSEED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "CODECARBON_LOG_LEVEL": "critical"}
        self.pid = os.spawnve(os.P_NOWAIT, sys.executable, [sys.executable, __file__, address, str(os.getpid())], env)
        while not (self.folder / "socket").exists():
            time.sleep(0.05)

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        os.waitpid(self.pid, 0)


@functools.cache
def server() -> Server:
    """The server of this process of tests, started at the first call."""
    started = Server()
    atexit.register(started.stop)
    return started


def serve(address: str, parent: int) -> None:
    """Fork for each request, and answer with the pid, then the exit code."""
    import importlib

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    for name in PRELOADED:
        importlib.import_module(name)
    know_the_processor()
    gc.collect()
    gc.freeze()
    running: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
    while os.getppid() == parent:
        for ready in select.select([listening, *running], [], [], 5)[0]:
            if ready is not listening:
                pid, client = running.pop(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.close(ready)
                with contextlib.suppress(OSError):  # the client was killed
                    client.sendall(f"{code if code >= 0 else 128 - code}\n".encode())
                client.close()
                continue
            client, _ = listening.accept()
            header, fds, _, _ = socket.recv_fds(client, 8, 3)
            request = b""
            while len(request) < int.from_bytes(header, "big"):
                request += client.recv(1 << 20)
            pid = os.fork()
            if pid == 0:
                listening.close()
                client.close()
                return run(*json.loads(request), fds)
            for fd in fds:
                os.close(fd)
            client.sendall(f"{pid}\n".encode())
            running[os.pidfd_open(pid)] = pid, client


def know_the_processor() -> None:
    """CodeCarbon finds out the processor and its power once per process, which takes a second."""
    from codecarbon.core import cpu, hardware_cache

    hardware_cache.get_cached_tdp(cpu)


def run(module: str, argv: list[str], folder: str, env: dict[str, str], script: str, fds: list[int]) -> None:
    """In the forked process: become `python -m module` in that folder."""
    import runpy

    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env, PYTHONHASHSEED="0", PYTHONUTF8="1")
    sys.path[0] = folder
    sys.path[1:1] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    if module == "snakemake":
        sys.executable = str(Path(script).with_name("python"))  # its jobs are commands, too
    sys.argv = ["-m", *argv]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as exit:
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # as Python does at its end: pools of threads end, and others are waited for
    atexit._run_exitfuncs()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)  # without taking down the imported modules one by one, which takes half a second


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
