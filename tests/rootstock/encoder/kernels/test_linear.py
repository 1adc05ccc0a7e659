import copy

import pytest
import torch
from torch.nn.functional import gelu
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from rootstock.encoder.kernels import linear
from rootstock.encoder.kernels.linear import Linear, onednn_supports, packed_weights, replace_linear

CPU = torch.device("cpu")
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def make_layers(bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    theirs = torch.nn.Linear(24, 40, bias, dtype=dtype)
    net = torch.nn.Sequential(copy.deepcopy(theirs))
    replace_linear(net)
    assert type(net[0]) is Linear
    return net[0], theirs


@pytest.fixture(params=[True, False], ids=["mkl", "onednn"])
def mkl_is_fast(request, monkeypatch):
    """Simulates Intel CPUs (mkl) and others (onednn)."""
    monkeypatch.setattr(linear, "mkl_is_fast", lambda: request.param)
    return request.param


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (2, 3, 24)])
def test_outputs_and_gradients_equal_pytorchs(shape, bias, mkl_is_fast):
    ours, theirs = make_layers(bias)
    rows = [torch.linspace(-2, 2, torch.Size(shape).numel()).view(shape).requires_grad_() for _ in range(2)]
    actual, expected = ours(rows[0]), theirs(rows[1])
    torch.testing.assert_close(actual, expected)
    assert (actual.grad_fn.name() == "_LinearBackward") == (not mkl_is_fast)
    gradient = torch.sin(torch.arange(expected.numel())).view_as(expected)
    actual.backward(gradient)
    expected.backward(gradient)
    pairs = [*zip(ours.parameters(), theirs.parameters(), strict=True), rows]
    for one, other in pairs:
        torch.testing.assert_close(one.grad, other.grad)


def test_gelu_is_fused_without_gradients():
    ours, theirs = make_layers()
    ours.gelu = True
    rows = torch.randn(5, 24)
    expected = gelu(theirs(rows))
    torch.testing.assert_close(ours(rows), expected)
    with torch.no_grad():
        torch.testing.assert_close(ours(rows), expected)


def test_frozen_parameters_have_no_gradient(mkl_is_fast):
    ours, _ = make_layers()
    ours.requires_grad_(False)
    rows = torch.randn(5, 24, requires_grad=True)
    ours(rows).sum().backward()
    torch.testing.assert_close(rows.grad, ours.weight.sum(0).expand(5, 24))
    assert ours.weight.grad is None and ours.bias.grad is None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bf16", [True, False])
def test_packed_weights_give_the_same_output_and_are_released(bf16, bias):
    ours, _ = make_layers(bias)
    rows = torch.randn(50, 24)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        expected = ours(rows)
        with packed_weights(ours, 50):
            assert (ours.packed is not None) == onednn_supports(CPU, expected.dtype)
            actual = ours(rows)
    assert actual.dtype == expected.dtype == (torch.bfloat16 if bf16 else torch.float32)
    torch.testing.assert_close(actual, expected)
    assert ours.packed is None


@pytest.mark.parametrize("bias", [True, False])
def test_autocast_uses_bf16_for_outputs_and_gradients(bias):
    ours, theirs = make_layers(bias)
    rows = [torch.linspace(-1, 1, 2 * 5 * 24).view(2, 5, 24).requires_grad_() for _ in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        actual = ours(rows[0])
    expected = theirs(rows[1])
    assert actual.dtype == torch.bfloat16
    assert (actual.grad_fn.name() == "_LinearBackward") == onednn_supports(CPU, torch.bfloat16)
    torch.testing.assert_close(actual.float(), expected, atol=0.02, rtol=0.02)
    gradient = torch.sin(torch.arange(expected.numel())).view_as(expected)
    actual.backward(gradient.bfloat16())
    expected.backward(gradient)
    for one, other in [*zip(ours.parameters(), theirs.parameters(), strict=True), rows]:
        assert one.grad.dtype == torch.float32
        torch.testing.assert_close(one.grad, other.grad, atol=0.02, rtol=0.02)


def test_unsupported_dtypes_use_pytorch():
    ours, theirs = make_layers(dtype=torch.float64)
    rows = torch.randn(4, 24, dtype=torch.float64)
    with torch.no_grad(), packed_weights(ours, 4):
        assert torch.equal(ours(rows), theirs(rows))


@pytest.mark.parametrize(
    "net",
    [
        BertModel(BertConfig(**SIZES, vocab_size=50)),
        DistilBertModel(DistilBertConfig(dim=32, hidden_dim=48, n_layers=2, n_heads=4, vocab_size=50)),
    ],
    ids=["bert", "distilbert"],
)
def test_replace_linear_keeps_outputs_and_state_dict(net):
    net.eval()
    ids = torch.arange(20)[None]
    before, names = net(ids).last_hidden_state, list(net.state_dict())
    replace_linear(net)
    assert sum(layer.gelu for layer in net.modules() if isinstance(layer, Linear)) == 2
    assert list(net.state_dict()) == names
    torch.testing.assert_close(net(ids).last_hidden_state, before)
    with torch.no_grad(), packed_weights(net, 20):
        torch.testing.assert_close(net(ids).last_hidden_state, before)
