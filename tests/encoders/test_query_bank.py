"""Query banks: counts and look-up by view, what is learned and what is not, interpolation, errors."""

import pytest
import torch
import torch.nn.functional as F
from helpers import gradients, randomise, relative_error

from encoders.query_bank import FixedQueryBank, InterpolatedQueryBank, QueryBank
from mhc import build, describe

WIDTH = 6
COUNTS = {768: None, 1024: None}
KINDS = {
    "learned": lambda **options: QueryBank(width=WIDTH, counts=COUNTS, **options),
    "fixed": lambda **options: FixedQueryBank(width=WIDTH, counts=COUNTS, **options),
    "interpolated": lambda **options: InterpolatedQueryBank(width=WIDTH, counts=COUNTS, base=1024, **options),
}


def picture(bank: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """A square bank [n n, d] resized by torch, as planes: [rows columns, d]."""
    side = round(len(bank) ** 0.5)
    planes = bank.T.reshape(1, -1, side, side)
    planes = F.interpolate(planes, size=(rows, columns), mode="bicubic", align_corners=False, antialias=True)
    return planes[0].flatten(1).T


@pytest.mark.parametrize("kind", KINDS)
def test_counts_of_the_paper(kind):
    bank = KINDS[kind]()
    assert (bank.count((768, 768)), bank.count((1024, 1024))) == (144, 256)
    assert bank((768, 768)).shape == (144, WIDTH)
    assert bank((1024, 1024)).shape == (256, WIDTH)


def test_a_learned_bank_is_a_parameter_by_its_side():
    bank = QueryBank(width=WIDTH, counts={768: 9, 1024: None})
    assert {name: list(p.shape) for name, p in bank.named_parameters()} == {
        "banks.768": [9, WIDTH],
        "banks.1024": [256, WIDTH],
    }
    assert bank((768, 768)) is bank.banks["768"]
    randomise(bank, 0.2)
    (gradient,) = torch.autograd.grad(bank((1024, 1024)).sum(), bank.banks["1024"])
    assert (gradient == 1).all()


def test_queries_start_as_normal_values_of_std():
    for kind in (QueryBank, FixedQueryBank):
        for std in (0.02, 0.5):
            queries = kind(width=64, counts={1024: None}, std=std)((1024, 1024)).detach()
            assert abs(float(queries.std()) / std - 1) < 0.02
            assert abs(float(queries.mean())) < 0.03 * std


def test_fixed_queries_are_those_of_their_seed_and_nothing_trains_them():
    bank = KINDS["fixed"]()
    assert list(bank.parameters()) == []
    assert set(bank.state_dict()) == {"banks.768", "banks.1024"} == set(KINDS["learned"]().state_dict())
    assert not bank((768, 768)).requires_grad
    torch.manual_seed(99)
    assert torch.equal(KINDS["fixed"]()((768, 768)), bank((768, 768)))
    assert relative_error(KINDS["fixed"](seed=1)((768, 768)), bank((768, 768))) > 1
    other = KINDS["fixed"](seed=1)
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other((1024, 1024)), bank((1024, 1024)))
    KINDS["learned"]().load_state_dict(bank.state_dict())


def test_an_interpolated_bank_learns_its_base_alone():
    bank = randomise(KINDS["interpolated"](), 0.2)
    assert [name for name, _ in bank.named_parameters()] == ["banks.1024"]
    base = bank.banks["1024"]
    assert bank((1024, 1024)) is base
    resized, expected = bank((768, 768)), picture(base, 12, 12)
    assert relative_error(resized, expected) < 1e-6
    assert relative_error(gradients(resized, [base])[0], gradients(expected, [base])[0]) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(768, 1024), (512, 512), (1024, 704), (2048, 2048)])
def test_other_views_take_the_nearest_bank_resized_where_asked(kind, size):
    bank = randomise(KINDS[kind](unknown="interpolate"), 0.2)
    # by the ratio of areas; 768 x 1024 is as far from one as from the other, and takes the larger
    nearest = 768 if size in ((512, 512), (1024, 704)) and kind != "interpolated" else 1024
    rows, columns = size[0] // 64, size[1] // 64
    assert bank.count(size) == rows * columns
    assert relative_error(bank(size), picture(bank((nearest, nearest)), rows, columns)) < 1e-6


def test_an_unknown_view_has_as_many_queries_a_pixel_as_its_nearest():
    bank = QueryBank(width=WIDTH, counts={1024: 64}, unknown="interpolate")
    assert bank.count((1024, 512)) == len(bank((1024, 512))) == 8 * 4
    assert bank.count((64, 64)) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(640, 640), (768, 1024)])
def test_an_unknown_view_is_an_error_that_says_what_to_do(kind, size):
    bank = KINDS[kind]()
    for call in (bank, bank.count):
        with pytest.raises(ValueError, match=r"768x768, 1024x1024.*counts.*unknown to 'interpolate'") as caught:
            call(size)
        assert f"{size[0]}x{size[1]}" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: QueryBank(width=4, counts={}), "counts must name"),
        (lambda: QueryBank(width=0, counts=COUNTS), "width and stride"),
        (lambda: QueryBank(width=4, counts={100: None}), r"counts\[100\] is None"),
        (lambda: QueryBank(width=4, counts={768: 0}), r"counts\[768\] must be at least 1"),
        (lambda: QueryBank(width=4, counts={0: 3}), "sides of at least 1"),
        (lambda: QueryBank(width=4, counts=COUNTS, unknown="guess"), "unknown must be 'error' or 'interpolate'"),
        (lambda: QueryBank(width=4, counts={768: 10}, unknown="interpolate"), r"no square.*take 9 or 16"),
        (lambda: InterpolatedQueryBank(width=4, counts={768: 10, 1024: 16}, base=1024), "no square"),
        (lambda: InterpolatedQueryBank(width=4, counts=COUNTS, base=640), "base must be"),
        (lambda: QueryBank(width=4, counts=COUNTS, unknown="interpolate")((100, 64)), "divisible by the stride 64"),
        (lambda: QueryBank(width=4, counts=COUNTS, unknown="interpolate").count((0, 64)), "divisible by the stride"),
    ],
)
def test_what_does_not_fit_is_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize("kind", KINDS)
def test_a_bank_is_written_down_and_built_again(kind):
    bank = KINDS[kind](std=0.1)
    again = build(describe(bank))
    assert type(again) is type(bank)
    again.load_state_dict(bank.state_dict())
    assert torch.equal(again((768, 768)), bank((768, 768)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bank_without_storage_has_its_shapes(kind):
    with torch.device("meta"):
        bank = KINDS[kind](unknown="interpolate")
        assert bank((768, 512)).shape == (96, WIDTH)
        assert bank((768, 768)).is_meta
