"""Run a command that is no stage. An error is one line, and a closed pipe is no error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from .stage import in_one_line


def main(name: str, run: Callable[[], None]) -> None:
    """Run a command. name: begins the line of an error. The exit status is 1 after an error, 130 after Ctrl-C."""
    try:
        run()
    except BrokenPipeError:  # such as `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not (said := in_one_line(error)):
            raise
        sys.exit(f"{name}: error: {said}")
