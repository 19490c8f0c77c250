"""What every vision encoder asks of visual tokens and queries before it runs."""

from torch import Tensor


def require_visual(encoder: object, visual: Tensor, grid: tuple[int, int], width: int) -> None:
    """Raise a ValueError unless the visual tokens are [B, rows x columns, width].

    Args:
        encoder: named in the message.
        visual: visual tokens.
        grid: (rows, columns).
        width: that the encoder reads.
    """
    rows, columns = grid
    if visual.dim() != 3 or visual.shape[-1] != width or visual.shape[1] != rows * columns or visual.shape[1] < 1:
        raise ValueError(
            f"{type(encoder).__name__} reads visual tokens [B, {rows} x {columns}, {width}], got {list(visual.shape)}: "
            "set the encoder's width to the tokenizer's, and grid to the rows and columns of the tokens"
        )


def require_queries(encoder: object, queries: Tensor | None, batch: int, width: int) -> Tensor:
    """The queries; a ValueError unless there are some and they are [batch, q, width].

    Args:
        encoder: named in the message.
        queries: of one view size.
        batch: of the visual tokens.
        width: that the encoder reads.
    """
    name = type(encoder).__name__
    if queries is None:
        raise ValueError(f"{name} needs queries, got none: give the model a query bank of width {width}")
    if queries.dim() != 3 or queries.shape[0] != batch or queries.shape[1] < 1 or queries.shape[-1] != width:
        raise ValueError(
            f"{name} reads queries [{batch}, q, {width}], got {list(queries.shape)}: set the query bank's width to the "
            "encoder's, and expand it to the batch of the visual tokens"
        )
    return queries
