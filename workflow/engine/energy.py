"""Energy of a stage, measured or estimated by CodeCarbon. No other module imports CodeCarbon."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .errors import Problem

MEASURED = {"intel_rapl": "RAPL", "intel_power_gadget": "Intel Power Gadget", "windows_emi": "Windows EMI"}


@dataclass
class Energy:
    """Filled in when `metered` ends. The kWh are those of the whole building: the machine's consumption times PUE."""

    kwh: float = 0.0
    kwh_low: float = 0.0
    kwh_high: float = 0.0
    method: str = "not measured"
    grid_g_per_kwh: float = 0.0
    metering_seconds: float = 0.0  # time that the meter itself takes to start and stop


_running: list = []  # trackers of the `metered` blocks that are running, the innermost last


def spent_g() -> float:
    """Grams of CO2 since the innermost `metered` block began, PUE included."""
    return 1000 * (_running[-1].flush() or 0.0) if _running else 0.0


@contextmanager
def metered(country: str, pue: float, energy: Energy) -> Iterator[None]:
    """Meter this process and its children: CPU, memory and GPUs. Raises Problem for an unknown country.

    RAPL measures the whole processor, other programs included; the range is then plus and minus 10 %. Without RAPL,
    CodeCarbon estimates from the CPU's load, its thermal design power (TDP) and a constant for memory. The range then
    goes from half of the CPU's estimate without memory to the full TDP all the time, with memory. If CodeCarbon does
    not report the TDP, the upper end is twice the CPU's estimate with memory.
    """
    starting = time.perf_counter()
    os.environ["CODECARBON_LOG_LEVEL"] = "critical"  # its logger is active before the tracker applies log_level
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
    started = time.perf_counter()
    try:
        yield
    finally:
        stopping = time.perf_counter()
        _running.remove(tracker)
        tracker.stop()
        data = tracker.final_emissions_data
        mode, tdp = _cpu_facts(tracker)
        gpu = "NVML" if data.gpu_count else None
        energy.kwh = data.energy_consumed
        if mode in MEASURED:
            energy.kwh_low, energy.kwh_high = 0.9 * energy.kwh, 1.1 * energy.kwh
            cpu_method = MEASURED[mode]
        else:
            cpu_high = 2 * data.cpu_energy if tdp is None else tdp * data.duration / 3.6e6 * pue
            energy.kwh_low = data.cpu_energy / 2 + data.gpu_energy
            energy.kwh_high = max(cpu_high, data.cpu_energy) + data.ram_energy + data.gpu_energy
            cpu_method = "estimated from load and TDP" if tdp is not None else "estimated from load"
        energy.method = cpu_method if gpu is None else f"{cpu_method}; GPU: {gpu}"
        if data.energy_consumed:
            energy.grid_g_per_kwh = data.emissions * 1000 / data.energy_consumed
        energy.metering_seconds = round(started - starting + time.perf_counter() - stopping, 3)


def _cpu_facts(tracker: Any) -> tuple[str | None, float | None]:
    """How CodeCarbon meters the CPU, and the TDP in watts; None if unknown.

    Reads private attributes, because the public results contain neither. Without them, the range is wider.
    """
    cpu = next((part for part in getattr(tracker, "_hardware", []) if type(part).__name__ == "CPU"), None)
    mode, tdp = getattr(cpu, "_mode", None), getattr(cpu, "_tdp", None)
    plausible = isinstance(tdp, int | float) and 0 < tdp < 10_000
    return mode if isinstance(mode, str) else None, tdp if plausible else None
