"""The floor: how fast matrices are multiplied here, and how much of that a piece takes."""

from __future__ import annotations

import json
import time
from typing import Any

from . import data
from .report import Report
from .turns import Contender, Measured, numbers, take_turns


def run(full: bool) -> Report:
    report = Report("floor")
    contenders = [
        Contender(f"{precision}, {by}", "benchmarks.floor:Rate", precision=precision, by=by)
        for precision in ("fp32", "bf16")
        for by in ("PyTorch", "oneDNN")
    ]
    rates = numbers(take_turns(contenders, [{}] * (15 if full else 5)), "gflops")
    report.add(Measured("matrix products of the model's own size", "GFLOP/s", "fp32, PyTorch", rates))
    flop = flop_of_piece(30)
    pieces = [{name: rate * 1e9 / flop for name, rate in values.items()} for values in rates]
    what = f"pieces through the model, {flop / 1e6:.1f} MFLOP each, were there nothing but matrix products"
    report.add(Measured(what, "pieces/s", "fp32, PyTorch", pieces))
    return report


def flop_of_piece(length: int) -> float:
    """Of one forward pass, in a sentence of so many pieces: a multiplication and an addition for each weight."""
    config = json.loads((data.WEIGHTS / "config.json").read_text())
    width, inner = config["hidden_size"], config["intermediate_size"]
    projections = 2 * (4 * width * width + 2 * width * inner)
    attention = 4 * width * length  # queries with keys, and what comes of it with values
    return config["num_hidden_layers"] * (projections + attention)


class Rate:
    """In the worker. by: PyTorch's linear layer, or ours."""

    def __init__(self, precision: str, by: str) -> None:
        import torch

        from rootstock.encoder.kernels.linear import Linear

        config = json.loads((data.WEIGHTS / "config.json").read_text())
        shape = (3000, config["hidden_size"], config["intermediate_size"])  # a pack of pieces, in and out
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        self.pieces = torch.rand(*shape[:2]).to(dtype)
        self.layer = {"PyTorch": torch.nn.Linear, "oneDNN": Linear}[by](*shape[1:], bias=False).to(dtype)
        self.flop = 2 * shape[0] * shape[1] * shape[2]
        self()  # warms up

    def __call__(self) -> dict[str, Any]:
        import torch

        repeats = 100
        start = time.perf_counter()
        with torch.no_grad():
            for _ in range(repeats):
                self.layer(self.pieces)
        return {"gflops": repeats * self.flop / (time.perf_counter() - start) / 1e9}
