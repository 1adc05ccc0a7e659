"""The whole state of a training on disk, to continue it exactly: weights, moments, step numbers, random states.

A continued training gives the same bytes as one that was never interrupted. Files are safetensors and JSON: nothing in
them is executed when they are read.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from spacy.language import Language
from thinc.api import Model, Optimizer, PyTorchShim, torch2xp, xp2torch

Key = tuple[int, str]  # of an array in Thinc's optimizer: the id of its node or shim, and its name
TENSORS, NUMBERS = "training.safetensors", "training.json"
MOMENTS = ("mom1", "mom2", "averages")


def save(folder: str | Path, nlp: Language, optimizer: Optimizer) -> None:
    """Write the state of a training to a folder that exists. Random states are separate: `random_states`.

    Call it between two steps. Schedules are generators, which cannot be saved: on loading, call
    `optimizer.step_schedules()` on a new optimizer as often as this one was.
    """
    arrays, keys, scales = _arrays(nlp), _keys(nlp), dict(_loss_scales(nlp))
    tensors = {f"weights/{name}": array for name, array in arrays.items()}
    for kind in MOMENTS:
        moments = getattr(optimizer, kind) or {}
        tensors |= {f"{kind}/{keys[key]}": xp2torch(moment) for key, moment in moments.items()}
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, Path(folder) / TENSORS)
    numbers = {
        "updates": {keys[key]: count for key, count in optimizer.nr_update.items()},
        "loss_scales": {name: [scale.value, scale.steps] for name, scale in scales.items()},
        "strings": sorted(nlp.vocab.strings),  # a saved pipeline contains all strings that it has seen
    }
    (Path(folder) / NUMBERS).write_text(json.dumps(numbers), "utf-8")


def load(folder: str | Path, nlp: Language, optimizer: Optimizer) -> None:
    """Read what `save` wrote into a pipeline and an optimizer that were made anew, in the same way.

    Raises ValueError if the folder is of another pipeline.
    """
    numbers = json.loads((Path(folder) / NUMBERS).read_text("utf-8"))
    arrays, keys, scales = _arrays(nlp), _keys(nlp), dict(_loss_scales(nlp))
    tensors, device = load_file(Path(folder) / TENSORS), _device(nlp)
    saved = {name.partition("/")[2]: tensor for name, tensor in tensors.items() if name.startswith("weights/")}
    if {name: tensor.shape for name, tensor in saved.items()} != {name: a.shape for name, a in arrays.items()}:
        raise ValueError(f"{folder}: the training state of a pipeline with other components or weights")
    for name, array in arrays.items():
        array.data.copy_(saved[name])
    for key, name in keys.items():
        for kind in MOMENTS:
            if (moment := tensors.get(f"{kind}/{name}")) is not None:
                # A copy: a tensor from the file may not be aligned in memory, and then kernels may round differently.
                getattr(optimizer, kind)[key] = torch2xp(torch.zeros_like(moment, device=device).copy_(moment))
        if name in numbers["updates"]:
            optimizer.nr_update[key] = numbers["updates"][name]
    for name, scale in scales.items():
        scale.value, scale.steps = numbers["loss_scales"][name]
    for string in numbers["strings"]:
        nlp.vocab.strings.add(string)


def random_states() -> dict[str, Any]:
    """The states of all random number generators that training draws from, as JSON: Python's, NumPy's and PyTorch's."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    states = {
        "python": [version, list(words), gauss],
        "numpy": {**numpy_state, "state": {k: np.asarray(v).tolist() for k, v in numpy_state["state"].items()}},
        "torch": _text(torch.get_rng_state()),
    }
    if torch.cuda.is_available():
        states["cuda"] = _text(torch.cuda.get_rng_state())
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Continue from states that `random_states` returned."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    numpy_state = states["numpy"]["state"]
    np.random.set_state({**states["numpy"], "state": {**numpy_state, "key": np.array(numpy_state["key"], "uint32")}})
    torch.set_rng_state(_tensor(states["torch"]))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(states["cuda"]))


def _nodes(nlp: Language) -> Iterator[tuple[str, Model]]:
    """The nodes of all components' models, each with a name that does not depend on the process."""
    for name, component in nlp.pipeline:
        model = getattr(component, "model", None)
        if isinstance(model, Model):
            yield from ((f"{name}/{index}", node) for index, node in enumerate(model.walk()))


def _shims(node: Model) -> Iterator[tuple[int, PyTorchShim]]:
    return ((index, shim) for index, shim in enumerate(node.shims) if isinstance(shim, PyTorchShim))


def _arrays(nlp: Language) -> dict[str, torch.Tensor]:
    """All arrays of weights, trained or frozen, by name; writing to them changes the models. Shared ones occur once."""
    arrays: dict[str, torch.Tensor] = {}
    for name, node in _nodes(nlp):
        params = [param for param in node.param_names if node.has_param(param)]
        arrays |= {f"{name}/{param}": xp2torch(node.get_param(param)) for param in params}
        for index, shim in _shims(node):
            arrays |= {f"{name}/{index}/{key}": tensor for key, tensor in shim._model.state_dict().items()}
    first = {array.data_ptr(): name for name, array in reversed(arrays.items())}
    return {name: array for name, array in arrays.items() if first[array.data_ptr()] == name or not array.numel()}


def _keys(nlp: Language) -> dict[Key, str]:
    """The name of each array that an optimizer may update, by its key there."""
    keys: dict[Key, str] = {}
    for name, node in _nodes(nlp):
        keys |= {(node.id, param): f"{name}/{param}" for param in node.param_names}
        for index, shim in _shims(node):
            keys |= {(shim.id, key): f"{name}/{index}/{key}" for key, _ in shim._model.named_parameters()}
    return keys


def _loss_scales(nlp: Language) -> Iterator[tuple[str, Any]]:
    return ((name, node.attrs["loss_scale"]) for name, node in _nodes(nlp) if "loss_scale" in node.attrs)


def _device(nlp: Language) -> torch.device:
    return next((array.device for array in _arrays(nlp).values()), torch.device("cpu"))


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _tensor(state: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(state)), dtype=torch.uint8)
