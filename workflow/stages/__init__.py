"""The DAG: a module for each stage of dvc.yaml. A stage imports no other stage."""

import os
import sys

# spaCy writes sets of strings, whose order depends on PYTHONHASHSEED. Without PYTHONUTF8, output and names of files
# have the encoding of the caller's locale. Python reads both at startup. So a stage that is run by `python -m` restarts
# Python with fixed values, before heavy imports. A plain import restarts nothing.
FIXED = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
if sys.argv[0] == "-m" and not FIXED.items() <= os.environ.items():
    os.execve(sys.executable, sys.orig_argv, {**os.environ, **FIXED})
