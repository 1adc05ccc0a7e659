"""Signals, and engines that are killed, with real processes."""

import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

STAGE = """
import sys, time
from workflow.engine import stop
stop.listen()
stop.GRACE = 0.3
%s
"""
WAITS = "print('ready', flush=True); time.sleep(60)"
DEFERS = """
with stop.deferred() as is_asked:
    print('ready', flush=True)
    while not is_asked():
        time.sleep(0.01)
    time.sleep(0.6)  # writing a checkpoint may take longer than the grace
    print('saved', flush=True)
sys.exit(stop.code())
"""
HANGS = "with stop.deferred():\n    print('ready', flush=True); time.sleep(60)"


def start(*command: str) -> subprocess.Popen:
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "does, printed", [(WAITS, ""), (DEFERS, "saved\n"), (HANGS, "")], ids=["waits", "defers", "hangs"]
)
def test_a_signal_ends_a_stage_in_time(does, printed, number):
    """A stage that defers writes its checkpoint first; one that does not get to it ends all the same."""
    stage = start(sys.executable, "-c", STAGE % does)
    stage.send_signal(number)
    begin = time.monotonic()
    out, err = stage.communicate(timeout=10)
    assert stage.returncode == 128 + number and out == printed and "Traceback" not in err
    assert time.monotonic() - begin < 5
    assert ("stopped without a new checkpoint" in err) == (does == HANGS)


AT_A_LINE = """
import signal
lines = []
def trace(frame, event, argument):
    if frame.f_code is stop._is_asked.__code__:
        if event == "line":
            lines.append(frame.f_lineno)
            if len(lines) == %d:
                signal.raise_signal(signal.SIGTERM)
        return trace
sys.settrace(trace)
"""


@pytest.mark.parametrize("line", [1, 2])
def test_a_stage_that_was_told_has_all_the_time_it_needs(line):
    """Wherever the signal comes while the stage asks: the timer ends with the answer."""
    stage = start(sys.executable, "-c", STAGE % (AT_A_LINE % line + DEFERS))
    out, err = stage.communicate(timeout=20)
    assert (stage.returncode, out, err) == (128 + signal.SIGTERM, "saved\n", "")


FOLLOWS = STAGE % f"stop.follow_engine()\n{DEFERS}"
ENGINE = "import subprocess, sys; subprocess.run(sys.argv[1:])"


@pytest.mark.parametrize("shell", [[], ["sh", "-c", '"$0" "$@"; true']], ids=["directly", "through a shell"])
def test_a_stage_stops_when_its_engine_was_killed(shell):
    engine = start(sys.executable, "-c", ENGINE, *shell, sys.executable, "-c", FOLLOWS)
    engine.kill()
    out, err = engine.communicate(timeout=20)  # the stage has these pipes, too: they close when it ends
    assert out == "saved\n" and err == "the process that started this stage is gone: stopping\n"
