"""Throughput of matrix products of the model's size, and the upper bound that it sets on encoding."""

from __future__ import annotations

import json
import time
from typing import Any

from . import data
from .harness import Contender, Measurement, extract, run_interleaved
from .report import Report


def run(full: bool) -> Report:
    report = Report("matmul")
    contenders = [
        Contender(f"{precision}, {backend}", "benchmarks.matmul:LinearLayer", precision=precision, backend=backend)
        for precision in ("fp32", "bf16")
        for backend in ("PyTorch", "oneDNN")
    ]
    rates = extract(run_interleaved(contenders, [{}] * (15 if full else 5)), "gflops")
    report.add(Measurement("matrix products of the model's size", "GFLOP/s", "fp32, PyTorch", rates))
    flop = flop_per_piece(30)
    pieces = [{name: rate * 1e9 / flop for name, rate in values.items()} for values in rates]
    title = f"upper bound set by matrix products, at {flop / 1e6:.1f} MFLOP per wordpiece"
    report.add(Measurement(title, "wordpieces/s", "fp32, PyTorch", pieces))
    return report


def flop_per_piece(length: int) -> float:
    """Floating-point operations per wordpiece of a forward pass over a sentence of the given length.

    Each weight counts as one multiplication and one addition.
    """
    config = json.loads((data.WEIGHTS / "config.json").read_text())
    width, inner = config["hidden_size"], config["intermediate_size"]
    projections = 2 * (4 * width * width + 2 * width * inner)
    attention = 4 * width * length  # queries times keys, and attention weights times values
    return config["num_hidden_layers"] * (projections + attention)


class LinearLayer:
    """Contender: PyTorch's linear layer, or Rootstock's, which uses oneDNN."""

    def __init__(self, precision: str, backend: str) -> None:
        import torch

        from rootstock.encoder.kernels.linear import Linear

        config = json.loads((data.WEIGHTS / "config.json").read_text())
        rows, n_in, n_out = 3000, config["hidden_size"], config["intermediate_size"]  # rows: wordpieces in a batch
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        self.inputs = torch.rand(rows, n_in).to(dtype)
        self.layer = {"PyTorch": torch.nn.Linear, "oneDNN": Linear}[backend](n_in, n_out, bias=False).to(dtype)
        self.flop = 2 * rows * n_in * n_out
        self()  # warm-up

    def __call__(self) -> dict[str, Any]:
        import torch

        repeats = 100
        start = time.perf_counter()
        with torch.no_grad():
            for _ in range(repeats):
                self.layer(self.inputs)
        return {"gflops": repeats * self.flop / (time.perf_counter() - start) / 1e9}
