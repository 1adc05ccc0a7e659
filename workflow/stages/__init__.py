"""The DAG: a module for each stage of dvc.yaml. A stage imports no other stage."""

import os
import sys

# spaCy writes sets of strings, whose order depends on PYTHONHASHSEED, which Python reads at startup. So a stage that is
# run by `python -m` restarts Python with a fixed value, before heavy imports. A plain import restarts nothing.
if sys.argv[0] == "-m" and os.environ.get("PYTHONHASHSEED") != "0":
    os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONHASHSEED": "0"})
