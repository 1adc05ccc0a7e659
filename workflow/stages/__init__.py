"""The DAG: a module for each stage of dvc.yaml. A stage imports no other stage."""

import os
import sys

# spaCy writes sets of strings, whose order depends on PYTHONHASHSEED, which is read when Python starts. A stage that is
# run by `python -m` starts again with it fixed, before anything heavy is loaded; an import changes nothing.
if sys.argv[0] == "-m" and os.environ.get("PYTHONHASHSEED") != "0":
    os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONHASHSEED": "0"})
