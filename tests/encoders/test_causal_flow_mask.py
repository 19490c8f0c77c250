"""Who sees whom in the causal-flow encoder: against the dense mask, far from the masks it could be taken for.

With weights of std 0.02 a causal mask is only about 1e-4 away and every test would pass; here they have std 0.3, and
the nearest wrong mask is 0.18 away.
"""

import pytest
import torch
from causal_flow_cases import (
    SIZES,
    bidirectional_queries_mask,
    causal_flow_mask,
    encoder_of,
    inputs_of,
    run,
    under_mask,
)
from helpers import relative_error

MARGIN = 0.1
MASKS = {
    "causal flow": causal_flow_mask,
    "bidirectional queries": bidirectional_queries_mask,
    "causal": lambda visual, queries: torch.ones(visual + queries, visual + queries).tril().bool(),
    "bidirectional": lambda visual, queries: torch.ones(visual + queries, visual + queries).bool(),
}
OURS = {"causal flow": True, "bidirectional queries": False}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", OURS)
def test_the_mask_is_the_defined_one_and_far_from_the_others(name, sizes):
    encoder, inputs = encoder_of(0.3, causal_queries=OURS[name]), inputs_of(sizes)
    with torch.no_grad():
        ours = run(encoder, *inputs)
        errors = {
            other: relative_error(ours, under_mask(encoder, *inputs, mask(*sizes))) for other, mask in MASKS.items()
        }
    # the angles are fp32 in ours
    assert errors.pop(name) < 1e-5
    assert all(error > MARGIN for error in errors.values()), errors


def test_the_masks_of_the_definition():
    assert causal_flow_mask(2, 3).int().tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]
    assert bidirectional_queries_mask(1, 2).int().tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("sizes", SIZES)
def test_a_query_changes_nothing_before_it_and_itself_and_all_later_ones(sizes):
    encoder, (visual, queries) = encoder_of(), inputs_of(sizes)
    with torch.no_grad():
        before = run(encoder, visual, queries)
        for index in {0, sizes[1] // 2, sizes[1] - 1}:
            other = queries.clone()
            other[:, index] += torch.randn_like(other[:, index])
            after = run(encoder, visual, other)
            assert torch.equal(after[:, :index], before[:, :index])
            assert ((after - before)[:, index:].abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("sizes", SIZES)
def test_a_bidirectional_query_changes_every_query(sizes):
    encoder, (visual, queries) = encoder_of(causal_queries=False), inputs_of(sizes)
    other = queries.clone()
    other[:, -1] += torch.randn_like(other[:, -1])
    with torch.no_grad():
        difference = run(encoder, visual, other) - run(encoder, visual, queries)
    assert (difference.abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("causal_queries", [True, False])
def test_visual_tokens_never_see_a_query_and_every_token_sees_all_of_them(causal_queries, sizes):
    encoder, (visual, queries) = encoder_of(causal_queries=causal_queries), inputs_of(sizes)
    ends = []
    encoder.trunk.register_forward_hook(lambda module, given, state: ends.append(state))
    first = visual.clone()
    first[:, 0] += torch.randn_like(first[:, 0])
    last = visual.clone()
    last[:, -1] += torch.randn_like(last[:, -1])
    with torch.no_grad():
        for pair in ((visual, queries), (visual, torch.randn_like(queries)), (first, queries), (last, queries)):
            run(encoder, *pair)
    count = sizes[0]
    assert torch.equal(ends[1][:, :count], ends[0][:, :count])
    assert relative_error(ends[1][:, count:], ends[0][:, count:]) > MARGIN
    for changed in ends[2:]:
        assert ((changed - ends[0]).abs().amax(-1) > 1e-4).all()
