"""A mask hides padding, and documents one another: what is real comes out as it does alone."""

import pytest
import torch
from helpers import randomise, relative_error
from models import TOPOLOGIES, language_model, tokens

from mhc import Attention, Context


def padded(rows: list[torch.Tensor], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(row) for row in rows)
    batch, mask = torch.zeros(len(rows), longest, dtype=torch.int64), torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(len(row))
        batch[index, place], mask[index, place] = row, True
    return batch, mask


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@torch.no_grad()
def test_real_tokens_do_not_see_padding(left):
    model = randomise(language_model(TOPOLOGIES["mhc"]), 0.2).double()
    rows = [tokens(1, length)[0] for length in (3, 7, 5)]
    batch, mask = padded(rows, left)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(batch, Context(positions=positions, mask=mask))
    assert torch.isfinite(logits).all()
    for index, row in enumerate(rows):
        assert relative_error(logits[index][mask[index]], model(row[None])[0]) < 1e-12


@pytest.mark.parametrize("new", [5, 3])
def test_every_causal_token_sees_something(new):
    # what a softmax over nothing is depends on the device: zeros, means or NaN
    mask = torch.tensor([[False, False, False, True, True], [False, False, True, True, True]])
    visible = Context(mask=mask).visible(new, 5, True, mask.device)
    assert visible.any(-1).all()
    padding = visible[0, 0][~mask[0, 5 - new :]]
    assert torch.equal(padding, torch.eye(5, dtype=torch.bool)[5 - new : 3])


def test_a_bidirectional_mask_is_one_row_for_all_tokens():
    mask = torch.ones(2, 5, dtype=torch.bool)
    assert Context(mask=mask).visible(5, 5, False, mask.device).shape == (2, 1, 1, 5)


@torch.no_grad()
def test_padding_counts_without_a_mask():
    model = randomise(language_model(TOPOLOGIES["residual"]), 0.2).double()
    row = tokens(1, 4)
    batch, mask = padded([row[0], tokens(1, 7)[0]], left=True)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    without = model(batch, Context(positions=positions))[0][mask[0]]
    assert relative_error(without, model(row)[0]) > 1e-3


@torch.no_grad()
def test_bidirectional_attention_takes_the_mask_too():
    layer = randomise(Attention(8, heads=2, causal=False), 0.3).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True, False, False]])
    shown = torch.tensor([0, 1, 3])
    expected = layer(x[:, shown], Context(positions=shown))
    assert relative_error(layer(x, Context(mask=mask))[:, shown], expected) < 1e-12


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_documents_of_one_row_do_not_see_one_another(padded):
    model = randomise(language_model(TOPOLOGIES["mhc"]), 0.2).double()
    lengths = (3, 5, 1, 4)
    documents = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None].expand(2, -1)
    positions = torch.cat([torch.arange(length) for length in lengths])
    mask = torch.ones(2, sum(lengths), dtype=torch.bool)
    mask[1, -4:] = not padded
    rows = tokens(2, sum(lengths))
    packed = model(rows, Context(positions=positions, documents=documents, mask=mask if padded else None))
    assert torch.isfinite(packed).all()
    for row in range(2):
        ends = torch.tensor(lengths).cumsum(0)
        for length, end in zip(lengths, ends, strict=True):
            place = slice(int(end) - length, int(end))
            if mask[row, place].all():
                assert relative_error(packed[row, place], model(rows[row : row + 1, place])[0]) < 1e-12


@pytest.mark.parametrize(
    ("context", "named"),
    [
        (Context(mask=torch.ones(1, 3, dtype=torch.bool)), "mask is"),
        (Context(documents=torch.ones(1, 3, dtype=torch.int64)), "documents are"),
    ],
    ids=["mask", "documents"],
)
def test_another_length_is_refused(context, named):
    model = language_model(TOPOLOGIES["residual"])
    with pytest.raises(ValueError, match=f"the {named} of 3 tokens, but 4 are to be seen"):
        model(tokens(1, 4), context)
