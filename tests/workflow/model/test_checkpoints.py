import os
import random
import shutil
from pathlib import Path

import pytest
from thinc.api import Adam

from tests import soak
from tests.conftest import pipeline
from workflow.model.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def nlp(tiny):
    return pipeline(tiny)


@pytest.fixture(scope="module")
def written(nlp, tmp_path_factory) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path_factory.mktemp("checkpoints") / "key", 10)
    checkpoints.write(3, {"best": checkpoints.keep_best(nlp, 2)}, nlp, Adam(0.1))
    return checkpoints


@pytest.fixture
def copy(written, tmp_path) -> Checkpoints:
    shutil.copytree(written.folder, tmp_path / "copy")
    return Checkpoints(tmp_path / "copy", 10)


def names(checkpoints) -> set[str]:
    return {path.name for path in checkpoints.folder.iterdir()}


def test_the_last_checkpoint_and_its_best_pipeline_stay(nlp, copy):
    copy.write(4, {"best": "best-2"}, nlp, Adam(0.1))
    assert names(copy) == {"step-4", "best-2"}
    copy.write(6, {"best": copy.keep_best(nlp, 5)}, nlp, Adam(0.1))
    assert names(copy) == {"step-6", "best-5"}
    assert copy.find().name == "step-6"


def test_a_power_failure_finds_a_whole_checkpoint_on_the_disk(nlp, copy, monkeypatch):
    """All files of the new one and of its best pipeline are on the disk before it gets its name, and the name before the
    old one is removed.
    """
    events = []
    sync, rename, remove = os.fsync, Path.rename, copy._remove_all_but

    def synced(descriptor: int) -> None:
        sync(descriptor)
        events.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink()))

    def renamed(path: Path, target: Path) -> Path:
        events.append(("rename", target))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(copy, "_remove_all_but", lambda *names: (events.append(("remove", None)), remove(*names)))
    copy.write(4, {"best": copy.keep_best(nlp, 4)}, nlp, Adam(0.1))
    named = events.index(("rename", copy.folder / "step-4"))
    before = {path for what, path in events[:named] if what == "sync"}
    for folder, place in (("step-4", copy.part), ("best-4", copy.folder / "best-4")):
        files = [path.relative_to(copy.folder / folder) for path in (copy.folder / folder).rglob("*")]
        assert len(files) > 3 and {place, *(place / file for file in files)} <= before
    assert events[named + 1 :] == [("sync", copy.folder), ("remove", None)]


def test_half_a_checkpoint_is_no_checkpoint(copy):
    """As a kill leaves it while it is written."""
    (copy.folder / ".123.part").mkdir()
    (copy.folder / ".123.part" / "progress.json").write_text("{")
    assert copy.find().name == "step-3"


def test_a_better_pipeline_does_not_harm_the_checkpoint_before_it(nlp, copy):
    """Killed before the next checkpoint, the training continues from the one before, with the best of that time."""
    copy.keep_best(nlp, 5)
    assert copy.find().name == "step-3" and names(copy) == {"step-3", "best-2", "best-5"}


@pytest.mark.soak
def test_any_changed_byte_is_found_and_named(copy, capsys):
    rng = random.Random(soak.start)
    files = sorted(path for path in copy.folder.rglob("*") if path.is_file() and path.stat().st_size)
    for file in [*files, *rng.choices(files, k=soak.cases(10, 5000))]:
        soak.tried["checkpoints"] += 1
        before = file.read_bytes()
        position = rng.randrange(len(before))
        changed = bytearray(before)
        changed[position] ^= 1 << rng.randrange(8)
        file.write_bytes(rng.choice([bytes(changed), before[:position]]))
        kept = copy.folder.with_name("kept")
        shutil.copytree(copy.folder / "step-3", kept)
        assert copy.find() is None
        assert f"{copy.folder / 'step-3'}: " in capsys.readouterr().err and not (copy.folder / "step-3").exists()
        kept.rename(copy.folder / "step-3")
        file.write_bytes(before)
    assert copy.find().name == "step-3"


def test_a_lost_file_is_found(copy, capsys):
    shutil.rmtree(copy.folder / "best-2")
    assert copy.find() is None and "best-2 is damaged" in capsys.readouterr().err


def test_the_best_pipeline_stays_while_the_stage_runs(copy, tmp_path):
    copy.copy_best("best-2", tmp_path / "pipeline")
    assert (tmp_path / "pipeline" / "config.cfg").is_file() and copy.find().name == "step-3"
