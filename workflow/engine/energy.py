"""Energy of a stage, measured or estimated by CodeCarbon. No other module imports CodeCarbon."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from .errors import Problem

MEASURED = {"intel_rapl": "RAPL", "intel_power_gadget": "Intel Power Gadget", "windows_emi": "Windows EMI"}
PATIENCE = 60  # seconds that the meter may take to start, to be read or to stop; usually it takes one


@dataclass
class Energy:
    """Filled in by `refresh`, and when `metered` ends. The kWh are the machine's times PUE: of the whole building."""

    kwh: float = 0.0
    kwh_low: float = 0.0
    kwh_high: float = 0.0
    method: str = "not measured"
    grid_g_per_kwh: float = 0.0
    metering_seconds: float = 0.0  # time that the meter itself takes to start and stop


_running: list = []  # meters of the `metered` blocks that are running, the innermost last


def spent_g() -> float:
    """Grams of CO2 since the innermost `metered` block began, PUE included; 0 if the meter does not work."""
    return _running[-1].spent_g() if _running else 0.0


def refresh() -> None:
    """Fill in the energy of the innermost `metered` block so far."""
    if _running:
        _running[-1].refresh()


@contextmanager
def metered(country: str, pue: float, energy: Energy) -> Iterator[None]:
    """Meter this process and its children: CPU, memory and GPUs. Raises Problem for an unknown country.

    A meter that fails or hangs ends no stage: it is said on one line, and the energy is "not measured".

    RAPL measures the whole processor, other programs included. The range then goes from this process's share of the
    CPU time that all programs used, minus 10 %, to all of it, plus 10 %. Without RAPL, CodeCarbon estimates from the
    CPU's load, its thermal design power (TDP) and a constant for memory. The range then goes from half of the CPU's
    estimate without memory to the full TDP all the time, with memory. If CodeCarbon does not report the TDP, the upper
    end is twice the CPU's estimate with memory.
    """
    starting = time.perf_counter()
    meter = _Meter(country, pue, energy)
    _running.append(meter)
    started = time.perf_counter()
    try:
        yield
    finally:
        stopping = time.perf_counter()
        _running.remove(meter)
        meter.stop()
        energy.metering_seconds = round(started - starting + time.perf_counter() - stopping, 3)


