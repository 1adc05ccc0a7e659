"""Metering, and its range if CodeCarbon does not report how it measures."""

import subprocess
import sys

import pytest
from codecarbon import OfflineEmissionsTracker

from workflow.engine import energy as module
from workflow.engine.energy import Energy, metered, spent_g


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
