"""The whole model: image slots, mixed rows, generation, and what it refuses. (Against transformers: another file.)"""

from functools import partial

import pytest
import torch
from helpers import randomise, relative_error
from torch.utils._python_dispatch import TorchDispatchMode

from encoders.causal_flow import CausalFlowEncoder
from encoders.ocr2 import OCR2
from encoders.patch import PatchTokenizer
from encoders.query_bank import QueryBank
from encoders.views import ImageBatch
from mhc import Attention, CausalLanguageModel, ManifoldHyperConnection, Residual, SwiGLU, build, describe

PAGE, CROP, IMAGE = 32, 16, 7


def model(topology=Residual, **changes) -> OCR2:
    torch.manual_seed(0)
    parts = {
        "tokenizer": PatchTokenizer(width=16, patch=4),
        "encoder": CausalFlowEncoder(width=16, depth=1, heads=2, key_value_heads=1, hidden=16, topology=topology),
        "queries": QueryBank(width=16, counts={PAGE: 4, CROP: 2}, stride=4),
        "decoder": CausalLanguageModel(
            19,
            12,
            2,
            topology=topology,
            attention=partial(Attention, heads=2),
            feed_forward=partial(SwiGLU, hidden=16),
            tied=False,
        ),
    }
    return OCR2(**(parts | {"image_token": IMAGE} | changes))


def images(*counts: int) -> ImageBatch:
    generator = torch.Generator().manual_seed(4)
    pages = torch.randn(len(counts), 3, PAGE, PAGE, generator=generator)
    crops = torch.randn(sum(counts), 3, CROP, CROP, generator=generator)
    return ImageBatch(pages, crops if len(crops) else None, counts)


def row(*parts: int | str) -> list[int]:
    """Numbers are tokens; "page" and "page+2" are the slots of an image."""
    found = []
    for part in parts:
        crops = int(part.partition("+")[2] or 0) if isinstance(part, str) else 0
        found += [IMAGE] * (crops * 2 + 5) if isinstance(part, str) else [part]
    return found


def test_features_stand_in_their_slots_in_order():
    network, batch = model(), images(1, 0, 2)
    rows = [row(0, "page+1", 9, "page", 10), row(11, "page+2", *[12] * 5)]
    tokens = torch.tensor([line + [2] * (15 - len(line)) for line in rows])
    embeddings = network.embed(tokens, batch)
    slots = tokens == IMAGE
    assert torch.equal(embeddings[slots], network.vision(batch))
    assert torch.equal(embeddings[~slots], network.decoder.embedding(tokens)[~slots])


def test_a_row_of_text_is_what_the_decoder_makes_of_it():
    network = randomise(model(), 0.2)
    tokens = torch.tensor([row(0, "page", 9), [3, 4, 5, 6, 8, 9, 10]])
    logits = network(tokens, images(0))
    assert relative_error(logits[1], network.decoder(tokens[1:])[0]) < 1e-5
    changed = network(tokens, ImageBatch(images(0).pages + 1, None, (0,)))
    assert relative_error(changed[0, -1], logits[0, -1]) > 1e-3
    assert relative_error(changed[1], logits[1]) < 1e-6


def test_gradients_reach_pixels_and_every_parameter():
    network, batch = randomise(model(partial(ManifoldHyperConnection, streams=2)), 0.2), images(1)
    batch.pages.requires_grad_()
    network(torch.tensor([row(0, "page+1", 9, 10)]), batch).square().sum().backward()
    assert batch.pages.grad.abs().sum() > 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name


def test_a_batch_generates_what_its_rows_generate_alone():
    network = randomise(model(), 0.4).double()
    batch = images(1, 0).to(dtype=torch.float64)
    lines = [row(0, "page+1", 9, 10), row(0, "page", 11)]
    tokens = torch.tensor([lines[0], [2] * 3 + lines[1]])
    mask = tokens != 2
    together = network.generate(tokens, batch, mask=mask, max_new_tokens=6)
    one, other = ImageBatch(batch.pages[:1], batch.crops, (1,)), ImageBatch(batch.pages[1:], None, (0,))
    first = network.generate(torch.tensor(lines[:1]), one, max_new_tokens=6)
    second = network.generate(torch.tensor(lines[1:]), other, max_new_tokens=6)
    new = together[:, tokens.shape[1] :]
    for line, found in ((first[0, len(lines[0]) :], new[0]), (second[0, len(lines[1]) :], new[1])):
        assert found[: len(line)].tolist() == line.tolist()
        assert set(found[len(line) :].tolist()) <= {network.padding_token}


def test_a_batch_of_no_images_uses_every_parameter():
    network, tokens = model(partial(ManifoldHyperConnection, streams=2)), torch.tensor([[3, 4, 5]])
    none = ImageBatch(torch.zeros(0, 3, PAGE, PAGE), torch.zeros(0, 3, CROP, CROP), ())
    logits = network(tokens, none)
    assert torch.equal(logits, network(tokens))
    logits.sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert name.startswith("decoder.") or parameter.grad.abs().sum() == 0, name


class Waits(TorchDispatchMode):
    """Count what a GPU must be waited for: results whose shape or value the host needs."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        waiting = (aten.nonzero, aten.masked_select, aten.masked_scatter_backward, aten._local_scalar_dense)
        self.count += func.overloadpacket in waiting
        return func(*args, **(kwargs or {}))


def test_a_training_step_waits_for_the_device_once():
    network, tokens = model(), torch.tensor([row(0, "page+1", 9, 10)])
    with Waits() as waits:
        network(tokens, images(1)).square().sum().backward()
    assert waits.count == 1


def test_autocast_puts_features_into_fp32_embeddings():
    network, tokens = model(), torch.tensor([row(0, "page+1", 9)])
    expected = network.embed(tokens, images(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network.embed(tokens, images(1))
    assert found.dtype == torch.float32
    assert relative_error(found, expected) < 0.02


@pytest.mark.parametrize(
    ("tokens", "counts", "message"),
    [
        ([row(0, "page")], (1,), r"5 image slots, but the images give 7 features, \[7\]; the rows have \[5\] slots"),
        ([row(0, "page")], None, "5 image slots, but the images give 0 features"),
        ([[3, 4]], (0, 0), r"0 image slots, but the images give 10 features, \[5, 5\]"),
    ],
    ids=str,
)
def test_slots_that_do_not_match_the_features_are_refused(tokens, counts, message):
    batch = None if counts is None else images(*counts)
    with pytest.raises(ValueError, match=message):
        model()(torch.tensor(tokens), batch)


def test_tokens_outside_of_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="image_token is 128815, but the decoder's vocabulary has 19 tokens"):
        model(image_token=128815)


def test_the_whole_model_is_written_down_and_built_again():
    first = model(partial(ManifoldHyperConnection, streams=2))
    second = build(describe(first))
    second.load_state_dict(first.state_dict())
    tokens = torch.tensor([row(0, "page+1", 9)])
    assert torch.equal(first(tokens, images(1)), second(tokens, images(1)))


def test_it_runs_on_the_meta_device():
    with torch.device("meta"):
        network = model()
    batch = ImageBatch(images(1).pages.to("meta"), images(1).crops.to("meta"), (1,))
    assert network(torch.tensor([row(0, "page+1", 9)], device="meta"), batch).shape == (1, 9, 19)


def test_a_bf16_model_takes_pixels_in_fp32():
    network = model().to(torch.bfloat16)
    assert network(torch.tensor([row(0, "page+1", 9)]), images(1)).dtype == torch.bfloat16