class _Meter:
    """CodeCarbon's tracker. After a failure it is None, and nothing is measured."""

    def __init__(self, country: str, pue: float, energy: Energy) -> None:
        os.environ["CODECARBON_LOG_LEVEL"] = "critical"  # its logger is active before the tracker applies log_level
        self.tracker: Any = None
        self.pue, self.energy = pue, energy
        self.error: Exception | None = None  # after which nothing is measured
        self.measuring = threading.RLock()  # two threads at once would count the same seconds twice
        with self._failing_quietly(), _no_program_left():
            self.tracker = self._in_time(lambda: self._start(country))
            self.cpu_seconds = _cpu_seconds()

    def _start(self, country: str) -> Any:
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.input import DataSource

        if country not in DataSource().get_global_energy_mix_data():
            raise Problem(f"params.yaml: carbon.country is {country!r}: expected an ISO country code of three letters")
        meter = self

        class Tracker(OfflineEmissionsTracker):
            """CodeCarbon only logs an error when it stops; one in between ends its thread with a traceback."""

            def _measure_power_and_energy(self) -> None:
                meter.attempt(super()._measure_power_and_energy)

            def _monitor_power(self) -> None:
                meter.attempt(super()._monitor_power)

        tracker = Tracker(
            country_iso_code=country,
            pue=self.pue,
            tracking_mode="process",
            measure_power_secs=5,
            save_to_file=False,
            allow_multiple_runs=True,
            log_level="critical",
        )
        tracker.start()
        return tracker

    def attempt(self, measure: Callable[[], None]) -> None:
        """Measure, unless something has failed: the sum would be wrong."""
        with self.measuring:
            try:
                if self.error is None:
                    measure()
            except Exception as error:
                self.error = error

    def _in_time(self, action: Callable[[], Any]) -> Any:
        """What an action of the tracker returns. Raises its errors, and TimeoutError if it hangs, as a driver may."""
        result: Future[Any] = Future()

        def act() -> None:
            try:
                result.set_result(action())
            except BaseException as error:
                result.set_exception(error)

        threading.Thread(target=act, daemon=True).start()  # which no exit waits for
        if not wait([result], PATIENCE).done:
            self.error = TimeoutError(f"no answer within {PATIENCE} s")
        if self.error is not None:
            raise self.error
        return result.result()

    @contextmanager
    def _failing_quietly(self) -> Iterator[None]:
        try:
            yield
        except Problem:
            raise
        except Exception as error:  # of any kind: a meter must not cost a result
            self.tracker, self.error = None, error
            vars(self.energy).update(vars(Energy()))
            reason = " ".join(str(error).split())
            print(f"energy: not measured, and no budget is kept ({type(error).__name__}: {reason})", file=sys.stderr)

    def spent_g(self) -> float:
        grams = 0.0
        with self._failing_quietly():
            grams = 1000 * (self._in_time(self.tracker.flush) or 0.0) if self.tracker else 0.0
        return grams

    def refresh(self) -> None:
        sums = getattr(self.tracker, "_prepare_emissions_data", None)  # private: without it, the end is awaited
        if sums is not None:
            with self._failing_quietly():
                self._in_time(self.tracker.flush)
                self._read(sums())

    def stop(self) -> None:
        if self.tracker is not None:
            with self._failing_quietly():
                self._in_time(self.tracker.stop)
                self._read(self.tracker.final_emissions_data)

    def _read(self, data: Any) -> None:
        """Fill in the energy. data: CodeCarbon's sums."""
        mode, tdp = _cpu_facts(self.tracker)
        kwh = data.energy_consumed
        if mode in MEASURED:
            own, all_programs = (now - then for now, then in zip(_cpu_seconds(), self.cpu_seconds, strict=True))
            share = min(1.0, own / all_programs) if all_programs > 0 else 1.0
            low, high = 0.9 * (kwh - (1 - share) * data.cpu_energy), 1.1 * kwh
            method = MEASURED[mode]
        else:
            cpu_high = 2 * data.cpu_energy if tdp is None else tdp * data.duration / 3.6e6 * self.pue
            low = data.cpu_energy / 2 + data.gpu_energy
            high = max(cpu_high, data.cpu_energy) + data.ram_energy + data.gpu_energy
            method = "estimated from load and TDP" if tdp is not None else "estimated from load"
        self.energy.kwh, self.energy.kwh_low, self.energy.kwh_high = kwh, low, high
        self.energy.method = f"{method}; GPU: NVML" if data.gpu_count else method
        self.energy.grid_g_per_kwh = data.emissions * 1000 / kwh if kwh else 0.0


@contextmanager
def _no_program_left() -> Iterator[None]:
    """Stop programs that the block leaves: a hanging nvidia-smi would keep the pipe open that the stage prints to."""
    import psutil  # type: ignore[import-untyped]

    before = set(psutil.Process().children(recursive=True))
    try:
        yield
    finally:
        for program in set(psutil.Process().children(recursive=True)) - before:
            with suppress(psutil.NoSuchProcess):
                program.kill()


def _cpu_seconds() -> tuple[float, float]:
    """CPU time so far: of this process and its finished children, and of all programs on this machine."""
    import psutil

    machine = psutil.cpu_times()
    return sum(os.times()[:4]), machine.user + machine.system + getattr(machine, "nice", 0.0)


def _cpu_facts(tracker: Any) -> tuple[str | None, float | None]:
    """How CodeCarbon meters the CPU, and the TDP in watts; None if unknown.

    Reads private attributes, because the public results contain neither. Without them, the range is wider.
    """
    cpu = next((part for part in getattr(tracker, "_hardware", []) if type(part).__name__ == "CPU"), None)
    mode, tdp = getattr(cpu, "_mode", None), getattr(cpu, "_tdp", None)
    plausible = isinstance(tdp, int | float) and 0 < tdp < 10_000
    return mode if isinstance(mode, str) else None, tdp if plausible else None
