"""How often a model repeats itself, and how much it writes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from recipes.metrics.loops import loop
from recipes.metrics.mean import Mean


class RepetitionRate(Metric):
    """Shares of pages: `no_end` whose text the limit ended, `loop` that hold one, `repetition` either of them.

    The released code of DeepSeek-OCR counts the first alone.

    Args:
        end_token: ends a text.
        period: of the longest loop, in tokens.
        times: how often its n-gram stands there at least.
        length: tokens that it takes at least.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    counts: Tensor
    pages: Tensor

    def __init__(
        self, end_token: int, *, period: int = 20, times: int = 4, length: int = 48, **options: object
    ) -> None:
        super().__init__(**options)
        self.end_token, self.rule = end_token, {"period": period, "times": times, "length": length}
        self.add_state("counts", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pages", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, tokens: Tensor | Sequence[Sequence[int]]) -> None:
        """Count pages: their tokens [B, S], without the prompt; what follows an end token is padding."""
        for row in tokens.tolist() if isinstance(tokens, Tensor) else map(list, tokens):
            ended = self.end_token in row
            text = row[: row.index(self.end_token)] if ended else row
            looping = loop(text, **self.rule) is not None
            self.counts += self.counts.new_tensor([not ended, looping, not ended or looping])
            self.pages += 1

    def compute(self) -> dict[str, Tensor]:
        """The shares in [0, 1]; NaN where no page was counted."""
        return dict(zip(("no_end", "loop", "repetition"), self.counts / self.pages, strict=True))


class TokensPerPage(Mean):
    """Mean number of tokens of a page's text."""

    def update(self, tokens: Tensor | Sequence[int]) -> None:
        """Count pages: how many tokens each has."""
        counts = torch.as_tensor(tokens)
        self.add(float(counts.sum()), counts.numel())


class CompressionRatio(Mean):
    """Text tokens per visual token, over all pages together."""

    def update(self, text: Tensor | Sequence[int], visual: Tensor | Sequence[int]) -> None:
        """Count pages: how many tokens of text, and how many visual tokens the decoder was given.

        Raises:
            ValueError: not as many of one as of the other.
        """
        written, given = torch.as_tensor(text), torch.as_tensor(visual)
        if written.shape != given.shape:
            raise ValueError(f"text and visual must be of the same pages, got {written.numel()} and {given.numel()}")
        self.add(float(written.sum()), float(given.sum()))
