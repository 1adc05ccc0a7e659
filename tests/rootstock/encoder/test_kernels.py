"""What is private to PyTorch and Transformers can be missing or wrong: the result still comes, and `kernels: false` is
the reference that fast operations are compared with."""

import warnings

import numpy as np
import pytest
import torch
from thinc.api import Adam

from rootstock.encoder import encoder
from rootstock.encoder.kernels import attention, dropout, linear
from rootstock.training import adam
from tests.conftest import pipeline
from tests.rootstock.test_update import BATCHES, build, examples, net_of

TEXTS = ["I like it. A lot of it, in fact.", "No.", " ".join(f"word{i}" for i in range(70)), "So so!"]
CHECKS = (linear._hardware_supports, linear._is_correct, adam._fused_is_correct, attention._is_registered, attention._is_correct)  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_checks():
    """Each test checks the operations again, and so do the tests of other files afterwards."""
    for check in CHECKS:
        check.cache_clear()
    yield
    for check in CHECKS:
        check.cache_clear()


def outcome(tiny, precision="fp32", **config):
    """Tensors of a pipeline, and its weights after three steps."""
    nlp = build(tiny, precision=precision, **config)
    tensors = [doc.tensor for doc in nlp.pipe(TEXTS)]
    batch, optimizer = examples(nlp, BATCHES[0]), Adam(1e-3, L2=0.01, L2_is_weight_decay=True, grad_clip=0.5)
    optimizer.averages = None
    losses = [nlp.update(batch, sgd=optimizer, losses={})["textcat"] for _ in range(3)]
    weights = {name: p.detach().clone() for name, p in net_of(nlp).named_parameters()}
    return [*tensors, np.array(losses), *(weight.numpy() for weight in weights.values())]


def assert_close(found, expected, atol=2e-4):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


@pytest.fixture(scope="module")
def reference(tiny):
    return outcome(tiny, kernels=False)


class Wrong:
    """An operation whose result is a little off."""

    def __init__(self, operation):
        self.operation = operation

    def __call__(self, *args, **kwargs):
        return self.operation(*args, **kwargs) * 1.1


class WrongStep(Wrong):
    """An optimizer step in place that is a little off."""

    def __call__(self, weights, *args, **kwargs):
        self.operation(weights, *args, **kwargs)
        for weight in weights:
            weight.mul_(1.1)


class Namespace:
    """PyTorch's operations of oneDNN, with some missing or replaced."""

    def __init__(self, **replaced):
        self.__dict__.update(replaced)

    def __getattr__(self, name):
        return getattr(torch.ops.mkldnn, name)


def missing(*args, **kwargs):
    raise AttributeError("no such operation")


