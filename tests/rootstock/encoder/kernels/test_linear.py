import copy

import pytest
import torch
from torch.nn.functional import gelu
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from rootstock.encoder.kernels import linear
from rootstock.encoder.kernels.linear import Linear, computes, packed, replace_linear

CPU = torch.device("cpu")
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def pair(bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    theirs = torch.nn.Linear(24, 40, bias, dtype=dtype)
    ours = copy.deepcopy(theirs)
    replace_linear(torch.nn.Sequential(ours))
    assert type(ours) is Linear
    return ours, theirs


@pytest.fixture(params=[True, False], ids=["mkl", "onednn"])
def mkl_is_fast(request, monkeypatch):
    """As on CPUs of Intel, and of others."""
    monkeypatch.setattr(linear, "MKL_IS_FAST", request.param)
    return request.param


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (2, 3, 24)])
def test_values_and_gradients_are_those_of_pytorch(shape, bias, mkl_is_fast):
    ours, theirs = pair(bias)
    rows = [torch.linspace(-2, 2, torch.Size(shape).numel()).view(shape).requires_grad_() for _ in range(2)]
    found, wanted = ours(rows[0]), theirs(rows[1])
    torch.testing.assert_close(found, wanted)
    assert (found.grad_fn.name() == "_LinearBackward") == (not mkl_is_fast)
    gradient = torch.sin(torch.arange(wanted.numel())).view_as(wanted)
    found.backward(gradient)
    wanted.backward(gradient)
    pairs = [*zip(ours.parameters(), theirs.parameters(), strict=True), rows]
    for one, other in pairs:
        torch.testing.assert_close(one.grad, other.grad)


def test_without_gradients_the_gelu_is_computed_in_the_same_pass():
    ours, theirs = pair()
    ours.gelu = True
    rows = torch.randn(5, 24)
    wanted = gelu(theirs(rows))
    torch.testing.assert_close(ours(rows), wanted)
    with torch.no_grad():
        torch.testing.assert_close(ours(rows), wanted)


def test_what_is_frozen_has_no_gradient(mkl_is_fast):
    ours, _ = pair()
    ours.requires_grad_(False)
    rows = torch.randn(5, 24, requires_grad=True)
    ours(rows).sum().backward()
    torch.testing.assert_close(rows.grad, ours.weight.sum(0).expand(5, 24))
    assert ours.weight.grad is None and ours.bias.grad is None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("halved", [True, False])
def test_packed_weights_give_the_same_and_are_given_up(halved, bias):
    ours, _ = pair(bias)
    rows = torch.randn(50, 24)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=halved):
        wanted = ours(rows)
        with packed(ours, 50):
            assert (ours.packed is not None) == computes(CPU, wanted.dtype)
            found = ours(rows)
    assert found.dtype == wanted.dtype == (torch.bfloat16 if halved else torch.float32)
    torch.testing.assert_close(found, wanted)
    assert ours.packed is None


@pytest.mark.parametrize("bias", [True, False])
def test_autocast_computes_in_bf16_with_gradients_too(bias):
    ours, theirs = pair(bias)
    rows = [torch.linspace(-1, 1, 2 * 5 * 24).view(2, 5, 24).requires_grad_() for _ in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(rows[0])
    wanted = theirs(rows[1])
    assert found.dtype == torch.bfloat16
    assert (found.grad_fn.name() == "_LinearBackward") == computes(CPU, torch.bfloat16)
    torch.testing.assert_close(found.float(), wanted, atol=0.02, rtol=0.02)
    gradient = torch.sin(torch.arange(wanted.numel())).view_as(wanted)
    found.backward(gradient.bfloat16())
    wanted.backward(gradient)
    for one, other in [*zip(ours.parameters(), theirs.parameters(), strict=True), rows]:
        assert one.grad.dtype == torch.float32
        torch.testing.assert_close(one.grad, other.grad, atol=0.02, rtol=0.02)


def test_what_onednn_does_not_know_is_left_to_pytorch():
    ours, theirs = pair(dtype=torch.float64)
    rows = torch.randn(4, 24, dtype=torch.float64)
    with torch.no_grad(), packed(ours, 4):
        assert torch.equal(ours(rows), theirs(rows))


@pytest.mark.parametrize(
    "net",
    [
        BertModel(BertConfig(**SIZES, vocab_size=50)),
        DistilBertModel(DistilBertConfig(dim=32, hidden_dim=48, n_layers=2, n_heads=4, vocab_size=50)),
    ],
    ids=["bert", "distilbert"],
)
def test_a_network_computes_and_is_saved_as_before(net):
    net.eval()
    ids = torch.arange(20)[None]
    before, names = net(ids).last_hidden_state, list(net.state_dict())
    replace_linear(net)
    assert sum(layer.gelu for layer in net.modules() if isinstance(layer, Linear)) == 2
    assert list(net.state_dict()) == names
    torch.testing.assert_close(net(ids).last_hidden_state, before)
    with torch.no_grad(), packed(net, 20):
        torch.testing.assert_close(net(ids).last_hidden_state, before)
