"""Load and save weights folders: `config.json`, the tokenizer's files and `model.safetensors`."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import shutil
import tempfile
import warnings
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


# Keys with which a config makes Transformers run Python code, from the folder or the Hub, or open another file.
CODE = ("auto_map", "custom_pipelines", "trust_remote_code", "transformers_weights")
MAX_LAYERS = 1000
KERNELS = ("attn_implementation", "experts_implementation")  # in a key; a value with a slash is a repository of code


class WeightsError(ValueError):
    """A weights folder that cannot be used. The message is one line, for the person who chose the weights."""


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder. No code in the folder is run.

    Raises WeightsError if the folder has no config.json, or a file is damaged.
    """
    from transformers import AutoTokenizer

    config = load_config(folder)
    with reading(folder, "the tokenizer"), _without_code(folder) as harmless:
        tokenizer = AutoTokenizer.from_pretrained(
            harmless, config=config, local_files_only=True, trust_remote_code=False
        )
        if not isinstance(tokenizer.model_max_length, int | float):
            raise TypeError(f"model_max_length is {tokenizer.model_max_length!r}")
    tokenizer.name_or_path = str(folder)
    return tokenizer


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """What differs after the tokenizer has changed; cheap, unlike its digest."""
    state = [len(tokenizer), tokenizer.added_tokens_decoder, tokenizer.special_tokens_map]
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        state += [backend.truncation, backend.padding]
        state += [pickle.dumps(part) for part in (backend.normalizer, backend.pre_tokenizer, backend.post_processor)]
    return state


def digest_tokenizer(tokenizer: PreTrainedTokenizerBase, *settings: Any) -> str:
    """A short digest of a tokenizer and of settings, equal in every process."""
    if tokenizer.is_fast:
        content = tokenizer.backend_tokenizer.to_str()
    else:
        content = repr((type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), tokenizer_state(tokenizer)))
    return hashlib.blake2b(f"{content}{settings!r}".encode(), digest_size=8).hexdigest()


def load_config(folder: str | Path) -> PreTrainedConfig:
    """The model configuration in a folder. It names no code.

    Raises WeightsError if the folder has no config.json, or a damaged one.
    """
    from transformers import AutoConfig

    _require_files(folder, "config.json")
    with reading(folder, "config.json"), _without_code(folder) as harmless:
        config = AutoConfig.from_pretrained(harmless, local_files_only=True, trust_remote_code=False)
        if getattr(config, "num_hidden_layers", 0) > MAX_LAYERS:  # each is made before its weights are missed
            raise OverflowError(f"num_hidden_layers is {config.num_hidden_layers}")
    config.name_or_path = str(folder)
    return config


