import pytest
import torch

from rootstock.encoder.kernels.dropout import Dropout, draw_mask, replace_dropout, set_dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [1e-9, 0.1, 0.5, 0.99999, 1.0])
def test_share_of_kept_elements(rate, dtype):
    torch.manual_seed(0)
    mask = draw_mask(torch.empty(3, 133_333, dtype=dtype), rate)
    assert mask.shape == (3, 133_333) and mask.dtype == dtype
    assert set(mask.unique().tolist()) <= {0, 1}
    assert float(mask.float().mean()) == pytest.approx(1 - rate, abs=0.003)


def test_elements_are_drawn_independently():
    torch.manual_seed(0)
    mask = draw_mask(torch.empty(400_000), 0.5)
    for distance in (1, 2, 3, 4):  # four elements share a draw of 64 bits
        assert float((mask[:-distance] == mask[distance:]).float().mean()) == pytest.approx(0.5, abs=0.003)


def test_kept_elements_and_gradients_are_scaled():
    torch.manual_seed(0)
    values = torch.ones(1000, 30, requires_grad=True)
    output = Dropout(0.1)(values)
    zero, scaled = output.unique().tolist()
    assert zero == 0 and scaled == pytest.approx(1 / 0.9, abs=1e-4)
    output.sum().backward()
    torch.testing.assert_close(values.grad, output.detach())


def test_rate_one_drops_everything():
    assert not Dropout(1.0)(torch.ones(7)).any()


def test_prediction_drops_nothing():
    values = torch.rand(5)
    assert Dropout(0.5).eval()(values) is values


def test_replace_dropout_and_set_dropout():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Dropout(0.3)))
    replace_dropout(net)
    assert type(net[1][0]) is Dropout and net[1][0].p == 0.3
    set_dropout(net, 0.2)
    assert net[1][0].p == 0.2
