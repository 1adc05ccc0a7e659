"""A module for each stage of dvc.yaml, and the few things that they share."""

import os
import sys

# spaCy writes sets of strings, whose order is fixed before Python starts: start again, before anything heavy is loaded.
if sys.argv[0] == "-m" and os.environ.get("PYTHONHASHSEED") != "0":
    os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONHASHSEED": "0"})
