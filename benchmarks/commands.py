"""Contender that times a whole command, from start to exit."""

from __future__ import annotations

import subprocess
import time
from typing import Any


class Command:
    def __init__(self, command: list[str]) -> None:
        self.command = command

    def __call__(self) -> dict[str, Any]:
        start = time.perf_counter()
        subprocess.run(self.command, check=True, stdout=subprocess.DEVNULL)
        return {"seconds": time.perf_counter() - start}
