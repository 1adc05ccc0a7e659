"""Metering, and its range if CodeCarbon does not report how it measures."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from codecarbon import OfflineEmissionsTracker
from codecarbon.external.hardware import CPU

from tests.conftest import ROOT
from workflow.engine import energy as module
from workflow.engine.energy import Energy, metered, refresh, spent_g


def consume(steps: int = 3_000_000) -> Energy:
    energy = Energy()
    with metered("DEU", 1.0, energy):
        sum(i * i for i in range(steps))
    return energy


def without_hardware(tracker):
    del tracker._hardware


def with_invalid_tdp(tracker):
    for part in tracker._hardware:
        part._tdp, part._mode = -5, None


def test_the_range_contains_the_estimate():
    energy = consume()
    assert 0 < energy.kwh_low <= energy.kwh <= energy.kwh_high and energy.grid_g_per_kwh > 0
    assert energy.method.startswith(("estimated from load and TDP", "RAPL"))


def test_the_energy_so_far_can_be_recorded_while_a_stage_runs():
    energy = Energy()
    refresh()  # nothing runs
    with metered("DEU", 1.0, energy):
        sum(i * i for i in range(1_000_000))
        refresh()
        so_far = replace(energy)
        sum(i * i for i in range(1_000_000))
    assert 0 < so_far.kwh_low <= so_far.kwh <= so_far.kwh_high and so_far.kwh < energy.kwh
    assert so_far.method == energy.method and so_far.grid_g_per_kwh == pytest.approx(energy.grid_g_per_kwh)


def test_two_readings_at_once_count_nothing_twice(monkeypatch):
    """CodeCarbon adds the seconds since the last measurement to the sum."""
    running, at_once = [], []

    def measure(tracker):
        running.append(tracker)
        time.sleep(0.02)
        at_once.append(len(running))
        running.remove(tracker)

    monkeypatch.setattr(OfflineEmissionsTracker, "_measure_power_and_energy", measure)
    monkeypatch.setattr(
        OfflineEmissionsTracker, "_measure_power_and_energy_if_stale", lambda t: t._measure_power_and_energy()
    )
    with metered("DEU", 1.0, Energy()):
        readers = [threading.Thread(target=spent_g) for _ in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert set(at_once) == {1}


@pytest.mark.parametrize("change", [without_hardware, with_invalid_tdp])
def test_without_codecarbons_private_attributes_the_range_is_wider(monkeypatch, change):
    stop = OfflineEmissionsTracker.stop

    def stop_and_change(tracker):
        emissions = stop(tracker)
        change(tracker)
        return emissions

    monkeypatch.setattr(OfflineEmissionsTracker, "stop", stop_and_change)
    energy = consume()
    assert energy.method.startswith("estimated from load") and "TDP" not in energy.method
    assert 0 < energy.kwh_low <= energy.kwh <= energy.kwh_high


def fail(*_, **__):
    raise OSError("the meter is broken")


@pytest.mark.parametrize("method", ["__init__", "start", "flush", "stop"])
def test_a_meter_that_fails_ends_nothing_and_says_so(monkeypatch, capsys, method):
    monkeypatch.setattr(OfflineEmissionsTracker, method, fail)
    energy = Energy()
    with metered("DEU", 1.0, energy):
        assert spent_g() >= 0
    assert energy.kwh == energy.kwh_low == energy.kwh_high == 0 and energy.method == "not measured"
    message = "energy: not measured, and no budget is kept (OSError: the meter is broken)"
    assert capsys.readouterr().err.splitlines() == [message]


def test_a_meter_that_fails_in_the_middle(monkeypatch, capsys):
    """In the thread in which CodeCarbon measures: its traceback is not printed, and a sum with gaps is no result."""
    failed = threading.Event()

    def fail_once(*_):
        monkeypatch.undo()
        failed.set()
        raise OSError("GPU is lost")

    energy = Energy()
    with metered("DEU", 1.0, energy):
        monkeypatch.setattr(CPU, "monitor_power", fail_once)
        assert failed.wait(10)
        time.sleep(0.1)
    assert energy == Energy(metering_seconds=energy.metering_seconds)
    message = "energy: not measured, and no budget is kept (OSError: GPU is lost)"
    assert capsys.readouterr().err.splitlines() == [message]


HANGS = """
import os, time
from pathlib import Path
from workflow.engine import energy
energy.PATIENCE = 0.5
if Path("at_start").exists():
    os.environ["PATH"] = f"{os.getcwd()}:{os.environ['PATH']}"
else:
    from codecarbon import OfflineEmissionsTracker
    setattr(OfflineEmissionsTracker, Path("method").read_text(), lambda self: time.sleep(600))
found = energy.Energy()
with energy.metered("DEU", 1.0, found):
    energy.spent_g()
assert found.kwh == 0 and found.method == "not measured" and found.metering_seconds < 10
print("the result")
"""


@pytest.mark.parametrize("hanging", ["nvidia-smi", "flush", "stop"])
def test_a_meter_that_hangs_is_not_waited_for(tmp_path, hanging):
    """Neither while the stage runs, nor by the end of its process."""
    if hanging == "nvidia-smi":  # CodeCarbon calls it without a timeout
        (tmp_path / "at_start").touch()
        (tmp_path / hanging).write_text("#!/bin/sh\nexec sleep 600\n")
        (tmp_path / hanging).chmod(0o755)
    (tmp_path / "method").write_text(hanging)
    job = subprocess.run(
        [sys.executable, "-c", HANGS], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    message = "energy: not measured, and no budget is kept (TimeoutError: no answer within 0.5 s)"
    assert (job.stdout, job.stderr.splitlines()[-1:], job.returncode) == ("the result\n", [message], 0), job.stderr
    assert job.stderr.count("not measured") == 1


def test_with_rapl_the_range_begins_with_the_share_of_this_process(monkeypatch):
    """RAPL counts the whole processor, the other program on it included."""
    monkeypatch.setattr(module, "_cpu_facts", lambda tracker: ("intel_rapl", None))
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        energy = consume(30_000_000)
    finally:
        other.kill()
        other.wait()
    assert energy.method == "RAPL" and energy.kwh_high == pytest.approx(1.1 * energy.kwh)
    assert 0 < energy.kwh_low < 0.85 * energy.kwh


@pytest.mark.parametrize(("others", "low"), [(0, 0.9), (10, 0.45)])
def test_the_share_is_that_of_the_cpu_time(monkeypatch, others, low):
    times = iter([(3.0, 100.0), (13.0, 110.0 + others)])
    monkeypatch.setattr(module, "_cpu_facts", lambda tracker: ("intel_rapl", None))
    monkeypatch.setattr(module, "_cpu_seconds", lambda: next(times))
    stop = OfflineEmissionsTracker.stop

    def stop_without_memory(tracker):
        stop(tracker)
        tracker.final_emissions_data.energy_consumed = tracker.final_emissions_data.cpu_energy

    monkeypatch.setattr(OfflineEmissionsTracker, "stop", stop_without_memory)
    energy = consume()
    assert energy.kwh_low == pytest.approx(low * energy.kwh)
