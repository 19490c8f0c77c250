"""The whole model: views of pages and text -> text (DeepSeek-OCR 2, arXiv 2601.20552)."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from encoders.deep_encoder import DeepEncoder
from encoders.interface import VisionEncoder, VisualTokenizer
from encoders.query_bank import QueryBank
from encoders.views import ImageBatch
from mhc import CausalLanguageModel, Context, Described
from mhc.context import Observer


class OCR2(Described):
    """A deep encoder whose features take the place of the image tokens of a causal language model.

    Args:
        tokenizer: pixels -> visual tokens.
        encoder: visual tokens and queries -> features.
        decoder: the language model.
        queries: the query bank; None for encoders that take none.
        image_token: number of the token that one feature takes the place of.
        end_token: ends a text.
        padding_token: fills what follows it.

    Raises:
        ValueError: parts of different widths, or token numbers that the decoder lacks.
    """

    def __init__(
        self,
        *,
        tokenizer: VisualTokenizer,
        encoder: VisionEncoder,
        decoder: CausalLanguageModel,
        queries: QueryBank | None = None,
        image_token: int = 128815,
        end_token: int = 1,
        padding_token: int = 2,
    ) -> None:
        super().__init__()
        named = {"image_token": image_token, "end_token": end_token, "padding_token": padding_token}
        for name, number in named.items():
            if not 0 <= number < decoder.vocabulary_size:
                raise ValueError(
                    f"{name} is {number}, but the decoder's vocabulary has {decoder.vocabulary_size} tokens"
                )
        self.vision = DeepEncoder(tokenizer, encoder, decoder.width, queries)
        self.decoder = decoder
        self.image_token, self.end_token, self.padding_token = image_token, end_token, padding_token

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **options: Any) -> "OCR2":
        """Read a checkpoint: the released one, one that transformers wrote, or one of `save_pretrained`.

        Args:
            folder: with config.json and safetensors.
            options: `architecture`, `fresh`, `ignore`, `dtype` and `device` of `encoders.released.load_ocr2`.

        Raises:
            CheckpointError: what is missing, unexpected, damaged or does not fit, by name.
        """
        from encoders.released import load_ocr2  # which needs this class

        return load_ocr2(folder, **options)

    def save_pretrained(self, folder: str | os.PathLike[str], *, shard_bytes: float = 5e9) -> None:
        """Write config.json and safetensors, whole or not at all, under the released names as far as there are any.

        Args:
            folder: made if need be.
            shard_bytes: of a file, at most.

        Raises:
            TypeError: a part that cannot be written down.
            OSError: the folder cannot be written.
        """
        from encoders.released import save_ocr2  # which needs this class

        save_ocr2(self, folder, shard_bytes=shard_bytes)

    def embed(self, tokens: Tensor, images: ImageBatch | None = None, observe: Observer | None = None) -> Tensor:
        """Token numbers [B, S] -> embeddings [B, S, C], with the images' features in the slots of the image token.

        The images fill the slots row by row, in their order; a row may hold several, or none. A batch of no images
        (pages [0, 3, G, G], crops [0, 3, c, c]) still runs the vision side, whose gradients are then 0: what DDP and
        FSDP2 need where another process has images. None skips it.

        Raises:
            ValueError: the slots are not as many as the features, both numbers given.
        """
        embeddings = self.decoder.embedding(tokens)
        slots = tokens == self.image_token
        lengths = [] if images is None else self.vision.lengths(images)
        # the one wait for a GPU in a step; a tensor without storage cannot be searched
        where = tokens.new_empty(sum(lengths)) if tokens.is_meta else slots.flatten().nonzero()[:, 0]
        if len(where) != sum(lengths):
            raise ValueError(
                f"the tokens have {len(where)} image slots, but the images give {sum(lengths)} features, {lengths}; "
                f"the rows have {slots.sum(1).tolist()} slots"
            )
        if images is None:
            return embeddings
        features = self.vision(images, observe).to(embeddings.dtype)
        return embeddings.flatten(0, 1).index_copy(0, where, features).view_as(embeddings)

    def forward(self, tokens: Tensor, images: ImageBatch | None = None, context: Context | None = None) -> Tensor:
        """Token numbers [B, S] and the images of their slots -> logits [B, S, V]; the context is the decoder's."""
        return self.decoder(context=context, embeddings=self.embed(tokens, images))

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,
        images: ImageBatch | None = None,
        *,
        max_new_tokens: int,
        mask: Tensor | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        processors: Sequence[Callable[..., Tensor]] = (),
        generator: torch.Generator | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Continue prompts [B, S], padded on the left, until each has ended: [B, S + at most max_new_tokens].

        Args:
            tokens: the prompts.
            images: of the prompts' image slots.
            max_new_tokens: at most so many are added.
            mask: [B, S], True where a token is real; None where all are.
            temperature: 0 takes the most likely token.
            top_k: sample among the k most likely tokens; None among all.
            processors: change the logits before a token is chosen, such as `NoRepeatNGram`.
            generator: source of randomness; None is torch's own.
            progress: called with the number of tokens added so far.

        Raises:
            ValueError: what `embed` or the decoder's `generate` refuses.
        """
        return self.decoder.generate(
            tokens,
            max_new_tokens,
            embeddings=self.embed(tokens, images),
            mask=mask,
            end_token=self.end_token,
            padding_token=self.padding_token,
            temperature=temperature,
            top_k=top_k,
            processors=processors,
            generator=generator,
            progress=progress,
        )
