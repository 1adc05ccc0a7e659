import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from rootstock.encoder.kernels.attention import LARGE, MOST, Attention, Windows

HEADS, WIDTH = 3, 4
lengths = st.lists(st.integers(1, 9), min_size=1, max_size=12).map(lambda found: sorted(found, reverse=True))


def qkv(n_pieces, dtype=torch.float32):
    lots = torch.Generator().manual_seed(0)
    return [torch.randn(n_pieces, HEADS, WIDTH, generator=lots).to(dtype).requires_grad_() for _ in range(3)]


def one_by_one(q, k, v, lengths):
    parts = zip(*(x.transpose(0, 1).split(lengths, dim=1) for x in (q, k, v)), strict=True)
    return torch.cat([scaled_dot_product_attention(*part, scale=0.5) for part in parts], dim=1).transpose(0, 1)


@given(lengths)
def test_each_window_looks_at_itself_alone(lengths):
    ours, theirs = qkv(sum(lengths)), qkv(sum(lengths))
    found = Attention.apply(*ours, Windows(np.array(lengths), HEADS), 0.5, 0.0)
    wanted = one_by_one(*theirs, lengths)
    torch.testing.assert_close(found, wanted)
    gradient = torch.linspace(-1, 1, wanted.numel()).view_as(wanted)
    found.backward(gradient)
    wanted.backward(gradient)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@given(lengths)
def test_where_first_pieces_alone_look_they_see_and_teach_the_same(lengths):
    ours, theirs = qkv(sum(lengths)), qkv(sum(lengths))
    windows = Windows(np.array(lengths), HEADS)
    firsts = np.cumsum(lengths) - lengths
    found = Attention.apply(*ours, windows.asked_by_first(), 0.5, 0.0)
    wanted = Attention.apply(*theirs, windows, 0.5, 0.0)
    torch.testing.assert_close(found[firsts], wanted[firsts])
    assert not found.detach().index_fill(0, torch.from_numpy(firsts), 0).any()
    assert {run.asking.length for run in windows.asked_by_first().runs} == {1}
    gradient = torch.linspace(-1, 1, wanted[firsts].numel()).view_as(wanted[firsts])
    found[firsts].backward(gradient)
    wanted[firsts].backward(gradient)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("windows", [Windows.asked_by_first, lambda windows: windows], ids=["first", "all"])
def test_its_gradient_is_that_of_finite_differences(windows, rate):
    windows = windows(Windows(np.array([4, 2, 2, 1]), HEADS))

    def attend(*inputs):
        torch.manual_seed(0)  # the same draws each time
        return Attention.apply(*inputs, windows, 0.5, rate)

    assert torch.autograd.gradcheck(attend, qkv(9, torch.float64))


@pytest.mark.parametrize(("lengths", "runs"), [([300] * 8, 8 * HEADS * 300**2 / MOST), ([600, 500], 2)])
def test_what_is_computed_together_stays_in_the_cache(lengths, runs):
    windows = Windows(np.array(lengths), HEADS)
    assert len(windows.runs) >= runs > 1
    found = Attention.apply(*qkv(sum(lengths)), windows, 0.5, 0.0)
    torch.testing.assert_close(found, one_by_one(*qkv(sum(lengths)), lengths))


def test_shapes_of_large_packs_recur():
    lots, shapes = np.random.default_rng(0), set()
    for _ in range(300):
        with torch.autocast("cpu", torch.bfloat16):
            windows = Windows(-np.sort(-lots.integers(6, 80, 400)), HEADS)
        shapes |= {(run.asked.length, run.asked.size) for run in windows.runs}
    assert len(shapes) < 40  # 140 with lengths as they come, 800 with any number of windows


@pytest.mark.parametrize("lengths", [[5, 3], [LARGE // 20] * 19 + [LARGE // 20 - 1, 1]], ids=["small", "large"])
def test_bf16_comes_back_as_bf16_and_is_near(lengths):
    ours, theirs = qkv(sum(lengths), torch.bfloat16), qkv(sum(lengths))
    with torch.autocast("cpu", torch.bfloat16):
        windows = Windows(np.array(lengths), HEADS)
    assert windows.halves == (sum(lengths) >= LARGE)
    found = Attention.apply(*ours, windows, 0.5, 0.0)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), one_by_one(*theirs, lengths), atol=0.03, rtol=0.03)
    found.sum().backward()
    assert {x.grad.dtype for x in ours} == {torch.bfloat16}


def test_dropout_leaves_the_mean_of_what_is_given():
    torch.manual_seed(0)
    q, k, _ = qkv(400)
    found = Attention.apply(q, k, torch.ones_like(q), Windows(np.array([20] * 20), HEADS), 0.5, 0.25)
    assert found.std() > 0.05
    assert float(found.detach().mean()) == pytest.approx(1, abs=0.02)
