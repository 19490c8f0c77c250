"""A recomputed trunk: the plain trunk's gradients, every branch run once, memory by the formula, compile and FSDP2."""

import gc
import os
import subprocess
import sys
import weakref
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import FP64, assert_close, gradients, randomise
from models import TOPOLOGIES, language_model, tokens
from test_seam import CASES
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mhc import Attention, CausalLanguageModel, Context, FeedForward, ManifoldHyperConnection, RMSNorm, SwiGLU, Trunk
from mhc.recompute import best_interval

B, S, C, DEPTH = 2, 5, 12, 6
KINDS = TOPOLOGIES | {name: kind for name, (kind, _) in CASES.items()}
EVERY = [1, 2, 4, 6, 9, "auto"]


def trunk_of(kind, every=None, depth=DEPTH, width=C, dtype=torch.float64) -> Trunk:
    torch.manual_seed(0)
    sublayers = [m for _ in range(depth // 2) for m in (Attention(width, heads=3), SwiGLU(width, hidden=2 * width))]
    trunk = Trunk(sublayers, (kind(width, index) for index in range(depth)), recompute=every)
    return randomise(trunk, 0.4).to(dtype)


def result(run, trunk: Trunk, dtype=torch.float64) -> dict[str, Tensor]:
    x = torch.randn(B, S, trunk.sublayers[0].norm.weight.numel(), generator=torch.Generator().manual_seed(1)).to(dtype)
    parameters = {"x": x.requires_grad_()} | {name: p for name, p in trunk.named_parameters() if reached(name)}
    output = run(x)
    return {"out": output.detach()} | dict(zip(parameters, gradients(output, list(parameters.values())), strict=True))


def reached(name: str) -> bool:
    return name not in ("topologies.0.query", "topologies.0.norm.weight")  # of attention residuals


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("every", EVERY)
def test_gradients_are_the_plain_trunks_to_the_last_bit(name, every):
    plain, rebuilt = (trunk_of(KINDS[name], recompute) for recompute in (None, every))
    expected, actual = result(plain, plain), result(rebuilt, rebuilt)
    for key in expected:
        assert torch.equal(actual[key], expected[key]), key


def test_an_exit_sees_the_last_state():
    trunks = [trunk_of(ManifoldHyperConnection, every) for every in (None, 2)]
    for trunk in trunks:
        trunk.exit = lambda state: state[..., 1, :] * state[..., 0, :]
    expected, actual = (result(trunk, trunk) for trunk in trunks)
    assert_close(actual, expected, FP64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_dtypes_and_autocast(dtype):
    for autocast in (False, True):
        found = []
        for every in (None, 4):
            trunk = trunk_of(ManifoldHyperConnection, every, dtype=dtype)

            def run(x, trunk=trunk, autocast=autocast):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    return trunk(x)

            found.append(result(run, trunk, dtype))
        for key in found[0]:
            assert torch.equal(found[0][key], found[1][key]), (autocast, key)


def test_combine_aggregate_is_what_runs_in_the_rebuild_too():
    class Fused(ManifoldHyperConnection):
        calls = 0

        def combine_aggregate(self, state, y, carry, following):
            Fused.calls += 1
            return super().combine_aggregate(state, y, carry, following)

    trunk = trunk_of(Fused, 3)
    output = trunk(torch.randn(B, S, C, dtype=torch.float64))
    assert Fused.calls == DEPTH - 1
    output.sum().backward()
    assert Fused.calls == 2 * (DEPTH - 1)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="Triton does not interpret here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_kernels_that_join_neighbours(dtype):
    kind = partial(ManifoldHyperConnection, impl="triton", sinkhorn_steps=2)
    expected, actual = (
        result(trunk, trunk, dtype) for trunk in (trunk_of(kind, every, 4, dtype=dtype) for every in (None, 2))
    )
    # a segment begins with an aggregate of its own, which rounds in another order than the joined one
    assert_close(actual, expected, 1e-4 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("name", KINDS)
def test_no_branch_runs_twice_and_norms_do(name):
    trunk = trunk_of(KINDS[name], 4)
    calls = Counter()
    for index, sublayer in enumerate(trunk.sublayers):
        for path, module in sublayer.named_modules():
            module.register_forward_hook(lambda *_, key=(index, path): calls.update([key]))
    for step in (1, 2):
        trunk(torch.randn(B, S, C, dtype=torch.float64, requires_grad=True)).sum().backward()
        assert {calls[key] for key in calls if key[1] != "norm"} == {step}
        assert {calls[key] for key in calls if key[1] == "norm"} == {2 * step}


def test_a_second_backward_through_a_kept_graph():
    plain, rebuilt = trunk_of(ManifoldHyperConnection), trunk_of(ManifoldHyperConnection, 2)
    expected = result(plain, plain)
    x = torch.randn(B, S, C, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    output = rebuilt(x)
    for keep in (True, False):
        (actual,) = torch.autograd.grad(output, x, gradient_of(output), retain_graph=keep)
        assert torch.equal(actual, expected["x"])


def gradient_of(output: Tensor) -> Tensor:
    return torch.randn(output.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def test_frozen_parts():
    def frozen(every):
        trunk = trunk_of(ManifoldHyperConnection, every)
        trunk.sublayers[:3].requires_grad_(False)
        trunk.topologies[:3].requires_grad_(False)
        return trunk

    found = []
    for every in (None, 2):
        trunk = frozen(every)
        output = trunk(torch.ones(B, S, C, dtype=torch.float64) * torch.arange(C))
        output.backward(gradient_of(output))
        found.append({name: p.grad for name, p in trunk.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_without_gradients_nothing_is_kept_and_observers_look_on():
    trunk = trunk_of(ManifoldHyperConnection, 2)
    seen = []
    x = torch.randn(B, S, C, dtype=torch.float64)
    with torch.no_grad():
        expected = trunk(x)
    output = trunk(x, Context(observe=lambda *given: seen.append(given[0])))
    assert torch.equal(output, expected)
    assert seen == list(range(DEPTH))


def test_a_graph_without_a_backward_is_freed():
    trunk = trunk_of(ManifoldHyperConnection, 2)
    states = []
    context = Context(observe=lambda index, topology, state, carry: states.append(weakref.ref(state)))
    output = trunk(torch.randn(B, S, C, dtype=torch.float64), context)
    gc.disable()
    try:
        del output
        assert [state() for state in states] == [None] * DEPTH
    finally:
        gc.enable()


# --- memory ---


class Live(TorchDispatchMode):
    """Bytes of the storages made under it that are alive, now and at most."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.now = self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for tensor in results if isinstance(results, (tuple, list)) else (results,):
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            if storage is not None and storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.free, storage._cdata)
        return results

    def free(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


class Thin(nn.Module):
    """A branch that saves nothing but its norm's output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x, context=None):
        return self.output(self.norm(x))


def memory(every, sublayers: int, streams: int) -> tuple[float, float]:
    """(kept after the forward, most in the backward) in units of tokens x C."""
    width, length = 512, 100
    topology = partial(ManifoldHyperConnection, streams=streams)
    trunk = Trunk(
        (Thin(width) for _ in range(sublayers)), (topology(width, k) for k in range(sublayers)), recompute=every
    )
    x = torch.randn(1, length, width, requires_grad=True)
    trunk(x).sum().backward()  # from here on parameters have gradients, which are not the streams'
    with Live(x, x.grad, *trunk.parameters(), *(parameter.grad for parameter in trunk.parameters())) as live:
        output = trunk(x)
        kept = live.now
        live.most = 0
        output.sum().backward()
    unit = x.untyped_storage().nbytes()
    return kept / unit, live.most / unit


@pytest.mark.parametrize(("sublayers", "streams", "every"), [(60, 4, "auto"), (60, 4, 3), (60, 4, 12), (30, 8, "auto")])
def test_memory_is_the_formulas(sublayers, streams, every):
    kept, most = memory(every, sublayers, streams)
    interval = best_interval(sublayers, streams) if every == "auto" else every
    states = streams * -(-sublayers // interval)
    assert kept == pytest.approx(states + sublayers, rel=0.1)
    assert most == pytest.approx(states + (streams + 2) * interval + sublayers, rel=0.1)
    _, plain = memory(None, sublayers, streams)
    assert most < plain / 2.5


@pytest.mark.parametrize(("sublayers", "streams"), [(60, 4), (24, 4), (48, 8), (12, 2), (1, 4), (100, 1)])
def test_auto_is_near_the_root(sublayers, streams):
    interval = best_interval(sublayers, streams)
    assert abs(interval - (streams * sublayers / (streams + 2)) ** 0.5) <= 1
    if (sublayers, streams) == (60, 4):
        assert interval == 6


# --- with others ---


def test_compiled_sublayers():
    found = []
    for every in (None, 4):
        trunk = trunk_of(ManifoldHyperConnection, every)
        for sublayer in trunk.sublayers:
            sublayer.compile(backend="aot_eager", fullgraph=True)
        found += [result(trunk, trunk) for _ in range(2)]
    for actual in found[1:]:
        assert_close(actual, found[0], FP64)


def test_a_compiled_trunk_breaks_its_graph_at_the_loop():
    trunk = trunk_of(ManifoldHyperConnection, 4)
    expected = result(trunk, trunk)
    for _ in range(2):
        assert_close(result(torch.compile(trunk, backend="aot_eager"), trunk), expected, FP64)


def test_checkpoint_within_a_branch():
    class Checkpointed(FeedForward):
        def forward(self, x, context=None):
            return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=False)

    found = []
    for every in (None, 2):
        torch.manual_seed(0)
        sublayers = [Checkpointed(C, hidden=2 * C) for _ in range(DEPTH)]
        trunk = Trunk(sublayers, (ManifoldHyperConnection(C, k) for k in range(DEPTH)), recompute=every).double()
        found.append(result(trunk, trunk))
    assert_close(found[1], found[0], FP64)


def test_the_language_model_takes_it():
    model = language_model(ManifoldHyperConnection)
    arguments = {"attention": partial(Attention, heads=4), "feed_forward": partial(SwiGLU, hidden=8)}
    rebuilt = CausalLanguageModel(9, 8, 2, topology=ManifoldHyperConnection, recompute="auto", **arguments)
    assert rebuilt.trunk.recompute == "auto"
    assert model.trunk.recompute is None
    assert rebuilt(tokens() % 9).shape == (*tokens().shape, 9)
    assert rebuilt.generate(tokens() % 9, 2).shape == (2, 13)


FSDP = """
import copy, sys, torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.device_mesh import init_device_mesh
import torch.multiprocessing as mp
from mhc import Attention, ManifoldHyperConnection, SwiGLU, Trunk

def main(rank, path):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    subs = [m for _ in range(3) for m in (Attention(16, heads=2), SwiGLU(16, hidden=32))]
    plain = Trunk(subs, [ManifoldHyperConnection(16, k) for k in range(6)]).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    results = []
    for every in (None, 2):
        trunk = copy.deepcopy(plain)
        trunk = Trunk(trunk.sublayers, trunk.topologies, recompute=every)
        for sublayer in trunk.sublayers:
            fully_shard(sublayer, mesh=mesh)
        fully_shard(trunk, mesh=mesh, reshard_after_forward=False)
        for step in range(2):
            trunk(x[rank : rank + 1]).square().mean().backward()
        results.append({name: p.grad.to_local().clone() for name, p in trunk.named_parameters()})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert any(gradient.abs().max() > 0 for gradient in results[1].values() if gradient.numel())
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.spawn(main, (sys.argv[1],), nprocs=2)
"""


@pytest.mark.distributed
def test_sharded_by_fsdp2(tmp_path):
    script = tmp_path / "sharded.py"
    script.write_text(FSDP)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path / "store")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


# --- what is refused ---


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "all"])
def test_bad_input(wrong):
    with pytest.raises(ValueError, match="recompute must be None, 'auto' or a number of sublayers"):
        trunk_of(ManifoldHyperConnection, wrong)


def test_a_topology_that_changes_its_mind_is_an_error():
    class Fickle(ManifoldHyperConnection):
        calls = 0

        def combine(self, state, y, carry):
            self.calls += 1
            return super().combine(state, y, carry) * (1.0 if self.calls > 1 else carry.post[..., None])

    output = trunk_of(Fickle, 2)(torch.randn(B, S, C, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="did not do in the backward what it did in the forward"):
        output.sum().backward()


def test_a_saved_tensor_that_is_written_to_is_an_error():
    class Writes(FeedForward):
        def forward(self, x, context=None):
            hidden = self.up(self.norm(x))
            squared = hidden * hidden
            with torch.no_grad():
                hidden += 1
            return self.down(squared)

    trunk = Trunk([Writes(C, hidden=C)], [ManifoldHyperConnection(C)], recompute=1)
    output = trunk(torch.randn(B, S, C))
    with pytest.raises(RuntimeError, match="modified in place"):
        output.sum().backward()