@contextmanager
def reading(folder: str | Path, what: str) -> Iterator[None]:
    """A block that reads files, in which parsers raise whatever comes up when one is damaged.

    Raises WeightsError instead, in one line. what: what the files are, for the message.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        if "ignore_mismatched_sizes" in reason:  # advice that no one can follow here
            reason = "its weights have other shapes than config.json says"
        raise WeightsError(f"{folder}: {what} cannot be read ({type(error).__name__}: {reason})") from error


@contextmanager
def _without_code(folder: str | Path) -> Iterator[Path]:
    """The folder, or a copy of its small files in which no config names code.

    Warns of code that is ignored: once for a folder, as the warning is the same each time.
    """
    folder, configs = Path(folder), {}
    ignored: set[str] = set()
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        if path.is_file():
            configs[path.name] = _strip(json.loads(path.read_bytes()), ignored)
    if not ignored:
        yield folder
        return
    names = ", ".join(sorted(ignored))
    warnings.warn(f"{folder}: its configs name code ({names}), which is ignored and never run", stacklevel=1)
    with tempfile.TemporaryDirectory() as tmp:
        for path in folder.iterdir():
            if path.suffix in SMALL and path.is_file():
                shutil.copyfile(path, Path(tmp) / path.name)
        for name, config in configs.items():
            (Path(tmp) / name).write_text(json.dumps(config), "utf-8")
        yield Path(tmp)


SMALL = (".json", ".txt", ".model", ".codes")  # files of configs and tokenizers


def _strip(config: Any, ignored: set[str]) -> Any:
    """A copy of a config without keys that name code; they are added to ignored."""
    if isinstance(config, list):
        return [_strip(value, ignored) for value in config]
    if not isinstance(config, dict):
        return config
    is_repository = lambda key, value: any(name in key for name in KERNELS) and "/" in str(value)  # noqa: E731
    code = {key for key, value in config.items() if key in CODE or is_repository(key, value)}
    ignored |= code
    return {key: _strip(value, ignored) for key, value in config.items() if key not in code}


def without_weights(config: PreTrainedConfig) -> PreTrainedModel:
    """The base model with the shapes of its parameters, but no values."""
    import torch
    from transformers import AutoModel

    with reading(config.name_or_path, "config.json"), torch.device("meta"):
        return AutoModel.from_config(config, trust_remote_code=False)


def load_model(folder: str | Path) -> PreTrainedModel:
    """The base model without a task head, in float32; without a pooler if the weights have none.

    Raises WeightsError if config.json or model.safetensors is not found, or weights of the base model are missing.
    """
    import torch
    from transformers import AutoModel

    _require_files(folder, "config.json", "model.safetensors")
    config = load_config(folder)
    with quiet(), reading(folder, "model.safetensors"):
        net, info = AutoModel.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    # Transformers initializes missing weights at random.
    missing = sorted(info["missing_keys"])
    if any(name.startswith("pooler.") for name in missing):
        net.pooler = None
    required = [name for name in missing if not name.startswith("pooler.")]
    if required:
        raise WeightsError(
            f"{Path(folder) / 'model.safetensors'} lacks {len(required)} of the model's weights, first {required[0]}: "
            "use the model's complete weights"
        )
    require_dense_attention(net)
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


def require_dense_attention(net: PreTrainedModel) -> None:
    """Raises WeightsError if a text's vectors depend on its padding, or on the texts before it."""
    name = net.config.model_type
    if getattr(net.config, "attention_type", "original_full") != "original_full":  # BigBird's first short text sets it
        raise WeightsError(
            f"model type '{name}' with attention_type={net.config.attention_type!r} is not supported: set it to "
            "'original_full' in config.json"
        )
    try:
        problem = None if _ignores_padding(net) else "its vectors depend on how far a text is padded"
    except Exception as error:
        problem = str(error).partition("\n")[0]
    if problem is not None:
        raise WeightsError(
            f"model type '{name}' is not supported: {problem}. Use an encoder or decoder with dense attention, such "
            "as BERT or GPT-2"
        )


def _ignores_padding(net: PreTrainedModel) -> bool:
    import torch

    padding = max(0, net.config.pad_token_id or 0)
    ids = torch.tensor([[*range(5, 11), *[padding] * 6]], device=net.device)
    with torch.no_grad():
        alone = net(ids[:, :6]).last_hidden_state
        padded = net(ids, attention_mask=(torch.arange(12, device=net.device) < 6).long()[None]).last_hidden_state
    return torch.allclose(alone, padded[:, :6], rtol=1e-3, atol=1e-3)


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
        raise WeightsError(
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
            files = sorted(path for path in Path(tmp).rglob("*") if path.is_file())
            return srsly.msgpack_dumps({path.relative_to(tmp).as_posix(): path.read_bytes() for path in files})

    def from_bytes(self, data: bytes, *, exclude: Iterable[str] = ()) -> Any:
        with tempfile.TemporaryDirectory() as tmp:
            for name, content in srsly.msgpack_loads(data).items():
                if not (Path(tmp) / name).resolve().is_relative_to(Path(tmp).resolve()):
                    raise ValueError(f"the bytes of a component name a file {name!r} outside its folder: refused")
                (Path(tmp) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(tmp) / name).write_bytes(content)
            return self.from_disk(Path(tmp))


def omit_weights_paths(nlp: Language) -> None:
    """Keep paths of weights folders out of `nlp.config`: a saved pipeline contains its own weights."""
    # spaCy records the config after the factory has returned, and has no hook at that point.
    nlp.get_pipe_config = partial(_config_without_path, nlp)


def _config_without_path(nlp: Language, name: str) -> Config:
    config = type(nlp).get_pipe_config(nlp, name)
    return config if config.get("weights") is None else Config({**config, "weights": None})
