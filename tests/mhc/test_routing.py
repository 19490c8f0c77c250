"""The load-balancing loss and the statistics of a router against their definitions, token by token."""

import math

import pytest
import torch
from helpers import FP64, random_like, relative_error
from torch import Tensor

from mhc.routing import Routing, load_balancing_loss, router_statistics

B, S, E, K = 3, 7, 5, 2
LENGTHS = [7, 4, 1]
MASK = torch.arange(S) < torch.tensor(LENGTHS)[:, None]


def routing(dtype: torch.dtype = torch.float64) -> Routing:
    probabilities = (2 * torch.randn(B, S, E, dtype=dtype)).softmax(-1).requires_grad_()
    return Routing(3, probabilities, probabilities.topk(K, sorted=False).indices)


def loss_of(tokens: list[tuple[Tensor, list[int]]]) -> Tensor:
    """sum_e [count_e / (T k / E)] mean_t p_e over (probabilities, chosen) of tokens."""
    total = torch.zeros((), dtype=torch.float64)
    for expert in range(E):
        count = sum(chosen.count(expert) for _, chosen in tokens)
        mean = sum(probabilities[expert] for probabilities, _ in tokens) / len(tokens)
        total = total + count / (len(tokens) * K / E) * mean
    return total


def rows(routed: Routing, lengths: list[int]) -> list[list[tuple[Tensor, list[int]]]]:
    return [
        [(routed.probabilities[b, s], routed.chosen[b, s].tolist()) for s in range(length)]
        for b, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("per", ["sequence", "batch"])
def test_loss_and_its_gradient_are_the_definition_and_padding_is_left_out(per, masked):
    routed = routing()
    sequences = rows(routed, LENGTHS if masked else [S] * B)
    if per == "sequence":
        expected = sum(loss_of(sequence) for sequence in sequences) / B
    else:
        expected = loss_of([token for sequence in sequences for token in sequence])
    found = load_balancing_loss(routed, per=per, mask=MASK if masked else None)
    assert relative_error(found, expected) < FP64
    gradients = [torch.autograd.grad(loss, routed.probabilities)[0] for loss in (found, expected)]
    assert relative_error(*gradients) < FP64
    assert not masked or not gradients[0][~MASK].any()


def test_sequence_and_batch_differ_where_sequences_balance_each_other():
    chosen = torch.tensor([0, 1])[:, None, None].expand(2, S, 1)
    routed = Routing(0, torch.nn.functional.one_hot(chosen[..., 0], 2).double(), chosen)
    assert load_balancing_loss(routed, per="sequence").item() == 2.0
    assert load_balancing_loss(routed, per="batch").item() == 1.0


@pytest.mark.parametrize("per", ["sequence", "batch"])
def test_balance_is_1_and_collapse_is_experts_over_chosen(per):
    turns = (torch.arange(E * K).view(E, K) % E).expand(B, E, K)
    even = Routing(0, torch.full((B, E, E), 1 / E, dtype=torch.float64), turns)
    assert relative_error(load_balancing_loss(even, per=per), torch.tensor(1.0)) < FP64
    sure = torch.tensor([0.5, 0.5, 0, 0, 0], dtype=torch.float64).expand(B, S, E)
    collapsed = Routing(0, sure, torch.tensor([1, 0]).expand(B, S, K))
    assert relative_error(load_balancing_loss(collapsed, per=per), torch.tensor(E / K)) < FP64


def test_a_sequence_of_padding_alone_does_not_count_and_no_tokens_are_0():
    routed = routing()
    mask = MASK.clone()
    mask[2] = False
    without = Routing(0, routed.probabilities[:2], routed.chosen[:2])
    assert relative_error(load_balancing_loss(routed, mask=mask), load_balancing_loss(without, mask=MASK[:2])) < FP64
    for per in ("sequence", "batch"):
        assert load_balancing_loss(routed, per=per, mask=torch.zeros(B, S, dtype=torch.bool)).item() == 0
        empty = Routing(0, torch.zeros(B, 0, E), torch.zeros(B, 0, K, dtype=torch.int64))
        assert load_balancing_loss(empty, per=per).item() == 0
    assert all(math.isfinite(value) for value in router_statistics(empty).values())


@pytest.mark.parametrize("masked", [False, True])
def test_statistics_are_their_definitions(masked):
    routed = routing()
    tokens = [token for row in rows(routed, LENGTHS if masked else [S] * B) for token in row]
    share = torch.tensor([sum(chosen.count(expert) for _, chosen in tokens) for expert in range(E)]).double()
    share = share / (len(tokens) * K / E)
    p = torch.stack([probabilities for probabilities, _ in tokens]).detach()
    mean = p.mean(0)
    expected = {
        "largest_load": share.max(),
        "smallest_load": share.min(),
        "load_variation": (share - 1).square().mean().sqrt(),
        "entropy_of_mean": -(mean * mean.log()).sum(),
        "mean_entropy": -(p * p.log()).sum(-1).mean(),
        "dropped": torch.zeros(()),
    }
    found = router_statistics(routed, MASK if masked else None)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.shape == ()
        assert not value.requires_grad
        assert relative_error(value, expected[name]) < FP64, name


def test_what_no_expert_took_is_counted_as_dropped():
    routed = routing(torch.float32)
    chosen = routed.chosen.clone()
    chosen[0, :3, 1] = -1
    chosen[1, 5, 0] = E  # padding under the mask
    dropping = Routing(0, routed.probabilities, chosen)
    assert router_statistics(dropping)["dropped"].item() == pytest.approx(4 / (B * S * K))
    assert router_statistics(dropping, MASK)["dropped"].item() == pytest.approx(3 / (sum(LENGTHS) * K))


def test_a_probability_of_zero_has_no_entropy():
    sure = torch.nn.functional.one_hot(torch.zeros(1, 4, dtype=torch.int64), E).float()
    statistics = router_statistics(Routing(0, sure, torch.zeros(1, 4, 1, dtype=torch.int64)))
    assert statistics["mean_entropy"] == statistics["entropy_of_mean"] == 0
    assert statistics["largest_load"] == E
    assert statistics["smallest_load"] == 0


def test_a_gradient_step_on_the_loss_balances_a_router():
    logits = (3 * torch.randn(1, 64, E)).add_(torch.tensor([4.0, 2, 0, 0, 0])).requires_grad_()

    def routed() -> Routing:
        probabilities = logits.softmax(-1)
        return Routing(0, probabilities, probabilities.topk(K).indices)

    before = load_balancing_loss(routed())
    for _ in range(200):
        (gradient,) = torch.autograd.grad(load_balancing_loss(routed()), logits)
        with torch.no_grad():
            logits -= 20 * gradient
    assert before > 1.3
    assert load_balancing_loss(routed()) < 1.05


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"per": "token"}, "per must be"), ({"mask": torch.ones(B, S + 1)}, r"mask must be \[B, S\] = \[3, 7\]")],
)
def test_wrong_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        load_balancing_loss(routing(), **arguments)


def test_a_loss_can_be_weighted_by_its_caller():
    routed = routing()
    alpha = random_like(torch.zeros(()))
    (gradient,) = torch.autograd.grad(alpha * load_balancing_loss(routed), routed.probabilities)
    (unit,) = torch.autograd.grad(load_balancing_loss(routed), routed.probabilities)
    assert relative_error(gradient, alpha * unit) < FP64


def test_autocast_narrows_nothing():
    made = Routing(0, torch.rand(2, 50, 8).softmax(-1), torch.randint(8, (2, 50, 3)))
    expected = [load_balancing_loss(made, per=per) for per in ("sequence", "batch")]
    statistics = router_statistics(made)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [load_balancing_loss(made, per=per) for per in ("sequence", "batch")]
        assert torch.equal(torch.stack(found), torch.stack(expected))
        assert {name: (value.dtype, float(value)) for name, value in router_statistics(made).items()} == {
            name: (value.dtype, float(value)) for name, value in statistics.items()
        }
