"""Energy of a stage, measured or estimated by CodeCarbon. No other module imports CodeCarbon."""

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
    """Set when `metered` ends. kWh of the whole building: the machine's consumption times PUE."""

    kwh: float = 0.0
    kwh_low: float = 0.0
    kwh_high: float = 0.0
    method: str = "not measured"
    grid_g_per_kwh: float = 0.0
    metering_seconds: float = 0.0  # time that the meter itself took to start and stop


_running: list = []  # trackers of the blocks that are running


def spent_g() -> float:
    """Grams of CO2 since the block began, PUE included."""
    return 1000 * (_running[-1].flush() or 0.0) if _running else 0.0


@contextmanager
def metered(country: str, pue: float, energy: Energy) -> Iterator[None]:
    """Meter this process and its children: CPU, memory and GPUs. Raises Problem for an unknown country.

    RAPL measures the whole processor, other programs included; the range is then plus and minus 10 %. Without RAPL,
    CodeCarbon estimates from the CPU's load, its thermal design power (TDP) and a constant for memory. The range then
    goes from half of the CPU's share without memory to the full TDP all the time with memory.
    """
    begin = time.perf_counter()
    os.environ["CODECARBON_LOG_LEVEL"] = "critical"  # its logger speaks before the tracker's own setting holds
    from codecarbon import OfflineEmissionsTracker
    from codecarbon.input import DataSource

    if country not in DataSource().get_global_energy_mix_data():
        raise Problem(f"params.yaml: carbon.country is {country!r}: expected an ISO country code of three letters")

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
