"""RasterEncoder: the visual tokens themselves, and no queries."""

import pytest
import torch
from encoder_cases import GRID, M, tokens

from encoders.raster import RasterEncoder


def test_it_is_the_identity_without_parameters():
    encoder, visual = RasterEncoder(width=16), tokens(M)
    assert torch.equal(encoder(visual, None, GRID), visual)
    assert not list(encoder.parameters())
    assert encoder.output_width == encoder.visual_width == 16


def test_queries_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match="takes no queries: set queries to null"):
        RasterEncoder(width=16)(tokens(M), tokens(M), GRID)


def test_a_width_below_one_is_named():
    with pytest.raises(ValueError, match="width must be at least 1"):
        RasterEncoder(width=0)
