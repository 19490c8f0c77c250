"""Known orders are found, unknown ones are not, and the numbers are those of scipy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import randomise
from probe_cases import (
    CELL,
    COUNT,
    PIXELS,
    SIDE,
    VIEWS,
    column_order,
    fresh,
    in_columns,
    in_disorder,
    network,
    planted,
)
from scipy.stats import spearmanr
from tiny_tokenizer import tiny_tokenizer

from encoders.causal_flow import CausalFlowEncoder
from encoders.deep_encoder import DeepEncoder
from encoders.patch import PatchTokenizer
from encoders.processor import OCR2Processor
from encoders.query_bank import QueryBank
from encoders.raster import RasterEncoder
from recipes.probes.attention import look
from recipes.probes.conclusion import conclude
from recipes.probes.findings import above_chance, findings, followed
from recipes.probes.measure import Prober, Settings, probe_all, scrambled
from recipes.probes.order import (
    measure,
    nearest_block,
    null,
    overlaps,
    p_value,
    partial_spearman,
    seen_order,
    shuffles,
    spearman,
)
from recipes.probes.pages import Block
from recipes.probes.queries import changes
from recipes.probes.summary import summarise

# 16 places of the reading, one of each four, with Spearman 0.41 to their index
HALF_IN_ORDER = [4 * k for k in (9, 1, 0, 13, 4, 2, 8, 15, 3, 5, 12, 7, 14, 6, 10, 11)]
ORDER_ALONE = Settings(moves=False, changes=False, text_tokens=0)


def summary_of(vision, pages, settings=ORDER_ALONE):
    return summarise(probe_all(Prober(vision, VIEWS, settings), [lambda page=page: page for page in pages]))


def test_spearman_is_scipys():
    generator = np.random.default_rng(0)
    one, other, third = generator.normal(size=(3, 40))
    other = np.round(other, 1)  # with ties
    assert spearman(one, other) == pytest.approx(spearmanr(one, other).statistic, abs=1e-12)
    assert spearman(one, np.zeros(40)) == 0
    # the textbook's formula of a partial correlation
    r = {
        k: spearmanr(*pair).statistic
        for k, pair in {"12": (one, other), "13": (one, third), "23": (other, third)}.items()
    }
    expected = (r["12"] - r["13"] * r["23"]) / np.sqrt((1 - r["13"] ** 2) * (1 - r["23"] ** 2))
    assert partial_spearman(one, other, third) == pytest.approx(expected, abs=1e-12)
    assert partial_spearman(one, other, 2 * one) == 0


def test_shuffled_orders_give_chance():
    generator = np.random.default_rng(1)
    orders = shuffles(30, 500, seed=3)
    assert all(sorted(row) == list(range(30)) for row in orders[:5].tolist())
    values = np.round(generator.normal(size=30), 1)
    under = null(values, orders)
    assert under[:5] == pytest.approx([spearmanr(row, values).statistic for row in orders[:5]], abs=1e-12)
    assert under.std() == pytest.approx(1 / np.sqrt(29), rel=0.1)
    assert null(values, orders, values).tolist() == [0] * 500
    assert p_value(0.99, under) == pytest.approx(1 / 501)
    assert p_value(0.0, under) == 1


def test_half_of_all_unordered_queries_have_a_p_below_a_half():
    generator = np.random.default_rng(2)
    orders = shuffles(20, 200, seed=0)
    found = [
        p_value(spearman(np.arange(20), values), null(values, orders)) for values in generator.normal(size=(200, 20))
    ]
    assert np.mean(np.array(found) < 0.5) == pytest.approx(0.5, abs=0.12)
    assert np.mean(np.array(found) < 0.05) < 0.12


def test_mass_and_centroids_by_hand():
    blocks = [Block((0, 0, 8, 16), 3.0), Block((8, 0, 16, 8), 7.0), Block((9, 9, 10, 10), 8.0)]
    grid, size = (2, 2), (16, 16)
    share = overlaps(grid, size, np.array([block.box for block in blocks], dtype=float))
    assert share.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1 / 64]]
    # 1, 2, 3 are the ranks of the orders
    maps = np.array([[0.5, 0.5, 0, 0], [0, 0.25, 0, 0.64], [1, 0, 0, 0]])
    assert seen_order(maps, grid, size, blocks) == pytest.approx([1.5, (0.25 * 2 + 0.01 * 3) / 0.26, 1])
    found = measure(maps, grid, size, blocks)
    assert found.centroids[0].tolist() == [8, 4]
    assert found.order.inside == pytest.approx(2 / 3)
    best, inside = nearest_block(
        np.array([[1.0, 1], [30, 7], [9.5, 9.5]]), np.array([b.box for b in blocks], dtype=float)
    )
    assert (best.tolist(), inside.tolist()) == ([0, 1, 2], [True, False, True])
    # a query that sees no block at all counts for the nearest
    assert seen_order(np.array([[0.0, 0, 0, 1]]), grid, size, blocks[:2]).tolist() in ([1.0], [2.0])


def test_an_encoder_that_reads_by_content_is_found_on_pages_that_only_content_orders():
    summary = summary_of(planted(True), in_disorder(4))
    twins = [summary_of(scrambled(planted(True), k), in_disorder(4)) for k in range(3)]
    assert summary.order["mass"].mean > 0.95
    assert summary.order["centroid"].mean > 0.95
    assert summary.order["beyond_raster"].mean > 0.9
    assert summary.order["mass"].p < 0.01
    assert above_chance(summary, twins)
    told = findings("QFormerEncoder", False, summary, twins)
    assert "follow the reading order" in told[0]
    assert "more than a raster scan" in told[1]


def test_a_raster_scan_is_told_from_a_reading_of_columns():
    scan = summary_of(planted(False), [in_columns()])
    assert scan.order["mass"].mean == pytest.approx(scan.order["raster"].mean, abs=0.02)
    assert scan.order["y"].mean > 0.98
    told = findings("QFormerEncoder", False, scan, ())
    assert "a raster scan explains it" in told[1]
    columns = summary_of(planted(False, column_order()), [in_columns()])
    assert columns.order["mass"].mean > 0.95
    assert "more than a raster scan" in findings("QFormerEncoder", False, columns, ())[1]
    backwards = summary_of(planted(False, column_order()[::-1]), [in_columns()])
    assert backwards.order["mass"].mean == pytest.approx(-columns.order["mass"].mean)
    assert "run against the reading order" in findings("QFormerEncoder", False, backwards, ())[0]


@pytest.mark.parametrize("seed", range(3))
def test_an_untrained_encoder_is_at_chance_and_the_report_says_so(seed):
    vision, pages = fresh(seed), [*in_disorder(2), in_columns()]
    summary = summary_of(vision, pages)
    twins = [summary_of(scrambled(vision, k), pages) for k in range(3)]
    assert abs(summary.order["mass"].mean) < 0.25
    assert not above_chance(summary, twins)
    assert findings("CausalFlowEncoder", False, summary, twins)[0].startswith("The order of the queries is at chance: ")


def test_scrambled_weights_catch_an_order_that_shuffled_indices_take_for_real():
    # rotary positions and large random weights: what a query looks at drifts with its index
    vision, pages = fresh(12, std=0.2), [*in_disorder(2), in_columns()]
    summary = summary_of(vision, pages)
    assert summary.order["mass"].p < 0.05
    twins = [summary_of(scrambled(vision, k), pages) for k in range(19)]
    assert not above_chance(summary, twins)


def test_few_queries_in_order_on_many_pages_are_neither_chance_nor_proof():
    pages = in_disorder(8)
    # content is followed, but by queries whose own order is only half that of the page
    vision = planted(True)
    vision.queries = QueryBank(width=COUNT, counts={PIXELS: 16}, stride=CELL)
    vision.queries._bank(PIXELS).data.copy_(torch.eye(COUNT)[HALF_IN_ORDER])
    settings = Settings(changes=False, text_tokens=0)
    summary = summary_of(vision, pages, settings)
    assert summary.order["mass"].mean == pytest.approx(0.4, abs=0.1)
    assert summary.order["mass"].p > 0.05
    twins = [summary_of(scrambled(vision, k), pages) for k in range(3)]
    assert above_chance(summary, twins)
    told = findings("QFormerEncoder", False, summary, twins)
    assert "leans to the reading order" in told[0]
    assert "16 queries in random order would often do as well" in told[0]
    # that it follows content is sure all the same: on each page for itself
    turned = summary.moves["turned by 90 degrees"]
    assert turned["content"].p > 0.05 > turned["content"].p_pages
    assert followed(turned) == "content"
    assert any("turned by 90 degrees (n = 8): the order follows the content" in line for line in told)


def test_scrambling_keeps_every_weight_and_the_model():
    vision = fresh(0)
    before = {name: parameter.clone() for name, parameter in vision.named_parameters()}
    twin = dict(scrambled(vision, 1).named_parameters())
    for name, parameter in vision.named_parameters():
        assert torch.equal(parameter, before[name])
        assert torch.equal(twin[name].flatten().sort().values, parameter.flatten().sort().values)
    assert not torch.equal(twin["queries.banks.64"], before["queries.banks.64"])
    assert torch.equal(twin["queries.banks.64"], scrambled(vision, 1).queries.banks["64"])


def test_types_and_layouts_are_told_apart_and_counted():
    pages = in_disorder(4)
    found = probe_all(Prober(planted(True), VIEWS, ORDER_ALONE), [lambda page=page: page for page in pages])
    probe = conclude("m", "QFormerEncoder", False, {}, found)
    assert {name: summary.pages for name, summary in probe.by_page_type.items()} == {"type0": 2, "type1": 2}
    assert list(probe.by_layout) == ["double_column"]
    each = [page.views[0].mass for page in probe.pages]
    whole = probe.summary.order["mass"]
    assert (whole.n, whole.mean) == (4, pytest.approx(np.mean(each)))
    assert whole.spread == pytest.approx(np.std(each, ddof=1))


def test_pages_without_blocks_are_compared_with_x_and_y_alone():
    summary = summary_of(planted(False), [replace(in_columns(), blocks=())])
    assert summary.order["mass"].n == 0
    assert summary.order["y"].mean > 0.98
    assert "No page has blocks" in findings("QFormerEncoder", False, summary, ())[0]


def test_an_encoder_without_queries_is_no_reader():
    vision = DeepEncoder(PatchTokenizer(width=16, patch=CELL), RasterEncoder(width=16), 8)
    evidence = Prober(vision, VIEWS).probe(in_columns())
    assert evidence.page.changes == {}
    assert evidence.page.views[0].mass == pytest.approx(evidence.page.views[0].raster, abs=0.02)
    told = findings("RasterEncoder", True, summarise([evidence]), ())
    assert len(told) == 1
    assert "index is position" in told[0]


@torch.no_grad()
def test_undoing_a_shuffle_tells_encoders_apart():
    pixels = torch.randn(1, 3, PIXELS, PIXELS)
    equivariant = planted(True)
    found = changes(equivariant, pixels, look(equivariant, pixels), seed=0)[0]
    # each query is read for itself
    assert found["shuffled"].output > 0.5
    assert found["shuffled"].undone < 1e-6
    assert found["zeroed"].undone is None
    causal = fresh(0, CausalFlowEncoder(width=32, depth=1, heads=2, key_value_heads=1, hidden=32), std=0.3)
    found = changes(causal, pixels, look(causal, pixels), seed=0)[0]
    assert found["shuffled"].undone > 0.01
    # reversed by hand
    usual, queries = look(causal, pixels).output, causal.queries((PIXELS, PIXELS))
    visual = causal.tokenizer(pixels)
    output = causal.encoder(visual, queries.flip(0)[None], (SIDE, SIDE))
    assert found["reversed"].output == pytest.approx(float((output - usual).norm() / usual.norm()), rel=1e-5)
    assert found["reversed"].undone == pytest.approx(float((output.flip(1) - usual).norm() / usual.norm()), rel=1e-5)


def test_the_loss_under_changed_queries_is_that_of_a_model_whose_bank_is_changed():
    model = randomise(network(), 0.5)
    processor = OCR2Processor(tiny_tokenizer(), views=VIEWS, page_tokens=16)
    settings = Settings(moves=False, text_tokens=40)
    prober = Prober(model.vision, VIEWS, settings, network=model, processor=processor)
    page = prober.probe(in_columns()).page
    bank = model.vision.queries.banks[str(PIXELS)].data
    bank.copy_(bank.flip(0))
    reversed_loss = prober.probe(in_columns()).page.loss
    assert page.changes["reversed"].loss == pytest.approx(reversed_loss - page.loss, abs=1e-6)
    assert abs(page.changes["reversed"].loss) > 1e-4
    bank.zero_()
    assert page.changes["zeroed"].loss == pytest.approx(prober.probe(in_columns()).page.loss - page.loss, abs=1e-6)
