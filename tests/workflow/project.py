"""Copies of this project for tests, with its real configuration made small."""

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.conftest import ROOT
from tests.workflow import warm
from workflow.engine import dag

STAGES = dag.load(ROOT)
SNAKEMAKE = ["snakemake", "--profile", "workflow/profiles/default"]


class Project:
    """A copy of this project, without results, in a Git repository of its own."""

    warm = True  # whether its commands start warm, see warm.py
    home: Path | None = None  # HOME of the commands that it runs; None for that of the tests
    tracking_uri: str | None = None  # of an MLflow server; None for the local store

    def __init__(self, folder: Path, **changes) -> None:
        self.folder = folder
        git_files = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in git_files.stdout.decode().split("\0"):
            if name and name != "dvc.lock" and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        self.set(**changes)

    def set(self, **changes) -> None:
        """Change params.yaml: set(**{"section.key": value}), or set(section=value)."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            *sections, name = key.split(".")
            mapping = params
            for section in sections:
                mapping = mapping[section]
            mapping[name] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def copy(self, folder: Path, keep_runs: bool = False) -> "Project":
        """A copy of the project with its results. keep_runs: with its runs in MLflow, too, instead of an empty store."""
        ignored = shutil.ignore_patterns(*([] if keep_runs else ["mlflow.db*"]), "mlruns")
        shutil.copytree(self.folder, folder, ignore=ignored, symlinks=True)
        other = Project.__new__(Project)
        other.folder = folder
        return other

    def commit(self) -> None:
        """Commit all files to Git."""
        self.call("git", "add", "--all")
        self.call("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "a run")

    def clone(self, folder: Path) -> "Project":
        """A Git clone of the project, for another user with another HOME."""
        self.call("git", "clone", "--quiet", str(self.folder), str(folder))
        other = Project.__new__(Project)
        other.folder, other.home = folder, folder / "home"
        return other

    def environment(self) -> dict[str, str]:
        """Environment variables for the project's commands: those of the tests, without settings for MLflow, DVC, Python and OpenMP."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DVC_", "PYTHON", "OMP_"))}
        folders = [str(warm.server().bin)] if self.warm else []
        env["PATH"] = os.pathsep.join([*folders, str(Path(sys.executable).parent), env["PATH"]])
        if self.home is not None:
            env["HOME"] = str(self.home)
        if self.tracking_uri is not None:
            env["MLFLOW_TRACKING_URI"] = self.tracking_uri
        env["PYTHONPATH"] = str(self.folder / "src")
        return env

    def call(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run a command in the virtual environment of the tests. check: it must succeed."""
        done = subprocess.run(command, cwd=self.folder, env=self.environment(), capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def stage(self, name: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run a stage, named as in DVC: `finetune@base`."""
        module, *item = name.split("@")
        return self.module(f"stages.{module}", *item, check=check)

    def module(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run a module of workflow/."""
        return self.call("python", "-m", f"workflow.{name}", *arguments, check=check)


def small(weights: Path, **changes) -> dict:
    """Changes of params.yaml: local weights without a pinned digest, and a short training."""
    return {
        "threads": 1,
        "weights.source": f"path:{weights}",
        "weights.sha256": {},
        "finetune.contrastive": False,  # else it is what few rows are trained with
        "finetune.epochs": 1,
        "evaluate.resamples": 50,
        **changes,
    }


def shorten(project: Project, source: Path, folder: str = "data/few", **sizes: int) -> None:
    """Write a random sample of a data set's rows to a folder of the project. sizes: number of rows of each split."""
    (project.folder / folder).mkdir(parents=True)
    for split, size in sizes.items():
        lines = (source / f"{split}.jsonl").read_text("utf-8").splitlines()
        rows = random.Random(0).sample(lines, size)
        (project.folder / folder / f"{split}.jsonl").write_text("\n".join(rows), "utf-8")


def executed(output: str) -> list[str]:
    """The stages that `dvc repro` ran rather than restored, in order, from its output."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def stale_stages(project: Project) -> set[str]:
    """The stages that `dvc status` reports as changed."""
    return set(re.findall(r"^([\w@]+):$", project.call("dvc", "status").stdout, re.MULTILINE))
