"""Weights folders: `config.json`, the tokenizer's files, `model.safetensors`. How a pipeline carries its own."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import srsly
from spacy.language import Language
from thinc.api import Config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Raises ValueError where the folder is missing or holds no tokenizer."""
    from transformers import AutoTokenizer

    _check(folder, "config.json")
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def load_config(folder: str | Path) -> PreTrainedConfig:
    """The architecture that `config.json` describes. Raises ValueError where there is none."""
    from transformers import AutoConfig

    _check(folder, "config.json")
    return AutoConfig.from_pretrained(folder, local_files_only=True)


def load_model(folder: str | Path) -> PreTrainedModel:
    """The bare encoder in float32; without a pooler where the weights have none.

    Raises ValueError where the folder is missing, holds no safetensors, or these lack a part of the encoder.
    """
    import torch
    from transformers import AutoModel

    _check(folder, "config.json", "model.safetensors")
    with quiet():
        net, info = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    # Transformers fills what is missing with random numbers.
    missing = sorted(info["missing_keys"])
    if any(name.startswith("pooler.") for name in missing):
        net.pooler = None
    lost = [name for name in missing if not name.startswith("pooler.")]
    if lost:
        raise ValueError(
            f"{Path(folder) / 'model.safetensors'} lacks {len(lost)} weights of the model, first {lost[0]}"
        )
    net.config.use_cache = False  # keys and values are for generating text
    return net


def save_model(net: PreTrainedModel, folder: str | Path, precision: str = "fp32") -> None:
    """The inverse of load_model. precision: fp32, or bf16 or fp16 for half the size; load_model gives float32 again."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with quiet():
        (net if dtype == torch.float32 else copy.deepcopy(net).to(dtype)).save_pretrained(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, and no table of the weights that the checkpoint has for other purposes."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def _check(folder: str | Path, *names: str) -> None:
    missing = [name for name in names if not (Path(folder) / name).is_file()]
    if missing:
        raise ValueError(
            f"no weights in {folder!s}: {' and '.join(missing)} not found there. "
            "`weights` is a folder with config.json, the tokenizer's files and model.safetensors"
        )


class BytesOfFolder:
    """`to_bytes` and `from_bytes` of a component whose `to_disk` and `from_disk` have a folder of files."""

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


class _PipeConfigs(dict):
    """spaCy's record of each component's config, less the folder that its weights came from."""

    def __setitem__(self, name: str, config: Config) -> None:
        if config.get("weights") is not None:
            config = Config({**config, "weights": None})
        super().__setitem__(name, config)


def forget_folders(nlp: Language) -> None:
    """From now on `nlp.config` names no weights folder: a saved pipeline carries its own files."""
    # spaCy stores the config after the factory has returned, and offers no hook at that point.
    if not isinstance(nlp._pipe_configs, _PipeConfigs):
        nlp._pipe_configs = _PipeConfigs(nlp._pipe_configs)
