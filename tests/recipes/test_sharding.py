"""FSDP2 on one process: sharded modules compute what the others do; with fp32 weights under a bf16 step."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from helpers import randomise
from small_ocr import module, node
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from encoders.views import ImageBatch, Views
from mhc import build, describe, load_balancing_loss
from recipes.data.page_batch import PageBatch
from recipes.modules.lora import merged_weights
from recipes.modules.ocr import OCR
from recipes.modules.optimization import cross_entropy
from recipes.precision import MasterWeights

TOPOLOGIES = (
    "Residual",
    "HyperConnection",
    "ManifoldHyperConnection",
    "PermutationHyperConnection",
    "KroneckerHyperConnection",
    "IdentityHyperConnection",
)

pytestmark = pytest.mark.filterwarnings("ignore:.*returned a view tensor.*")


@pytest.fixture(scope="module", autouse=True)
def _group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def ocr(
    sharded: bool = False, trainer: SimpleNamespace | None = None, topology: str = "ManifoldHyperConnection", **changes
) -> OCR:
    mixes = {} if topology == "Residual" else {"init_args": {"streams": 2}}
    made = {"class_path": f"mhc.{topology}"} | mixes
    parts = {f"init_args__{part}__init_args__topology": made for part in ("encoder", "decoder")} | changes
    torch.manual_seed(0)
    found = module(randomise(build(node(**parts, init_args__decoder__init_args__recompute="auto")), 0.1))
    found._trainer = trainer
    if sharded:
        found._device_mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
        found.configure_model()
    return found


def batch() -> PageBatch:
    """A page with two crops, and one without."""
    torch.manual_seed(1)
    rows = [([0, *[259] * 25, *range(30, 42), 1], 28), ([0, *[259] * 17, *range(50, 58), 1], 20)]
    return PageBatch.collate(rows, ImageBatch(torch.randn(2, 3, 64, 64), torch.randn(2, 3, 32, 32), (2, 0)), 2)


def read(found: OCR) -> torch.Tensor:
    one = batch()
    images = ImageBatch(one.pages[1:], None, (0,))
    return found.network.generate(one.tokens[1:, :20], images, max_new_tokens=4)


def loss(found: OCR) -> torch.Tensor:
    """As in a training step, with the load balancing alone that reaches the routers by far the most."""
    one, routings = batch(), []
    entropy = cross_entropy(found._read(one, routings=routings), one.labels)
    (routing,) = routings
    return entropy + load_balancing_loss(routing, mask=one.mask)


def gradients(found: OCR) -> dict[str, torch.Tensor]:
    found.zero_grad()
    loss(found).backward()
    return {name: whole(weight.grad) for name, weight in found.network.named_parameters()}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def masters() -> SimpleNamespace:
    """As much of a trainer as a module asks for."""
    return SimpleNamespace(precision_plugin=MasterWeights(), world_size=1)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_gradient_is_that_of_the_whole_module(topology):
    expected, found = (gradients(ocr(sharded=sharded, topology=topology)) for sharded in (False, True))
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        # sums may be taken in another order, for shards lie elsewhere in memory
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_what_is_written_down_and_counted_is_the_same():
    plain, sharded = ocr(), ocr(sharded=True)
    assert describe(sharded.network) == describe(plain.network)
    views = Views(global_size=64, crop_size=32, max_crops=2)
    assert sharded.budget(40, views) == plain.budget(40, views)
    state = dict(merged_weights(sharded.network))
    for name, weight in plain.network.state_dict().items():
        assert torch.equal(state[name], weight), name


def test_reading_gives_the_same_and_leaves_training_alone():
    plain, sharded = ocr(), ocr(sharded=True)
    # before anything else has gathered the weights
    assert torch.equal(read(sharded), read(plain))
    found = gradients(sharded)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)
    assert torch.equal(read(sharded), read(plain))


@pytest.mark.parametrize("topology", TOPOLOGIES[1:])
def test_masters_are_fp32_and_the_step_is_bf16(topology):
    seen = set()

    def look(index, topology, state, carry):
        mixing = {parameter.dtype for parameter in topology.parameters()}
        seen.add((state.dtype, *mixing))

    exact, found = ocr(topology=topology), ocr(sharded=True, trainer=masters(), topology=topology)
    found.probe(batch(), look)
    assert seen == {(torch.bfloat16, torch.float32)}
    rounded = gradients(found)
    weights = dict(found.network.named_parameters())
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    for name, gradient in gradients(exact).items():
        assert rounded[name].dtype == torch.float32
        assert not torch.equal(rounded[name], gradient) or not gradient.any(), name
        # bf16 has 8 bits, small gradients are differences of large ones, and a token may choose another expert
        if gradient.norm() > 0.05:
            assert (rounded[name] - gradient).norm() < 0.5 * gradient.norm(), name
    assert loss(found).item() == pytest.approx(loss(exact).item(), rel=0.02)


def test_a_step_far_below_bf16_moves_the_masters():
    found = ocr(sharded=True, trainer=masters())
    before = {name: weight.clone() for name, weight in found.network.state_dict().items()}
    optimizer = torch.optim.AdamW(found.parameter_groups(), lr=1e-6)
    gradients(found)
    optimizer.step()
    moved = {
        name: float((whole(weight) != whole(before[name])).float().mean())
        for name, weight in found.network.named_parameters()
        if whole(weight.grad).abs().min() > 1e-6
    }
    assert moved
    assert min(moved.values()) > 0.9


def test_queries_that_nothing_trains_follow_the_weights():
    bank = {"class_path": "encoders.query_bank.FixedQueryBank", "init_args": {"width": 16, "counts": {64: 16, 32: 4}}}
    bank["init_args"]["stride"] = 16
    found = gradients(ocr(sharded=True, trainer=masters(), init_args__queries=bank))
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


def test_masters_need_fsdp2():
    found = module()
    found._trainer = masters()
    with pytest.raises(ValueError, match=r"trainer\.plugins has MasterWeights.*set trainer\.strategy"):
        found.configure_model()
