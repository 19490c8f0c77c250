"""The roofline: what is reached of the bandwidth and the arithmetic measured in the same run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw(rows: Sequence[dict[str, Any]], path: Path) -> str:
    """Write the picture; return what was done, in a line."""
    try:
        import matplotlib
    except ImportError:
        return "no picture: matplotlib is not installed"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    measured = [row for row in rows if row.get("us")]
    if not measured:
        return "no picture: nothing was measured"
    bandwidth, peak = measured[0]["copy_gb_per_s"] / 1e3, measured[0]["matmul_tflop_per_s"]
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    intensities = [row["flops"] / row["bytes"] for row in measured]
    ends = min(*intensities, 0.5) / 2, max(*intensities, 1.0) * 2
    knee = peak / bandwidth
    xs = sorted({*ends, *([knee] if ends[0] < knee < ends[1] else [])})
    axes.plot(xs, [min(peak, x * bandwidth) for x in xs], color="black", label="copy bandwidth, bf16 product")
    names = list(dict.fromkeys(row["operation"] for row in measured))
    for row, intensity in zip(measured, intensities, strict=True):
        if not row["form"]:
            color = f"C{names.index(row['operation'])}"
            fill = "none" if row["direction"] == "backward" else color
            axes.scatter(intensity, row["tflop_per_s"], edgecolors=color, facecolors=fill, s=18)
    for number, name in enumerate(names):
        axes.scatter([], [], color=f"C{number}", label=name)
    axes.set(
        xscale="log", yscale="log", xlabel="FLOP a byte", ylabel="TFLOP/s",
        title=f"{measured[0]['gpu'] or measured[0]['device']}: forward filled, backward hollow",
    )  # fmt: skip
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return f"written: {path}"
