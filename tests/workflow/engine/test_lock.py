import subprocess
import sys

import pytest

from tests.conftest import ROOT
from workflow.engine.errors import Problem
from workflow.engine.lock import alone

HOLD = """
import sys, time
from pathlib import Path
from workflow.engine.lock import alone
with alone(Path(sys.argv[1]), "the stage", 0):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def hold(tmp_path):
    """A function that starts a process which holds the lock for some seconds."""
    started = []

    def start(seconds: float) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(tmp_path / "lock"), str(seconds)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_process_is_refused_and_told_which_is_the_first(hold, tmp_path):
    first = hold(60)
    refused = pytest.raises(Problem, match=rf"^the stage runs in this clone already \(process {first.pid} on ")
    with refused, alone(tmp_path / "lock", "the stage", 0):
        raise AssertionError


def test_the_lock_ends_with_its_process(hold, tmp_path):
    first = hold(60)
    first.kill()
    first.wait()
    with alone(tmp_path / "lock", "the stage", 0):
        pass


def test_a_second_process_waits_for_one_that_is_about_to_end(hold, tmp_path, capsys):
    hold(1)
    with alone(tmp_path / "lock", "the stage", 30):
        pass
    assert "waiting for up to 30 s" in capsys.readouterr().err
