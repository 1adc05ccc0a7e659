#!/usr/bin/env bash
# Snakemake runs this in the new environment, in the root folder of the project.
set -euo pipefail
pip install -r requirements.lock
pip install --no-deps --no-build-isolation -e .
