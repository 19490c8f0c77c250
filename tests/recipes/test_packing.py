"""Samples that share a row do not see one another, and orders that are worked out place by place."""

from collections import Counter

import pytest
import torch
from helpers import randomise
from small_ocr import OCR

from encoders.views import ImageBatch
from mhc import Context, build
from recipes.configuration import parse_yaml
from recipes.data.order import Shares, shuffled
from recipes.data.packing import first_fit
from recipes.data.page_batch import IGNORED, PageBatch


@pytest.mark.parametrize("seed", range(5))
def test_every_sample_has_a_row_and_rows_have_room(seed):
    lengths = torch.randint(1, 33, (40,), generator=torch.Generator().manual_seed(seed)).tolist()
    rows = first_fit(lengths, 32)
    assert sorted(sample for row in rows for sample in row) == list(range(40))
    filled = [sum(lengths[sample] for sample in row) for row in rows]
    assert max(filled) <= 32
    # no two rows could be one, which bounds them by twice the least number
    assert all(one + other > 32 for k, one in enumerate(filled) for other in filled[:k])
    assert rows == first_fit(lengths, 32)


def test_rows_of_known_lengths():
    assert first_fit([3, 5, 2, 4, 1], 6) == [[0], [1, 4], [2, 3]]
    assert first_fit([], 6) == []
    with pytest.raises(ValueError, match="a sample of 7 tokens is longer than a row of 6"):
        first_fit([2, 7], 6)


def test_labels_documents_and_positions_of_a_row():
    one, two, three = ([5, 6, 7, 8], 2), ([5, 9, 3], 1), ([4, 4], 1)
    batch = PageBatch.collate_packed([[one, two], [three]], None, 2)
    assert batch.tokens.tolist() == [[5, 6, 7, 8, 5, 9, 3], [4, 4, 2, 2, 2, 2, 2]]
    assert batch.documents.tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, -1, -1, -1, -1, -1]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2], [0, 1, 0, 1, 2, 3, 4]]
    # the last token of a sample is not asked for the first of the next
    no = IGNORED
    assert batch.labels.tolist() == [[no, 7, 8, no, 9, 3, no], [4, no, no, no, no, no, no]]
    assert batch.mask.tolist() == [[True] * 7, [True] * 2 + [False] * 5]
    alone = PageBatch.collate([one], None, 2)
    assert alone.documents is None
    assert alone.positions is None


def test_a_document_has_the_logits_it_has_alone():
    network = randomise(build(parse_yaml(OCR)["model"]["init_args"]["network"]), 0.2).eval()
    torch.manual_seed(1)
    samples = [([0, *[259] * (16 + 1 + 4 * crops), *range(30, 36 + crops), 1], 20) for crops in (2, 0, 2)]
    pages, crops = torch.randn(3, 3, 64, 64), torch.randn(4, 3, 32, 32)
    # the second row's image comes first in its own row
    images = ImageBatch(pages, crops, (2, 0, 2))
    batch = PageBatch.collate_packed([samples[:2], samples[2:]], images, 2)
    with torch.no_grad():
        packed = network(batch.tokens, batch.images, Context(positions=batch.positions, documents=batch.documents))
        mixed = network(batch.tokens, batch.images)
        begin = 0
        for number, (tokens, _) in enumerate(samples[:2]):
            image = ImageBatch(pages[number : number + 1], None if number else crops[:2], (0 if number else 2,))
            alone = network(torch.tensor([tokens]), image)[0]
            place = slice(begin, begin + len(tokens))
            assert torch.allclose(packed[0, place], alone, atol=1e-5)
            # without documents the second sees the first
            assert torch.allclose(mixed[0, place], alone, atol=1e-2) == (number == 0)
            begin += len(tokens)


@pytest.mark.parametrize("count", [1, 2, 3, 9, 64, 257])
def test_shuffled_is_a_permutation(count):
    orders = [[shuffled(place, count, 3, turn) for place in range(count)] for turn in range(2)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert count < 9 or orders[0] != orders[1]
    with pytest.raises(ValueError, match=f"no place {count} among {count}"):
        shuffled(count, count, 0)


def test_shuffled_sends_a_place_everywhere():
    """Over 5,000 keys each of 10 numbers stands at a place about 500 times: chi-square with 9 degrees of freedom."""
    counts = Counter(shuffled(3, 10, key) for key in range(5000))
    assert sum((counts[number] - 500) ** 2 / 500 for number in range(10)) < 27.9  # p = 0.001
    # neighbours do not stay neighbours
    steps = Counter((shuffled(4, 10, key) - shuffled(3, 10, key)) % 10 for key in range(5000))
    assert steps[0] == 0
    assert max(steps.values()) < 700


def test_shares_keep_their_weights_at_every_time():
    shares = Shares([1, 3, 0.5], seed=5)
    seen = [0, 0, 0]
    for number in range(2000):
        kind, turn = shares.deal(number)
        assert turn == seen[kind]
        seen[kind] += 1
        if number % 64 == 63:
            assert all(abs(seen[k] - (number + 1) * weight / 4.5) <= 2 for k, weight in enumerate([1, 3, 0.5]))
    # out of order, and from another object
    other = Shares([1, 3, 0.5], seed=5)
    assert [other.deal(number) for number in (1999, 3, 700)] == [shares.deal(number) for number in (1999, 3, 700)]
    assert [Shares([1, 1], 1).deal(k)[0] for k in range(40)] != [Shares([1, 1], 2).deal(k)[0] for k in range(40)]
    for weights in ([], [1, 0], [1, -1]):
        with pytest.raises(ValueError, match="weights must be positive"):
            Shares(weights, 0)
