import pytest
import torch

from rootstock.encoder.kernels.dropout import Dropout, draw, replace_dropout, set_dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [1e-9, 0.1, 0.5, 0.99999, 1.0])
def test_the_share_that_is_kept(rate, dtype):
    torch.manual_seed(0)
    kept = draw(torch.empty(3, 133_333, dtype=dtype), rate)
    assert kept.shape == (3, 133_333) and kept.dtype == dtype
    assert set(kept.unique().tolist()) <= {0, 1}
    assert float(kept.float().mean()) == pytest.approx(1 - rate, abs=0.003)


def test_each_number_is_drawn_for_itself():
    torch.manual_seed(0)
    kept = draw(torch.empty(400_000), 0.5)
    for distance in (1, 2, 3, 4):  # four share a draw of 64 bits
        assert float((kept[:-distance] == kept[distance:]).float().mean()) == pytest.approx(0.5, abs=0.003)


def test_what_is_left_is_raised_and_the_gradient_too():
    torch.manual_seed(0)
    values = torch.ones(1000, 30, requires_grad=True)
    found = Dropout(0.1)(values)
    zero, raised = found.unique().tolist()
    assert zero == 0 and raised == pytest.approx(1 / 0.9, abs=1e-4)
    found.sum().backward()
    torch.testing.assert_close(values.grad, found.detach())


def test_all_of_it_can_be_dropped():
    assert not Dropout(1.0)(torch.ones(7)).any()


def test_prediction_drops_nothing():
    values = torch.rand(5)
    assert Dropout(0.5).eval()(values) is values


def test_the_layers_of_a_network_are_replaced_and_set():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Dropout(0.3)))
    replace_dropout(net)
    assert type(net[1][0]) is Dropout and net[1][0].p == 0.3
    set_dropout(net, 0.2)
    assert net[1][0].p == 0.2
