"""Weights folders: `config.json`, the tokenizer's files, `model.safetensors`. How a pipeline carries its own."""

from __future__ import annotations

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
    """The architecture that `config.json` describes."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, local_files_only=True)


def load_model(folder: str | Path) -> PreTrainedModel:
    """The bare encoder in float32. Raises ValueError where the folder is missing or holds no safetensors."""
    import torch
    from transformers import AutoModel

    _check(folder, "config.json", "model.safetensors")
    with _no_progress_bars():
        net = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    net.config.use_cache = False  # keys and values are for generating text
    return net


def save_model(net: PreTrainedModel, folder: str | Path) -> None:
    """The inverse of load_model."""
    with _no_progress_bars():
        net.save_pretrained(folder)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
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
