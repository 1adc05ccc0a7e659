"""Load and save weights folders: `config.json`, the tokenizer's files and `model.safetensors`."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import srsly
from spacy.language import Language
from thinc.api import Config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder.

    Raises ValueError if the folder has no config.json.
    """
    from transformers import AutoTokenizer

    _require_files(folder, "config.json")
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def load_config(folder: str | Path) -> PreTrainedConfig:
    """The model configuration in a folder.

    Raises ValueError if the folder has no config.json.
    """
    from transformers import AutoConfig

    _require_files(folder, "config.json")
    return AutoConfig.from_pretrained(folder, local_files_only=True)


def load_model(folder: str | Path) -> PreTrainedModel:
    """The base model without a task head, in float32; without a pooler if the weights have none.

    Raises ValueError if config.json or model.safetensors is not found, or weights of the base model are missing.
    """
    import torch
    from transformers import AutoModel

    _require_files(folder, "config.json", "model.safetensors")
    with quiet():
        net, info = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    # Transformers initializes missing weights at random.
    missing = sorted(info["missing_keys"])
    if any(name.startswith("pooler.") for name in missing):
        net.pooler = None
    required = [name for name in missing if not name.startswith("pooler.")]
    if required:
        raise ValueError(
            f"{Path(folder) / 'model.safetensors'} lacks {len(required)} of the model's weights, first {required[0]}: "
            "use the model's complete weights"
        )
    net.config.use_cache = False  # cached keys and values are only for text generation
    return net


def save_model(net: PreTrainedModel, folder: str | Path, precision: str = "fp32") -> None:
    """Save a model as a weights folder, for `load_model`.

    precision: dtype of the saved weights: fp32, or bf16 or fp16 for half the size. `load_model` converts to float32.
    """
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with quiet():
        (net if dtype == torch.float32 else copy.deepcopy(net).to(dtype)).save_pretrained(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """Within, Transformers shows no progress bars and no report about unused weights."""
    from transformers.utils import logging

    had_progress_bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_progress_bar:
            logging.enable_progress_bar()


def _require_files(folder: str | Path, *names: str) -> None:
    missing = [name for name in names if not (Path(folder) / name).is_file()]
    if missing:
        raise ValueError(
            f"no weights in {folder!s}: {' and '.join(missing)} not found. "
            "Set `weights` to a folder with config.json, the tokenizer's files and model.safetensors"
        )


class ToBytesMixin:
    """`to_bytes` and `from_bytes` for a component whose `to_disk` writes files into a folder."""

    to_disk: Callable[..., Any]
    from_disk: Callable[..., Any]

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        with tempfile.TemporaryDirectory() as tmp:
            self.to_disk(Path(tmp))
            return srsly.msgpack_dumps({p.name: p.read_bytes() for p in sorted(Path(tmp).iterdir())})

    def from_bytes(self, data: bytes, *, exclude: Iterable[str] = ()) -> Any:
        with tempfile.TemporaryDirectory() as tmp:
            for name, content in srsly.msgpack_loads(data).items():
                (Path(tmp) / name).write_bytes(content)
            return self.from_disk(Path(tmp))


def omit_weights_paths(nlp: Language) -> None:
    """Keep paths of weights folders out of `nlp.config`: a saved pipeline contains its own weights."""
    # spaCy records the config after the factory has returned, and has no hook at that point.
    nlp.get_pipe_config = partial(_config_without_path, nlp)


def _config_without_path(nlp: Language, name: str) -> Config:
    config = type(nlp).get_pipe_config(nlp, name)
    return config if config.get("weights") is None else Config({**config, "weights": None})
