"""Digests of all files that the DAG leaves, for the sample and for tiny weights of every model family.

`python -m tests.outputs FILE` before a refactoring and after it, then `diff`: equal files mean equal bytes. Receipts
hold measurements and the wheel of the library holds the code, so both are left out. Takes ten minutes.
"""

import hashlib
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.conftest import ROOT
from tests.rootstock.weights.test_families import FAMILIES, make_weights
from tests.workflow.project import Project, shorten, small

TWO_POINTS = {"base": {}, "cold": {"trainable": False}}  # a trained and a frozen transformer


def digests(project: Project) -> dict[str, str]:
    """Run the DAG. RETURNS: the digest of each file under data/."""
    project.call("dvc", "repro")
    data = project.folder / "data"
    files = [p for p in sorted(data.rglob("*")) if p.is_file() and not p.is_relative_to(data / "receipts")]
    files = [p for p in files if p.name != ".gitignore" and not p.name.startswith(("spacy_rootstock-", "MODEL_CARD"))]
    files = [p for p in files if not p.is_relative_to(data / "ledger")]
    return {str(p.relative_to(data)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def run(name: str, folder: Path) -> str:
    """A line for each file. name: "sample", or a model family."""
    if name == "sample":
        project = Project(folder / "project")
    else:
        make_weights(name, folder / "weights")  # beside the project: its path is in no output
        changes = {"data.folder": "data/few", "sweep": TWO_POINTS, "encode.features": True}
        project = Project(folder / "project", **small(Path("../weights"), **changes))
        shorten(project, ROOT / "data/sample", train=48, dev=16, test=24)
    return "".join(f"{digest}  {name}/{path}\n" for path, digest in digests(project).items())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as tmp, ThreadPoolExecutor(2) as pool:
        lines = pool.map(lambda name: run(name, Path(tmp) / name), ["sample", *FAMILIES])
        Path(sys.argv[1]).write_text("".join(lines))
