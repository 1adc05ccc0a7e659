"""Importing a module changes nothing outside it: spaCy's registries of components and layers aside."""

import subprocess
import sys

from tests.conftest import ROOT

CODE = """
import csv, importlib, json, os, pkgutil, signal, sys, warnings
import spacy, torch, transformers
from transformers import AttentionInterface

def state():
    return {
        "attention": sorted(AttentionInterface().keys()),
        "extensions": [spacy.tokens.Doc.has_extension(n) for n in ("trf_word_pieces", "trf_outputs")],
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "environment": dict(os.environ),
        "signals": str(signal.getsignal(signal.SIGTERM)),
        "cells": csv.field_size_limit(),
        "fork hooks": hooks,
        "path": sys.path,
    }

hooks = []
os.register_at_fork = lambda **functions: hooks.append(str(functions))
before = json.dumps(state())
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith(("check_package", "served")):  # scripts, which run without the workflow
            importlib.import_module(module.name)
after = json.dumps(state())
assert before == after, (before, after)
print(len([name for name in sys.modules if name.startswith(tuple(sys.argv[1:]))]))
"""


def test_importing_every_module_has_no_side_effect():
    command = [sys.executable, "-c", CODE, "rootstock", "workflow"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60