FAULTS = {
    "oneDNN's linear layer is missing": (linear, "_onednn", Namespace(_linear_pointwise=missing)),
    "oneDNN's linear layer is wrong": (linear, "_onednn", Namespace(_linear_pointwise=Wrong(torch.ops.mkldnn._linear_pointwise))),
    "oneDNN's layout is missing": (linear, "_onednn", Namespace(_reorder_linear_weight=missing)),
    "oneDNN's layout is wrong": (linear, "_onednn", Namespace(_reorder_linear_weight=Wrong(torch.ops.mkldnn._reorder_linear_weight))),
    "fused Adam is missing": (torch, "_fused_adamw_", missing),
    "fused Adam is wrong": (torch, "_fused_adamw_", WrongStep(torch._fused_adamw_)),
    "norms of lists are missing": (torch, "_foreach_norm", missing),
    "norms of lists are wrong": (torch, "_foreach_norm", lambda tensors: [t.norm() * 1.1 for t in tensors]),
    "scaling of lists is missing": (torch, "_foreach_mul_", missing),
    "scaling of lists is wrong": (torch, "_foreach_mul_", WrongStep(torch._foreach_mul_)),
    "softmax's backward pass is missing": (torch, "_softmax_backward_data", missing),
    "softmax's backward pass is wrong": (torch, "_softmax_backward_data", Wrong(torch._softmax_backward_data)),
    "Transformers takes no attention of ours": ("transformers.AttentionInterface", "register", missing),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*using plain PyTorch:UserWarning")
@pytest.mark.parametrize(("place", "name", "replacement"), FAULTS.values(), ids=FAULTS.keys())
def test_a_missing_or_wrong_operation_is_replaced_by_plain_pytorch(
    tiny, reference, monkeypatch, place, name, replacement
):
    if isinstance(place, str):
        monkeypatch.setattr(f"{place}.{name}", replacement)
    else:
        monkeypatch.setattr(place, name, replacement)
    monkeypatch.setattr(linear, "mkl_is_fast", lambda: False)  # as on CPUs of other makers, where oneDNN trains, too
    with pytest.warns(UserWarning, match=r"does not work as expected in PyTorch .*: using plain PyTorch"):
        found = outcome(tiny)
    assert_close(found, reference)


@pytest.mark.parametrize("mkl", [True, False])
def test_the_kernels_compute_what_plain_pytorch_does(tiny, reference, monkeypatch, mkl):
    monkeypatch.setattr(linear, "mkl_is_fast", lambda: mkl)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert_close(outcome(tiny), reference)


def test_one_setting_turns_all_kernels_off(tiny):
    nlp = pipeline(tiny, kernels=False)
    model = nlp.get_pipe("trf_tok2vec").model
    ours = (linear.Linear, dropout.Dropout)
    assert not any(isinstance(module, ours) for module in net_of(nlp).modules()) and not model.attrs["unpadded"]
    assert not model.shims[0].kernels and net_of(nlp).config._attn_implementation != attention.IMPLEMENTATION
    assert any(isinstance(module, ours) for module in net_of(pipeline(tiny)).modules())


def test_the_setting_survives_saving(tiny, tmp_path):
    import spacy

    pipeline(tiny, kernels=False).to_disk(tmp_path)
    assert not spacy.load(tmp_path).get_pipe("trf_tok2vec").model.attrs["unpadded"]


def test_bf16_is_not_chosen_if_pytorch_does_not_tell(monkeypatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert encoder.has_fast_bf16(torch.device("cpu")) is False


@pytest.mark.parametrize(
    ("amx", "avx512", "intel", "fast"),
    [(True, True, True, True), (False, True, True, False), (False, True, False, True), (False, False, False, False)],
)
def test_bf16_is_chosen_where_it_is_faster(monkeypatch, amx, avx512, intel, fast):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    monkeypatch.setattr(encoder, "_is_intel", lambda: intel)
    assert encoder.has_fast_bf16(torch.device("cpu")) is fast


def test_bf16_of_onednn_is_not_used_if_pytorch_does_not_tell(monkeypatch):
    monkeypatch.setattr(linear, "_onednn", Namespace(_is_mkldnn_bf16_supported=lambda: False))
    assert not linear.onednn_supports(torch.device("cpu"), torch.bfloat16)
    assert linear.onednn_supports(torch.device("cpu"), torch.float32)


def test_memory_is_not_trimmed_with_another_c_library(monkeypatch):
    encoder._malloc_trim.cache_clear()
    try:
        monkeypatch.setattr(encoder.platform, "libc_ver", lambda: ("musl", "1.2"))
        assert encoder._malloc_trim() is None
        encoder._trim_heap()
        encoder._malloc_trim.cache_clear()
        monkeypatch.setattr(encoder.platform, "libc_ver", lambda: ("glibc", "2.36"))
        monkeypatch.setattr(encoder.ctypes, "CDLL", lambda name: Namespace())  # has no malloc_trim
        encoder._malloc_trim.cache_clear()
        encoder._trim_heap()
    finally:
        encoder._malloc_trim.cache_clear()


def test_the_pipeline_works_without_fork(tiny, monkeypatch):
    """As on Windows, where processes do not fork."""
    monkeypatch.delattr(encoder.os, "register_at_fork")
    encoder._limit_threads_after_fork.cache_clear()
    assert len(pipeline(tiny)("No fork.").tensor) == 3
    encoder._limit_threads_after_fork.cache_clear()


def test_the_last_layer_is_computed_whole_if_its_modules_have_other_names(tiny, reference, monkeypatch):
    from rootstock.encoder import last_layer
    from rootstock.weights.families import Family

    monkeypatch.setattr(last_layer, "family_of", lambda config: Family(attention_output="encoder.{}.renamed"))
    assert_close(outcome(tiny), reference)
