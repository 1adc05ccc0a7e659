from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rootstock.pieces.packing import pack, padding_efficiency
from tests import soak

lengths = st.lists(st.integers(1, 600), max_size=80).map(lambda values: np.array(values, int))


@soak.fuzz("packing", many=3000)
@given(lengths, st.integers(1, 3000))
def test_packs_contain_each_window_once_within_the_budget(lengths, budget):
    packs = list(pack(lengths, budget))
    assert sorted(i for p in packs for i in p.tolist()) == list(range(len(lengths)))
    for p in packs:
        assert len(p) == 1 or lengths[p].max() * len(p) <= budget
    in_order = [n for p in packs for n in lengths[p].tolist()]
    assert in_order == sorted(in_order, reverse=True)


@soak.fuzz("packing", many=3000)
@given(lengths, st.integers(1, 3000))
def test_without_padding_packs_are_filled_up_to_the_budget(lengths, budget):
    packs = list(pack(lengths, budget, padded=False))
    assert sorted(i for p in packs for i in p.tolist()) == list(range(len(lengths)))
    for p, following in pairwise(packs):
        assert len(p) == 1 or lengths[p].sum() <= budget
        assert lengths[p].sum() + lengths[following[0]] > budget


@soak.fuzz("packing", many=3000)
@given(lengths, st.integers(1, 3000))
def test_padding_efficiency_is_one_for_equal_lengths(lengths, budget):
    efficiency = padding_efficiency(lengths, budget)
    assert 0 < efficiency <= 1
    if len(set(lengths.tolist())) <= 1:
        assert efficiency == 1


def test_sorting_leaves_little_padding():
    mixed = np.array([5, 60] * 100)
    computed = sum(mixed[p].max() * len(p) for p in pack(mixed, 3000))
    assert mixed.sum() > 0.95 * computed
