"""The page with the path of the queries drawn on it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recipes.probes.order import Measured
from recipes.probes.views import View
from recipes.reports.style import BASELINE, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 7.0
COLOURS = "plasma"


def path_figure(view: View, measured: Measured, title: str, mean: float = 0.5, std: float = 0.5) -> "Figure":
    """Draw a view, its blocks with their order, and the centroids joined by a line that is coloured by query index.

    Args:
        view: of the page.
        measured: of that view.
        title: above it.
        mean: of `Views`, put back.
        std: of `Views`, put back.
    """
    import matplotlib as mpl
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    width, height = view.frame.size
    with mpl.rc_context(cast(Any, STYLE | {"axes.grid": False})):
        figure = Figure(figsize=(SIDE, SIDE * height / width), layout="constrained")
        axes = figure.subplots()
        # pale, for what is drawn on it
        axes.imshow(1 - 0.6 * (1 - _picture(view.pixels, mean, std)), extent=(0, width, height, 0))
        for block in view.ordered:
            left, top, right, bottom = block.box
            axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, ec=BASELINE, lw=0.8))
            axes.annotate(
                f"{block.order:g}", (left, top), (1, -1), textcoords="offset points", va="top", fontsize=7,
                color="white", bbox={"fc": BASELINE, "ec": "none", "pad": 1.0},
            )  # fmt: skip
        points = measured.centroids
        index = np.arange(len(points))
        steps = LineCollection(list(np.stack([points[:-1], points[1:]], 1)), cmap=COLOURS, linewidths=1.2, alpha=0.8)
        steps.set_array(index[:-1])
        axes.add_collection(steps)
        dots = axes.scatter(
            points[:, 0], points[:, 1], c=index, cmap=COLOURS, s=14, linewidths=0.3, edgecolors="white", zorder=3
        )
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], title=title)
        figure.colorbar(dots, ax=axes, label="query index", shrink=0.7)
    return figure


def title_of(name: str, view: View, measured: Measured) -> str:
    """The page's name and how its order is, short."""
    order = measured.order
    part = name if view.number is None else f"{name}, crop {view.number}"
    if measured.by_mass is None:
        return f"{part}\nindex against y {order.y:.2f}, against x {order.x:.2f}"
    return f"{part}\nindex against block order {order.mass:.2f} by mass, {order.centroid:.2f} by centroid"


def pixels_of(figure: "Figure") -> NDArray[np.uint8]:
    """The figure as an RGBA image [height, width, 4]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def paths(seen: Sequence[View], measured: Sequence[Measured], name: str, mean: float, std: float) -> list["Figure"]:
    """The pictures of all views of a page."""
    return [
        path_figure(view, each, title_of(name, view, each), mean, std)
        for view, each in zip(seen, measured, strict=True)
    ]


def _picture(pixels: Tensor, mean: float, std: float) -> NDArray[np.float64]:
    return (pixels.permute(1, 2, 0).double().numpy() * std + mean).clip(0, 1)
