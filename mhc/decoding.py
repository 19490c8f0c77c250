"""Continuing prompts token by token, and what forbids tokens on the way."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mhc.cache import KeyValueCache
from mhc.context import Context

if TYPE_CHECKING:
    from mhc.language_model import CausalLanguageModel

# (tokens so far [B, S], logits [B, V], mask [B, S] or None) -> logits [B, V]
Processor = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def generate(
    model: "CausalLanguageModel",
    tokens: Tensor | None,
    max_new_tokens: int,
    *,
    embeddings: Tensor | None = None,
    mask: Tensor | None = None,
    end_token: int | None = None,
    padding_token: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    processors: Sequence[Processor] = (),
    generator: torch.Generator | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Continue prompts with a key-value cache: [B, S + n] with n <= max_new_tokens new tokens.

    Padding on the left changes nothing: positions count real tokens alone, and nobody sees the others.

    Args:
        model: tokens or embeddings -> logits.
        tokens: the prompts, [B, S], S at least 1; None if there are embeddings alone, and then [B, n] comes back.
        max_new_tokens: how many to add at most.
        embeddings: [B, S, C], read in place of the tokens' own; the tokens are then history for the processors.
        mask: [B, S], True where a token of the prompt is real; False on the left alone. None where all are real.
        end_token: ends its row; decoding stops when all rows have ended. None for no end.
        padding_token: fills rows that have ended; None is the end token.
        temperature: divides the logits; 0 takes the most likely token.
        top_k: sample among the k most likely tokens; None among all.
        processors: change the fp32 logits in turn, before the temperature; also at temperature 0.
        generator: source of randomness; None is torch's own.
        progress: called after each step with the number of tokens added so far.

    Raises:
        ValueError: an argument out of range or of another shape, or processors that forbid every token.
    """
    _require_numbers(model, max_new_tokens, end_token, padding_token, temperature, top_k)
    prompt = _require_prompt(model, tokens, embeddings)
    batch, length = prompt.shape[:2]
    mask = _require_left_padding(mask, batch, length)
    # and not inference mode, in which FSDP2 would gather weights that no training can use
    with torch.no_grad():
        history = prompt.new_empty(batch, 0, dtype=torch.int64) if tokens is None else tokens
        first = history.shape[1]
        written = torch.cat([history, history.new_empty(batch, max_new_tokens)], 1)
        steps = _Steps(model, prompt, mask, max_new_tokens, embedded=embeddings is not None)
        ended = torch.zeros(batch, dtype=torch.bool, device=prompt.device)
        added = 0
        while added < max_new_tokens and not (end_token is not None and bool(ended.all())):
            logits = steps.logits(written[:, first + added - 1 : first + added]).float()
            real = steps.mask(first + added)
            for processor in processors:
                logits = processor(written[:, : first + added], logits, real)
            if processors:
                _require_choice(logits, ended, added)
                # a row that has ended may have nothing left to choose, and chooses nothing
                logits = logits.masked_fill(ended[:, None], 0.0)
            chosen = _choose(logits, temperature, top_k, generator)
            if end_token is not None:
                chosen = torch.where(ended, end_token if padding_token is None else padding_token, chosen)
                ended = ended | (chosen == end_token)
            written[:, first + added] = chosen
            added += 1
            if progress is not None:
                progress(added)
    return written[:, : first + added]


class _Steps:
    """The forward passes: the prompt first, then one token a row."""

    def __init__(
        self, model: "CausalLanguageModel", prompt: Tensor, mask: Tensor | None, room: int, embedded: bool
    ) -> None:
        self._model, self._prompt, self._embedded = model, prompt, embedded
        self._cache, self._seen = KeyValueCache(), 0
        self._mask = self._positions = None
        if mask is not None:
            self._mask = torch.cat([mask, mask.new_ones(len(mask), room)], 1)
            self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)

    def logits(self, last: Tensor) -> Tensor:
        """[B, V] of the next token; `last` [B, 1] is the token before it, which the first pass does not need."""
        new = last if self._seen else self._prompt
        start, self._seen = self._seen, self._seen + new.shape[1]
        context = Context(cache=self._cache)
        if self._mask is not None and self._positions is not None:
            context.mask = self._mask[:, : self._seen]
            context.positions = self._positions[:, start : self._seen]
        if start == 0 and self._embedded:
            return self._model(None, context, embeddings=new, last=1)[:, -1]
        return self._model(new, context, last=1)[:, -1]

    def mask(self, length: int) -> Tensor | None:
        """Which of the last `length` tokens are real, [B, length]."""
        return None if self._mask is None else self._mask[:, self._seen - length : self._seen]


