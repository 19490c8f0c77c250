"""An OCR 2 that learns on two cores."""

import torch
from torch import nn

from encoders.interface import VisionEncoder, VisualTokenizer
from encoders.ocr2 import OCR2
from encoders.patch import PatchTokenizer
from encoders.query_bank import QueryBank
from mhc import CausalLanguageModel
from mhc.initialisation import initialise
from mhc.trunk import Trunk


class Miniature(OCR2):
    """A narrow `OCR2` whose weights start wide enough for a few hundred steps to matter.

    Weights of std 0.02 are near 1 / sqrt(width) at widths about a thousand. At width 64 they make every sublayer's
    first output so small that a causal flow reads nothing for its first thousand steps.

    | parameter | start |
    |---|---|
    | sublayers of every trunk, of tokenizer, encoder and decoder | `mhc.initialisation.initialise` with `std` |
    | learned positions of a `PatchTokenizer` | normal, `positions_std` |
    | all others | as their classes say |

    Args:
        tokenizer: pixels -> visual tokens.
        encoder: visual tokens and queries -> features.
        decoder: the language model.
        queries: the query bank; None for encoders that take none.
        image_token: number of the token that one feature takes the place of.
        end_token: ends a text.
        padding_token: fills what follows it.
        std: of the sublayers' weights.
        positions_std: of the tokenizer's positions.

    Raises:
        ValueError: as `OCR2`, or a std that is not positive.
    """

    def __init__(
        self,
        *,
        tokenizer: VisualTokenizer,
        encoder: VisionEncoder,
        decoder: CausalLanguageModel,
        queries: QueryBank | None = None,
        image_token: int = 1,
        end_token: int = 2,
        padding_token: int = 0,
        std: float = 0.1,
        positions_std: float = 0.5,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            encoder=encoder,
            decoder=decoder,
            queries=queries,
            image_token=image_token,
            end_token=end_token,
            padding_token=padding_token,
        )
        for name, value in (("std", std), ("positions_std", positions_std)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        for module in self.modules():
            if isinstance(module, Trunk):
                # which counts the writes to the residual in pairs; a block with cross-attention has three
                initialise(module.sublayers, (len(module.sublayers) + 1) // 2, std)
        if isinstance(tokenizer, PatchTokenizer) and tokenizer.positions is not None:
            with torch.no_grad():
                nn.init.normal_(tokenizer.positions, std=positions_std)
