"""A copy of this project in a folder of its own, with the real configuration made small."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.conftest import ROOT
from workflow.engine import dag

STAGES = dag.load(ROOT)


class Project:
    home: Path | None = None
    tracking_uri: str | None = None  # of an MLflow server

    def __init__(self, folder: Path, **changes) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in listed.stdout.decode().split("\0"):
            if name and name != "dvc.lock" and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        self.set(**changes)

    def set(self, **changes) -> None:
        """Change params.yaml: {"section.key": value}, or {"section": value}."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            *sections, name = key.split(".")
            place = params
            for section in sections:
                place = place[section]
            place[name] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def copy(self, folder: Path, tracked: bool = False) -> "Project":
        """The same project with the same results, in a folder of its own; with its runs in MLflow, or a new store."""
        ignored = shutil.ignore_patterns(*([] if tracked else ["mlflow.db*"]), "mlruns")
        shutil.copytree(self.folder, folder, ignore=ignored, symlinks=True)
        other = Project.__new__(Project)
        other.folder = folder
        return other

    def commit(self) -> None:
        self.call("git", "add", "--all")
        self.call("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "a run")

    def clone(self, folder: Path) -> "Project":
        """What git has of it, for somebody else with a HOME of their own."""
        self.call("git", "clone", "--quiet", str(self.folder), str(folder))
        other = Project.__new__(Project)
        other.folder, other.home = folder, folder / "home"
        return other

    def call(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run a command of the environment that runs the tests."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DVC_", "PYTHON", "OMP_"))}
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
        if self.home is not None:
            env["HOME"] = str(self.home)
        if self.tracking_uri is not None:
            env["MLFLOW_TRACKING_URI"] = self.tracking_uri
        env["PYTHONPATH"] = str(self.folder / "src")
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def stage(self, name: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run a stage, named as in DVC: `finetune@base`."""
        module, *item = name.split("@")
        return self.module(f"stages.{module}", *item, check=check)

    def module(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run a module of workflow/."""
        return self.call(sys.executable, "-m", f"workflow.{name}", *arguments, check=check)


def small(weights: Path, **changes) -> dict:
    """Local weights without a pinned digest, and a short training."""
    return {
        "threads": 1,
        "weights.source": f"path:{weights}",
        "weights.sha256": {},
        "finetune.epochs": 1,
        "evaluate.resamples": 50,
        **changes,
    }


def shorten(project: Project, source: Path, folder: str = "data/few", **sizes: int) -> None:
    """Some rows of a data set, chosen at random."""
    (project.folder / folder).mkdir(parents=True)
    for split, size in sizes.items():
        lines = (source / f"{split}.jsonl").read_text("utf-8").splitlines()
        chosen = random.Random(0).sample(lines, size)
        (project.folder / folder / f"{split}.jsonl").write_text("\n".join(chosen), "utf-8")


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