@dataclass(frozen=True)
class NoRepeatNGram:
    """Forbid every token that would repeat an n-gram of the last `window` tokens of its row.

    A token t is forbidden when the last size - 1 tokens followed by t stand, in full, among the last `window` tokens.

    Args:
        size: n, tokens of an n-gram; 1 forbids every token of the window.
        window: how many tokens back from the end an n-gram may begin.
        allowed: tokens that are never forbidden.

    Raises:
        ValueError: `size` below 1, a `window` that no n-gram fits in, or a negative allowed token; when called, an
            allowed token beyond the vocabulary.
    """

    size: int
    window: int
    allowed: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        if self.window < self.size:
            raise ValueError(f"window must be at least size, or no n-gram fits, got {self.window} and {self.size}")
        if min(self.allowed, default=0) < 0:
            raise ValueError(f"allowed must be token numbers from 0, got {list(self.allowed)}")

    def __call__(self, tokens: Tensor, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens so far [B, S], logits [B, V] -> logits with -inf where a token is forbidden.

        Args:
            tokens: S may be 0.
            logits: of the next token.
            mask: [B, S], True where a token is real; padding is part of no n-gram.
        """
        vocabulary = logits.shape[-1]
        if max(self.allowed, default=0) >= vocabulary:
            raise ValueError(f"allowed has token {max(self.allowed)}, but the vocabulary has {vocabulary} tokens")
        length = tokens.shape[1]
        if length < self.size:
            return logits
        # [B, n-grams, size]
        grams = tokens[:, -self.window :].unfold(1, self.size, 1)
        last = grams[..., -1]
        repeats = (grams[..., :-1] == tokens[:, None, length - self.size + 1 :]).all(-1)
        # a placeholder beyond the vocabulary cannot be chosen
        repeats = repeats & (last >= 0) & (last < vocabulary)
        for token in self.allowed:
            repeats = repeats & (last != token)
        if mask is not None:
            repeats = repeats & mask[:, -self.window :].unfold(1, self.size, 1).all(-1)
            repeats = repeats & mask[:, length - self.size + 1 :].all(-1, keepdim=True)
        ceiling = torch.where(repeats, -math.inf, math.inf).to(logits.dtype)
        return logits.scatter_reduce(1, last.clamp(0, vocabulary - 1), ceiling, "amin")


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        smallest = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -math.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def _require_numbers(
    model: "CausalLanguageModel",
    max_new_tokens: int,
    end_token: int | None,
    padding_token: int | None,
    temperature: float,
    top_k: int | None,
) -> None:
    if not temperature >= 0 or max_new_tokens < 0 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"temperature and max_new_tokens must not be negative and top_k at least 1, got {temperature}, "
            f"{max_new_tokens}, {top_k}"
        )
    for name, token in (("end_token", end_token), ("padding_token", padding_token)):
        if token is not None and not 0 <= token < model.vocabulary_size:
            raise ValueError(f"{name} must be a token from 0 to {model.vocabulary_size - 1}, got {token}")


def _require_prompt(model: "CausalLanguageModel", tokens: Tensor | None, embeddings: Tensor | None) -> Tensor:
    prompt = tokens if embeddings is None else embeddings
    if prompt is None:
        raise ValueError("generate needs tokens or embeddings")
    if tokens is not None and (tokens.dim() != 2 or tokens.shape[1] < 1):
        raise ValueError(f"tokens must be a prompt [B, S] with S at least 1, got {list(tokens.shape)}")
    if embeddings is not None:
        shape = list(embeddings.shape)
        if len(shape) != 3 or shape[1] < 1 or shape[2] != model.width:
            raise ValueError(f"embeddings must be a prompt [B, S, {model.width}] with S at least 1, got {shape}")
        if tokens is not None and list(tokens.shape) != shape[:2]:
            raise ValueError(f"tokens and embeddings must be of the same prompts, got {list(tokens.shape)} and {shape}")
    return prompt


def _require_left_padding(mask: Tensor | None, batch: int, length: int) -> Tensor | None:
    if mask is None:
        return None
    if list(mask.shape) != [batch, length]:
        raise ValueError(f"mask must be [{batch}, {length}] as the prompts are, got {list(mask.shape)}")
    mask = mask.bool()
    if not bool(mask[:, -1].all()) or bool((mask[:, :-1] & ~mask[:, 1:]).any()):
        raise ValueError("mask must be False on the left alone and True for the last token of every prompt")
    return None if bool(mask.all()) else mask


def _require_choice(logits: Tensor, ended: Tensor, added: int) -> None:
    stuck = (logits.amax(-1) == -math.inf) & ~ended
    if bool(stuck.any()):
        row = int(stuck.nonzero()[0])
        raise ValueError(f"the processors forbid every token of row {row} after {added} new tokens; allow some of them")
