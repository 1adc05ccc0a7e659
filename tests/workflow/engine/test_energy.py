"""Metering, and its range if CodeCarbon does not report how it measures."""

import pytest
from codecarbon import OfflineEmissionsTracker

from workflow.engine.energy import Energy, metered


def consume() -> Energy:
    energy = Energy()
    with metered("DEU", 1.0, energy):
        sum(i * i for i in range(3_000_000))
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
