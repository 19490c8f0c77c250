"""OCR2 from a checkpoint that transformers wrote: logits, every gradient and generated tokens, on full-size views."""

import pytest
import torch
from helpers import assert_close, random_like, relative_error
from ocr2_oracle import mixed_batch, save, tiny_oracle
from safetensors.torch import load_file

from encoders.ocr2 import OCR2
from encoders.views import ImageBatch
from mhc import Context, ManifoldHyperConnection, describe
from mhc.names import released_names

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def oracle():
    return tiny_oracle()


@pytest.fixture(scope="module")
def folder(oracle, tmp_path_factory):
    return save(oracle, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def batch():
    return mixed_batch((2, 0))


@pytest.fixture(scope="module")
def compared(oracle, folder, batch, tmp_path_factory):
    """Outputs and gradients of both under one random upstream on the real positions, by released name."""
    mask = batch["mask"]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    pixels = [batch[name].clone().requires_grad_() for name in ("pages", "crops")]
    logits = oracle(
        input_ids=batch["tokens"],
        attention_mask=mask.long(),
        position_ids=positions,
        pixel_values=pixels[0],
        pixel_values_local=pixels[1],
        num_local_patches=[2, 0],
    ).logits[mask]
    upstream = random_like(logits)
    logits.backward(upstream)
    theirs = {"logits": logits.detach(), "d_pages": pixels[0].grad, "d_crops": pixels[1].grad}
    # the oracle's gradients under the names of its checkpoint: they are saved in the place of its weights
    weights = {name: parameter.detach().clone() for name, parameter in oracle.named_parameters()}
    for parameter in oracle.parameters():
        parameter.data = parameter.grad.clone()
    written = save(oracle, tmp_path_factory.mktemp("gradients"))
    for name, parameter in oracle.named_parameters():
        parameter.data, parameter.grad = weights[name], None
    theirs |= load_file(written / "model.safetensors")

    network = OCR2.from_pretrained(folder)
    pixels = [batch[name].clone().requires_grad_() for name in ("pages", "crops")]
    images = ImageBatch(pixels[0], pixels[1], (2, 0))
    logits = network(batch["tokens"], images, Context(positions=positions, mask=mask))[mask]
    logits.backward(upstream)
    found = {name: parameter.grad for name, parameter in network.named_parameters()}
    ours = {"logits": logits.detach(), "d_pages": pixels[0].grad, "d_crops": pixels[1].grad}
    ours |= {name: found[slot.name][slot.index] for name, slot in released_names(network).items()}
    return ours, theirs


def test_logits_and_every_gradient(compared):
    ours, theirs = compared
    assert len(theirs) > 100
    assert_close(ours, theirs, TOLERANCE)


def test_generates_the_same_tokens(oracle, folder, batch):
    network = OCR2.from_pretrained(folder)
    with torch.no_grad():
        expected = oracle.generate(
            input_ids=batch["tokens"],
            attention_mask=batch["mask"].long(),
            pixel_values=batch["pages"],
            pixel_values_local=batch["crops"],
            num_local_patches=[2, 0],
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=1,
            pad_token_id=2,
        )
    images = ImageBatch(batch["pages"], batch["crops"], (2, 0))
    found = network.generate(batch["tokens"], images, mask=batch["mask"], max_new_tokens=12)
    assert found.tolist() == expected.tolist()


@torch.no_grad()
def test_mhc_in_a_loaded_plain_checkpoint_leaves_its_logits(folder, batch):
    plain = OCR2.from_pretrained(folder)
    node = describe(plain)
    topology = {"class_path": "mhc.ManifoldHyperConnection", "init_args": {"streams": 4, "init": "residual"}}
    for part in ("tokenizer", "encoder", "decoder"):
        node["init_args"][part]["init_args"]["topology"] = topology
    mixed = OCR2.from_pretrained(folder, architecture=node, fresh=("*topologies*",))
    assert sum(isinstance(module, ManifoldHyperConnection) for module in mixed.modules()) == 2 * (2 + 2 + 3)
    assert isinstance(mixed.decoder.trunk.topologies[0], ManifoldHyperConnection)
    images = ImageBatch(batch["pages"][:1], batch["crops"], (2,))
    tokens = batch["tokens"][:1]
    assert relative_error(mixed(tokens, images), plain(tokens, images)) < TOLERANCE


@torch.no_grad()
def test_a_checkpoint_of_mhc_is_saved_and_loaded(folder, batch, tmp_path):
    node = describe(OCR2.from_pretrained(folder))
    topology = {"class_path": "mhc.ManifoldHyperConnection", "init_args": {"streams": 2, "init": "uniform"}}
    node["init_args"]["decoder"]["init_args"]["topology"] = topology
    mixed = OCR2.from_pretrained(folder, architecture=node, fresh=("*topologies*",))
    mixed.save_pretrained(tmp_path / "mixed")
    again = OCR2.from_pretrained(tmp_path / "mixed")
    weights = mixed.state_dict()
    assert {name: tensor.tolist() for name, tensor in again.state_dict().items() if "topologies" in name} == {
        name: tensor.tolist() for name, tensor in weights.items() if "topologies" in name
    }
    assert all(torch.equal(weights[name], tensor) for name, tensor in again.state_dict().items())
    tokens = batch["tokens"][2:, -12:]
    assert torch.equal(again(tokens), mixed(tokens))


def test_padding_on_the_left_is_no_history(folder, batch):
    network = OCR2.from_pretrained(folder)
    row = batch["tokens"][2:][batch["mask"][2:]][None]
    alone = network.generate(row, max_new_tokens=12)[0, row.shape[1] :].tolist()
    images = ImageBatch(batch["pages"], batch["crops"], (2, 0))
    together = network.generate(batch["tokens"], images, mask=batch["mask"], max_new_tokens=12)
    assert together[2, batch["tokens"].shape[1] :].tolist()[: len(alone)] == alone
