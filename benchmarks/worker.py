"""A worker process, which runs one contender in its own environment.

It loads the contender once, then runs one round for each line of JSON on stdin and replies with a line of JSON:

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
    os.dup2(2, 1)  # keep output of libraries out of the replies
    module, name = sys.argv[1].split(":")
    contender = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    print("{}", file=replies, flush=True)
    for line in sys.stdin:
        reply = contender(**json.loads(line))
        print(json.dumps({**reply, "peak_mb": peak_mb()}), file=replies, flush=True)


def peak_mb() -> float:
    """Peak memory (RSS) of this process."""
    # ru_maxrss is no use here: a forked process starts with the peak of its parent.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
