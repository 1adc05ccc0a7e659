"""Energy of a stage, by CodeCarbon: the only module that touches it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .errors import Problem

MEASURED = {"intel_rapl": "RAPL", "intel_power_gadget": "Intel Power Gadget", "windows_emi": "Windows EMI"}


@dataclass
class Energy:
    """Filled in when the block ends. kWh at the plug of the building: PUE is in it."""

    kwh: float = 0.0
    kwh_low: float = 0.0
    kwh_high: float = 0.0
    method: str = "not measured"
    grid_g_per_kwh: float = 0.0
    metering_seconds: float = 0.0  # that the meter itself took to start and to stop


_running: list = []  # the tracker of the block that is under way


def spent_g() -> float:
    """Grams of CO2 since the block began, PUE included."""
    return 1000 * (_running[-1].flush() or 0.0) if _running else 0.0


@contextmanager
def metered(country: str, pue: float, energy: Energy) -> Iterator[None]:
    """Meter this process and its children: CPU, memory and GPUs. Raises Problem for an unknown country.

    RAPL reads the whole processor, with what else runs on it; low and high are then 10 % around it. Where there is no
    meter, CodeCarbon estimates from the CPU's load and thermal design power (TDP) and a constant for the memory; then
    `low` is half of the CPU's part and no memory, `high` the whole TDP all the time, and memory.
    """
    begin = time.perf_counter()
    os.environ["CODECARBON_LOG_LEVEL"] = "critical"  # its logger speaks before the tracker's own setting holds
    from codecarbon import OfflineEmissionsTracker
    from codecarbon.input import DataSource

    if country not in DataSource().get_global_energy_mix_data():
        raise Problem(f"params.yaml: carbon.country is {country!r}: a country's ISO code of three letters is wanted")

    tracker = OfflineEmissionsTracker(
        country_iso_code=country,
        pue=pue,
        tracking_mode="process",
        measure_power_secs=5,
        save_to_file=False,
        allow_multiple_runs=True,
        log_level="critical",
    )
    tracker.start()
    _running.append(tracker)
    began = time.perf_counter()
    try:
        yield
    finally:
        ended = time.perf_counter()
        _running.remove(tracker)
        tracker.stop()
        data = tracker.final_emissions_data
        cpu = next((h for h in tracker._hardware if type(h).__name__ == "CPU"), None)
        mode = getattr(cpu, "_mode", None)
        gpu = "NVML" if data.gpu_count else None
        energy.kwh = data.energy_consumed
        if mode in MEASURED:
            energy.kwh_low, energy.kwh_high = 0.9 * energy.kwh, 1.1 * energy.kwh
            cpu_method = MEASURED[mode]
        else:
            full = getattr(cpu, "_tdp", 0) * data.duration / 3.6e6 * pue
            energy.kwh_low = data.cpu_energy / 2 + data.gpu_energy
            energy.kwh_high = max(full, data.cpu_energy) + data.ram_energy + data.gpu_energy
            cpu_method = "estimated from load and TDP"
        energy.method = cpu_method if gpu is None else f"{cpu_method}; GPU: {gpu}"
        if data.energy_consumed:
            energy.grid_g_per_kwh = data.emissions * 1000 / data.energy_consumed
        energy.metering_seconds = round(began - begin + time.perf_counter() - ended, 3)
