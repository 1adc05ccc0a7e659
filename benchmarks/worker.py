"""One contender in an environment of its own: it loads once, then does a unit of work whenever a line asks for it.

python -m benchmarks.worker benchmarks.encoders:Rootstock '{"precision": "fp32", ...}'
"""

import importlib
import json
import os
import re
import sys
from pathlib import Path


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the replies
    module, name = sys.argv[1].split(":")
    work = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    print("{}", file=replies, flush=True)
    for line in sys.stdin:
        reply = work(**json.loads(line))
        print(json.dumps({**reply, "peak_mb": peak_mb()}), file=replies, flush=True)


def peak_mb() -> float:
    """The most memory that this process has held."""
    # Not ru_maxrss, which remembers the parent that was forked.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
