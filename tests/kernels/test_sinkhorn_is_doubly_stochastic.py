"""What a result of Sinkhorn is: non-negative, rows and columns of sum 1, to the accuracy of its steps."""

import pytest
import torch

from kernels import sinkhorn

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
    n=st.integers(1, 8),
    sigma=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**32 - 1),
    last=st.sampled_from(["rows", "columns"]),
)
def test_rows_and_columns_sum_to_one(n, sigma, seed, last):
    logits = sigma * torch.randn(16, n, n, generator=torch.Generator().manual_seed(seed))
    matrix = sinkhorn(logits, last=last, steps=100)
    assert (matrix >= 0).all()
    # 100 steps at sigma 1 leave 1e-6 or less of truncation
    assert (matrix.sum(-1) - 1).abs().max() < 1e-5
    assert (matrix.sum(-2) - 1).abs().max() < 1e-5


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
    n=st.integers(1, 8),
    steps=st.integers(1, 25),
    scale=st.floats(0.0, 1e4),
    seed=st.integers(0, 2**32 - 1),
    last=st.sampled_from(["rows", "columns"]),
)
def test_the_last_direction_is_exact_whatever_the_logits(n, steps, scale, seed, last):
    logits = scale * (2 * torch.rand(16, n, n, generator=torch.Generator().manual_seed(seed)) - 1)
    matrix = sinkhorn(logits, last=last, steps=steps)
    assert (matrix >= 0).all()
    assert (matrix.sum(-1 if last == "rows" else -2) - 1).abs().max() < 1e-6  # roundings of at most 8 terms


@pytest.mark.parametrize(("last", "truncated"), [("rows", -2), ("columns", -1)])
def test_truncation_lands_in_the_direction_normalised_first(last, truncated):
    logits = 4 * torch.randn(4096, 4, 4, dtype=torch.float64)
    errors = [(sinkhorn(logits, last=last, steps=steps).sum(truncated) - 1).abs().mean() for steps in (5, 20, 80)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 1e-4


def test_columns_last_is_the_transposed_problem(impl):
    logits = 2 * torch.randn(64, 5, 5)
    transposed = sinkhorn(logits.mT, last="rows", impl=impl).mT
    assert torch.allclose(sinkhorn(logits, last="columns", impl=impl), transposed, atol=1e-6)


@pytest.mark.parametrize(("sigma", "published"), [(1.0, 1.5e-6), (2.0, 1.2e-2), (4.0, 4.3e-2), (6.0, 6.2e-2)])
def test_column_error_is_the_published_one(sigma, published):
    # 99th percentile over matrices of the largest column error after 20 steps; sigma 1 is a steep tail
    matrix = sinkhorn(sigma * torch.randn(20_000, 4, 4, dtype=torch.float64))
    error = (matrix.sum(-2) - 1).abs().amax(-1).quantile(0.99)
    assert published / 1.4 < error < published * 1.4


@pytest.mark.parametrize(("sigma", "order", "eps"), [(2.0, 3.2e-2, 1e-3), (4.0, 6.8e-2, 0.25), (6.0, 0.12, 0.80)])
def test_conventions_differ_as_published(sigma, order, eps):
    # largest differences over a sample, so their order of magnitude alone is reproducible
    logits = sigma * torch.randn(20_000, 4, 4, dtype=torch.float64)
    paper = sinkhorn(logits)
    assert order / 3 < (paper - sinkhorn(logits, last="columns")).abs().max() < order * 3
    assert eps / 3 < (paper - sinkhorn(logits, eps=1e-6)).abs().max() < eps * 3
