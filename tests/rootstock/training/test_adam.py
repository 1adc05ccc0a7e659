import numpy as np
import pytest
import torch
from thinc.api import SGD, Adam, RAdam

from rootstock.training.adam import step

SHAPE = (40, 7)
OPTIMIZERS = {
    "weight decay, clipped": lambda: Adam(0.01, L2=0.1, grad_clip=1.0, use_averages=False),
    "no weight decay": lambda: Adam(0.01, L2=0.0, grad_clip=0.0, use_averages=False),
    "another epsilon": lambda: Adam(0.01, L2=0.01, eps=1e-3, use_averages=False),
    "L2 in the gradient": lambda: Adam(0.01, L2=0.1, L2_is_weight_decay=False, use_averages=False),
    "averages": lambda: Adam(0.01, use_averages=True),
    "RAdam": lambda: RAdam(0.01, use_averages=False),
    "SGD": lambda: SGD(0.01, use_averages=False),
}


def gradients(n):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(SHAPE, generator=generator) * (1.0 if i % 3 else 0.01) for i in range(n)]


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_steps_equal_thincs(make):
    ours, theirs = make(), make()
    weights = torch.nn.Parameter(torch.ones(SHAPE))
    expected = np.ones(SHAPE, "float32")
    for gradient in gradients(20):
        weights.grad = gradient.clone()
        step(ours, [((1, "W"), weights, 0.5)])
        expected, _ = theirs((1, "W"), expected, gradient.numpy().copy(), lr_scale=0.5)
        assert weights.grad is None
    np.testing.assert_allclose(weights.detach(), expected, atol=2e-6)
    assert not np.allclose(weights.detach(), 1)


def test_moments_are_stored_in_the_optimizer_for_each_parameter():
    optimizer = OPTIMIZERS["no weight decay"]()
    one, other = (torch.nn.Parameter(torch.zeros(SHAPE)) for _ in range(2))
    for weights, name in ((one, "a"), (one, "a"), (other, "b")):
        weights.grad = torch.ones(SHAPE)
        step(optimizer, [((1, name), weights, 1.0)])
    assert optimizer.nr_update == {(1, "a"): 2, (1, "b"): 1}
    assert float(optimizer.mom1[1, "a"][0]) == pytest.approx(0.19)
    assert float(optimizer.mom1[1, "b"][0]) == pytest.approx(0.1)


def sparse(gradient, rows):
    return torch.sparse_coo_tensor(torch.tensor([rows]), gradient[rows], SHAPE, check_invariants=True)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_a_sparse_gradient_of_all_rows_equals_a_dense_one(make):
    one, other = (torch.nn.Parameter(torch.ones(SHAPE)) for _ in range(2))
    ours, theirs = make(), make()
    for gradient in gradients(5):
        one.grad, other.grad = sparse(gradient, list(range(SHAPE[0]))), gradient.clone()
        step(ours, [((1, "E"), one, 1.0)])
        step(theirs, [((1, "E"), other, 1.0)])
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_a_sparse_step_updates_only_its_rows_and_sums_duplicates():
    optimizer = OPTIMIZERS["weight decay, clipped"]()
    table, other = torch.nn.Parameter(torch.ones(SHAPE)), torch.nn.Parameter(torch.ones(SHAPE))
    [gradient] = gradients(1)
    table.grad = sparse(gradient, [3, 5, 3])
    step(optimizer, [((1, "E"), table, 1.0)])
    dense = torch.zeros(SHAPE)
    dense[3], dense[5] = 2 * gradient[3], gradient[5]
    other.grad = dense
    step(OPTIMIZERS["weight decay, clipped"](), [((1, "E"), other, 1.0)])
    torch.testing.assert_close(table[[3, 5]], other[[3, 5]])
    assert sorted(set((table != 1).nonzero()[:, 0].tolist())) == [3, 5]


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_grouped_steps_equal_separate_steps(make):
    grouped, separate = ([torch.nn.Parameter(torch.ones(SHAPE)) for _ in range(4)] for _ in range(2))
    rates, optimizer, other_optimizer = [1.0, 1.0, 0.5, 1.0], make(), make()
    for n, gradient in enumerate(gradients(6)):
        for parameters in (grouped, separate):
            parameters[0].grad, parameters[1].grad = gradient.clone(), gradient / 100
            parameters[2].grad = sparse(gradient, [3, 5, 3])
            parameters[3].grad = gradient.clone() if n > 2 else None  # it has a different step number
        step(optimizer, [((1, str(i)), weights, rates[i]) for i, weights in enumerate(grouped)])
        for i, weights in enumerate(separate):
            step(other_optimizer, [((1, str(i)), weights, rates[i])])
    assert all(torch.equal(one, other) for one, other in zip(grouped, separate, strict=True))
    assert not any((weights == 1).all() for weights in grouped)
    assert optimizer.nr_update == other_optimizer.nr_update
