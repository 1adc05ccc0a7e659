import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from rootstock.encoder.kernels.attention import MAX_GROUP_WEIGHTS, MIN_HALF_PIECES, Attention, Windows

HEADS, WIDTH = 3, 4
lengths = st.lists(st.integers(1, 9), min_size=1, max_size=12).map(lambda values: sorted(values, reverse=True))


def qkv(n_pieces, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n_pieces, HEADS, WIDTH, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def sdpa_per_window(q, k, v, lengths):
    parts = zip(*(x.transpose(0, 1).split(lengths, dim=1) for x in (q, k, v)), strict=True)
    return torch.cat([scaled_dot_product_attention(*part, scale=0.5) for part in parts], dim=1).transpose(0, 1)


@given(lengths)
def test_each_window_attends_only_to_itself(lengths):
    ours, theirs = qkv(sum(lengths)), qkv(sum(lengths))
    actual = Attention.apply(*ours, Windows(np.array(lengths), HEADS), 0.5, 0.0)
    expected = sdpa_per_window(*theirs, lengths)
    torch.testing.assert_close(actual, expected)
    gradient = torch.linspace(-1, 1, expected.numel()).view_as(expected)
    actual.backward(gradient)
    expected.backward(gradient)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@given(lengths)
def test_first_piece_queries_have_the_same_outputs_and_gradients(lengths):
    ours, theirs = qkv(sum(lengths)), qkv(sum(lengths))
    windows = Windows(np.array(lengths), HEADS)
    firsts = np.cumsum(lengths) - lengths
    actual = Attention.apply(*ours, windows.first_piece_queries(), 0.5, 0.0)
    expected = Attention.apply(*theirs, windows, 0.5, 0.0)
    torch.testing.assert_close(actual[firsts], expected[firsts])
    assert not actual.detach().index_fill(0, torch.from_numpy(firsts), 0).any()
    assert {group.queries.length for group in windows.first_piece_queries().groups} == {1}
    gradient = torch.linspace(-1, 1, expected[firsts].numel()).view_as(expected[firsts])
    actual[firsts].backward(gradient)
    expected[firsts].backward(gradient)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("windows", [Windows.first_piece_queries, lambda windows: windows], ids=["first", "all"])
def test_gradient_equals_finite_differences(windows, rate):
    windows = windows(Windows(np.array([4, 2, 2, 1]), HEADS))

    def attend(*inputs):
        torch.manual_seed(0)  # the same dropout mask in each call
        return Attention.apply(*inputs, windows, 0.5, rate)

    assert torch.autograd.gradcheck(attend, qkv(9, torch.float64))


@pytest.mark.parametrize(
    ("lengths", "least_groups"), [([300] * 8, 8 * HEADS * 300**2 / MAX_GROUP_WEIGHTS), ([600, 500], 2)]
)
def test_groups_are_limited_to_the_cache_size(lengths, least_groups):
    windows = Windows(np.array(lengths), HEADS)
    assert len(windows.groups) >= least_groups > 1
    actual = Attention.apply(*qkv(sum(lengths)), windows, 0.5, 0.0)
    torch.testing.assert_close(actual, sdpa_per_window(*qkv(sum(lengths)), lengths))


def test_large_packs_have_few_distinct_shapes():
    rng, shapes = np.random.default_rng(0), set()
    for _ in range(300):
        with torch.autocast("cpu", torch.bfloat16):
            windows = Windows(-np.sort(-rng.integers(6, 80, 400)), HEADS)
        shapes |= {(group.keys.length, group.keys.size) for group in windows.groups}
    assert len(shapes) < 40  # 140 without rounding lengths, 800 without rounding the number of windows


@pytest.mark.parametrize(
    "lengths", [[5, 3], [MIN_HALF_PIECES // 20] * 19 + [MIN_HALF_PIECES // 20 - 1, 1]], ids=["small", "large"]
)
def test_bf16_output_is_bf16_and_close_to_fp32(lengths):
    ours, theirs = qkv(sum(lengths), torch.bfloat16), qkv(sum(lengths))
    with torch.autocast("cpu", torch.bfloat16):
        windows = Windows(np.array(lengths), HEADS)
    assert windows.use_half == (sum(lengths) >= MIN_HALF_PIECES)
    actual = Attention.apply(*ours, windows, 0.5, 0.0)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), sdpa_per_window(*theirs, lengths), atol=0.03, rtol=0.03)
    actual.sum().backward()
    assert {x.grad.dtype for x in ours} == {torch.bfloat16}


def test_dropout_preserves_the_mean():
    torch.manual_seed(0)
    q, k, _ = qkv(400)
    actual = Attention.apply(q, k, torch.ones_like(q), Windows(np.array([20] * 20), HEADS), 0.5, 0.25)
    assert actual.std() > 0.05
    assert float(actual.detach().mean()) == pytest.approx(1, abs=0.02)
