"""Pictures of a probe, drawn without a display."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = 8


def gain_by_depth(forward: Sequence[float], backward: Sequence[float], step: int) -> NDArray[np.uint8]:
    """Composite gain over depth on a log scale: an RGBA image [height, width, 4]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), dpi=100, layout="constrained")
    axes = figure.subplots()
    depth = range(1, len(forward) + 1)
    axes.plot(depth, forward, marker=".", label="forward")
    axes.plot(depth, backward, marker=".", label="backward")
    axes.set_yscale("log")
    axes.axhline(1, color="grey", linewidth=0.5)
    axes.set(xlabel="sublayers", ylabel="composite gain", title=f"step {step}")
    axes.legend()
    return _pixels(figure)


def mixing_heat_maps(mixings: Sequence[Tensor | None], step: int) -> NDArray[np.uint8]:
    """H_res [out, in], mean over tokens, of some sublayers evenly spread: an RGBA image [height, width, 4]."""
    from matplotlib.figure import Figure

    known = [k for k, mixing in enumerate(mixings) if mixing is not None]
    shown = [known[int(k)] for k in np.linspace(0, len(known) - 1, min(PANELS, len(known))).round()]
    matrices = {k: np.asarray(mixings[k]) for k in shown}
    largest = max(1.0, *(float(np.abs(matrix).max()) for matrix in matrices.values()))
    figure = Figure(figsize=(1.6 * len(shown) + 1, 2.1), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (k, matrix) in zip(panels, matrices.items(), strict=True):
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-largest, vmax=largest)
        axes.set(title=f"sublayer {k}", xticks=[], yticks=[])
    figure.colorbar(image, ax=panels)
    figure.suptitle(f"H_res (row: out, column: in), step {step}")
    return _pixels(figure)


def page_reading(page: Tensor | None, read: str, truth: str, step: int) -> NDArray[np.uint8]:
    """A page [3, H, W] of values about 0, what was read in it and what is there: an RGBA image [height, width, 4]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=100, layout="constrained")
    left, *others = figure.subplots(1, 3)
    if page is not None:
        lowest, highest = float(page.min()), float(page.max())
        left.imshow(((page - lowest) / max(highest - lowest, 1e-6)).movedim(0, -1).numpy())
    left.set(title=f"page, step {step}", xticks=[], yticks=[])
    for axes, title, text in zip(others, ("read", "truth"), (read, truth), strict=True):
        lines = [part for line in text.splitlines() for part in textwrap.wrap(line, 32) or [""]]
        # an untrained model writes bytes that no font has, and a dollar would begin a formula
        shown = "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines[:24])
        shown = shown.replace("$", r"\$")
        axes.text(0, 1, shown, va="top", family="monospace", size=8, transform=axes.transAxes)
        axes.set(title=title)
        axes.set_axis_off()
    return _pixels(figure)


def _pixels(figure: "Figure") -> NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())
