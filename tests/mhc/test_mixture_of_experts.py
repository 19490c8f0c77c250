"""The mixture of experts against transformers' DeepSeek-OCR 2, with every load, dtype and code that runs here."""

from functools import partial

import pytest
import torch
from helpers import FP32, FP64, assert_close, gradients, random_like, randomise, relative_error
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mhc import Attention, Context, ManifoldHyperConnection, Trunk, build, describe, parameter_groups
from mhc import mixture_of_experts as module
from mhc.mixture_of_experts import MixtureOfExperts
from mhc.routing import load_balancing_loss, router_statistics

B, S, C, E, K, H = 2, 9, 16, 8, 3, 8
CODES = ["reference", "grouped_mm"]


def mixture(dtype: torch.dtype = torch.float64, **options) -> MixtureOfExperts:
    options = {"experts": E, "chosen": K, "hidden": H} | options
    return randomise(MixtureOfExperts(C, **options), 0.2).to(dtype)


def draw(dtype: torch.dtype = torch.float64, *shape: int) -> Tensor:
    return torch.randn(shape or (B, S, C), dtype=dtype, requires_grad=True)


def token_by_token(layer: MixtureOfExperts, x: Tensor) -> Tensor:
    """sum over the k largest p_e of p_e SwiGLU_e(z) + SwiGLU_shared(z)."""

    def swiglu(z: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return down @ ((gate @ z) * torch.sigmoid(gate @ z) * (up @ z))

    result = []
    for z in layer.norm(x).flatten(0, 1):
        p = torch.exp(layer.router.weight @ z) / torch.exp(layer.router.weight @ z).sum()
        y = sum(
            p[expert] * swiglu(z, *layer.gate_up[expert].split(layer.down.shape[2]), layer.down[expert])
            for expert in sorted(range(layer.experts), key=lambda expert: -p[expert].item())[: layer.chosen]
        )
        if layer.shared:
            y = y + swiglu(z, layer.shared_gate.weight, layer.shared_up.weight, layer.shared_down.weight)
        result.append(y)
    return torch.stack(result).view_as(x)


def results(layer: MixtureOfExperts, run, x: Tensor) -> dict[str, Tensor]:
    named = {"x": x} | dict(layer.named_parameters())
    output = run(x)
    return {"out": output.detach()} | dict(zip(named, gradients(output, list(named.values())), strict=True))


def oracle_of(layer: MixtureOfExperts) -> tuple[nn.Module, dict[str, Tensor]]:
    """transformers' layer with the same weights, and its parameters by our names; gate and up stand together."""
    configuration = pytest.importorskip("transformers.models.deepseek_ocr2.configuration_deepseek_ocr2")
    modeling = pytest.importorskip("transformers.models.deepseek_ocr2.modeling_deepseek_ocr2")
    config = configuration.DeepseekOcr2TextConfig(
        hidden_size=C,
        moe_intermediate_size=H,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        n_routed_experts=layer.experts,
        n_shared_experts=layer.shared,
        num_experts_per_tok=layer.chosen,
        mlp_layer_types=["sparse"],
        n_group=1,
        topk_group=1,
        topk_method="greedy",
    )
    config._experts_implementation = "eager"
    oracle = modeling.DeepseekOcr2TextMoe(config)
    names = {
        "router.weight": oracle.gate.weight,
        "gate_up": oracle.experts.gate_up_proj,
        "down": oracle.experts.down_proj,
        "shared_gate.weight": oracle.shared_experts.gate_proj.weight,
        "shared_up.weight": oracle.shared_experts.up_proj.weight,
        "shared_down.weight": oracle.shared_experts.down_proj.weight,
    }
    with torch.no_grad():
        for name, parameter in names.items():
            parameter.copy_(layer.get_parameter(name))
    return oracle, names


@pytest.mark.parametrize("impl", CODES)
@pytest.mark.parametrize("load", ["spread", "one takes all", "ties"])
def test_output_and_every_gradient_equal_transformers(impl, load):
    layer = mixture(torch.float32, impl=impl)
    if load == "one takes all":  # of a router that sees one direction, which every token has
        layer.norm = nn.LayerNorm(C)
        with torch.no_grad():
            layer.norm.bias.fill_(2.0)
            layer.router.weight.mul_(0.1)[5] += 1.0
    elif load == "ties":
        nn.init.zeros_(layer.router.weight)
    oracle, names = oracle_of(layer)
    x = draw(torch.float32)
    context = Context(routings=[])
    found = results(layer, partial(layer, context=context), x)
    counts = context.routings[0].chosen.flatten().bincount(minlength=E)
    if load == "one takes all":
        assert counts[5] == B * S
    named = {"x": x, "norm.weight": layer.norm.weight} | names
    expected = oracle(layer.norm(x))
    wanted = {"out": expected} | dict(zip(named, gradients(expected, list(named.values())), strict=True))
    assert_close({name: found[name] for name in wanted}, wanted, FP32)


@pytest.mark.parametrize("shared", [0, 1, 2])
@pytest.mark.parametrize(("experts", "chosen"), [(8, 3), (5, 5), (4, 1), (2, 1), (40, 2)])
def test_output_and_every_gradient_are_the_definition(experts, chosen, shared):
    layer = mixture(experts=experts, chosen=chosen, shared=shared)
    assert (shared > 0) == hasattr(layer, "shared_down")
    x = draw()
    assert_close(results(layer, layer, x), results(layer, partial(token_by_token, layer), x), FP64)


@pytest.mark.parametrize("impl", CODES)
def test_an_expert_without_tokens_changes_nothing_and_learns_nothing(impl):
    layer = mixture(torch.float32, impl=impl)
    with torch.no_grad():
        layer.router.weight[2] = layer.router.weight[[0, 1, 3, 4, 5, 6, 7]].mean(0)  # never above the mean of all
    x, context = draw(torch.float32), Context(routings=[])
    found = results(layer, partial(layer, context=context), x)
    assert not (context.routings[0].chosen == 2).any()
    assert not found["gate_up"][2].any()
    assert not found["down"][2].any()
    with torch.no_grad():
        layer.gate_up[2], layer.down[2] = torch.nan, torch.nan
    assert torch.equal(layer(x), found["out"])


@pytest.mark.parametrize("bias", [0.0, 30.0])
def test_no_token_is_dropped_whatever_the_load(bias, monkeypatch):
    layer = mixture(chosen=2, shared=0, norm=partial(nn.LayerNorm, eps=0.0))
    with torch.no_grad():
        layer.norm.bias.fill_(1.0)
        layer.router.weight[3:5] += bias / C
    multiplied, product = [], module.grouped_product

    def counting(rows: Tensor, weight: Tensor, ends: Tensor, **options: str) -> Tensor:
        multiplied.append(ends.diff(prepend=ends.new_zeros(1)))
        assert len(rows) == ends[-1]
        return product(rows, weight, ends, **options)

    monkeypatch.setattr(module, "grouped_product", counting)
    context = Context(routings=[])
    x = draw(torch.float64, 4, 500, C)
    result = layer(x, context)
    (routing,) = context.routings
    assert router_statistics(routing)["dropped"] == 0
    largest = router_statistics(routing)["largest_load"].item()
    assert largest == E / 2 if bias else largest < 3
    for rows in multiplied:
        assert torch.equal(rows, routing.chosen.flatten().bincount(minlength=E))
        assert rows.sum() == 4 * 500 * 2
    monkeypatch.undo()
    assert relative_error(result[2:3, 490:], token_by_token(layer, x[2:3, 490:])) < FP64


@pytest.mark.parametrize("impl", ["auto", *CODES])
@pytest.mark.parametrize("shape", [(0, S, C), (B, 0, C), (1, 1, C)])
def test_no_tokens_and_one(shape, impl):
    layer, x = mixture(torch.float32, impl=impl), draw(torch.float32, *shape)
    result = layer(x, Context(routings=[]))
    result.sum().backward()
    assert result.shape == x.grad.shape == shape
    assert layer.gate_up.grad.shape == layer.gate_up.shape
    assert layer.gate_up.grad.any() == (x.numel() > 0)


def test_the_gate_is_fp32_under_bf16_and_autocast():
    x = draw(torch.float32).detach()
    exact, narrow = mixture(torch.float32), mixture(torch.bfloat16)
    for layer, given, autocast in ((exact, x, True), (narrow, x.bfloat16(), False)):
        context = Context(routings=[])
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            result = layer(given, context)
            z = layer.norm(given)
        probabilities = context.routings[0].probabilities
        assert result.dtype == torch.bfloat16
        assert probabilities.dtype == torch.float32
        assert torch.equal(probabilities, (z.float() @ layer.router.weight.float().mT).softmax(-1))
        assert (probabilities.sum(-1) - 1).abs().max() < 1e-6  # bf16 would be 1e-3 off
        assert relative_error(result, layer.float()(given.float())) < 2e-2


@pytest.mark.parametrize("impl", CODES)
def test_gradients_under_autocast_are_those_of_fp32_to_bf16(impl):
    layer, x = mixture(torch.float32, impl=impl), draw(torch.float32)
    expected = results(layer, layer, x)

    def narrow(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return layer(x).float()

    found = results(layer, narrow, x)
    assert all(gradient.dtype == torch.float32 for gradient in found.values())
    assert_close(found, expected, 5e-2)


@pytest.mark.parametrize("every", [1, 3, "auto"])
def test_a_recomputed_trunk_has_the_same_gradients_and_routings(every):
    found = []
    for recompute in (None, every):
        torch.manual_seed(0)
        sublayers = [part for _ in range(2) for part in (Attention(C, heads=2), mixture())]
        trunk = Trunk(sublayers, (ManifoldHyperConnection(C, index) for index in range(4)), recompute=recompute)
        trunk = randomise(trunk, 0.2).double()
        x = torch.randn(B, S, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        context = Context(routings=[])
        y = trunk(x, context)
        assert [routing.index for routing in context.routings] == [1, 3]
        loss = sum(load_balancing_loss(routing) for routing in context.routings)
        named = {"x": x} | dict(trunk.named_parameters())
        upstream = [random_like(y), torch.ones_like(loss)]
        computed = torch.autograd.grad([y, loss], list(named.values()), upstream)
        assert len(context.routings) == 2
        found.append(dict(zip(named, computed, strict=True)) | {"out": y.detach()})
    assert_close(found[1], found[0], FP64)


def test_the_balancing_loss_reaches_the_router_alone_among_the_weights():
    layer, x, context = mixture(), draw(), Context(routings=[])
    layer(x, context)
    load_balancing_loss(context.routings[0]).backward()
    reached = {name for name, parameter in layer.named_parameters() if parameter.grad is not None}
    assert reached == {"router.weight", "norm.weight"}
    assert x.grad.any()
    assert layer(x, Context()).shape == x.shape  # nobody asks


def test_on_the_meta_device_shapes_and_flops_are_those_of_every_choice_computed():
    layer, x = mixture(torch.float32), draw(torch.float32)
    counts = {}
    for device in ("cpu", "meta"):
        layer, given = layer.to(device), x.detach().to(device).requires_grad_()
        layer.zero_grad(set_to_none=True)
        with FlopCounterMode(display=False) as counter:
            result = layer(given, Context(routings=[]))
        forward = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            result.backward(torch.ones_like(result))
        counts[device] = forward, counter.get_total_flops()
        assert result.shape == given.grad.shape == given.shape
        assert all(parameter.grad.shape == parameter.shape for parameter in layer.parameters())
    forward = 2 * B * S * C * (E + 3 * H * (K + 2))
    assert counts == {"cpu": (forward, 2 * forward), "meta": (forward, 2 * forward)}


def test_it_is_built_on_the_meta_device_at_full_size():
    with torch.device("meta"):
        layer = MixtureOfExperts(1280)
    count = sum(parameter.numel() for parameter in layer.parameters())
    assert count == 1280 * 64 + 64 * 3 * 896 * 1280 + 3 * 1792 * 1280 + 1280


def test_it_compiles_to_one_graph_around_torchs_kernel():
    layer = mixture(torch.bfloat16, impl="grouped_mm")
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = draw(torch.bfloat16)
    assert_close(results(layer, compiled, x), results(layer, layer, x), 1e-2)


def test_weights_start_as_documented():
    layer = MixtureOfExperts(64, experts=16, chosen=2, hidden=48, shared=3)
    for std, output_std in ((0.02, 0.02), (0.5, 0.1)):
        if std != 0.02:
            layer.initialise(std, output_std)
        for name, parameter in layer.named_parameters():
            if name == "norm.weight":
                assert (parameter == 1).all()
                continue
            expected = output_std if name in ("down", "shared_down.weight") else std
            assert parameter.std().item() == pytest.approx(expected, rel=0.1), name
            assert abs(parameter.mean().item()) < 4 * expected / parameter.numel() ** 0.5


def test_names_and_shapes_are_those_that_checkpoints_map_to():
    layer = MixtureOfExperts(C, experts=E, chosen=K, hidden=H, shared=2)
    assert {name: tuple(parameter.shape) for name, parameter in layer.state_dict().items()} == {
        "norm.weight": (C,),
        "router.weight": (E, C),
        "gate_up": (E, 2 * H, C),
        "down": (E, C, H),
        "shared_gate.weight": (2 * H, C),
        "shared_up.weight": (2 * H, C),
        "shared_down.weight": (C, 2 * H),
    }
    decaying, others = parameter_groups(layer)
    assert len(decaying["params"]) == 6
    assert others["params"] == [layer.norm.weight]


def test_it_can_be_written_down_and_built_again():
    layer = MixtureOfExperts(C, experts=E, chosen=K, hidden=H, shared=1, norm=partial(nn.LayerNorm, eps=1e-3))
    again = build(describe(layer))
    assert describe(again) == describe(layer)
    again.load_state_dict(layer.state_dict())
    x = draw(torch.float32)
    assert torch.equal(again(x), layer(x))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"chosen": 0}, "chosen must be from 1 to experts = 8, got 0"),
        ({"chosen": 9}, "chosen must be from 1 to experts = 8, got 9"),
        ({"shared": -1}, "shared must not be negative"),
    ],
)
def test_sizes_that_do_not_fit_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        mixture(**options)


def test_a_code_that_cannot_run_raises():
    with pytest.raises(RuntimeError, match="impl='grouped_mm' needs"):
        mixture(impl="grouped_mm")(draw())
    with pytest.raises(ValueError, match="impl must be"):
        mixture(impl="fast")(draw())
