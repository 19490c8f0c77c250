"""Formulas drawn by TeX, many in one document and each on a page of its own, and where their symbols are.

TeX runs without its shell, in a temporary folder, for a limited time. As in the benchmark's own tool it goes on after
an error; formulas with errors are drawn in a document of their own.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pypdfium2
from scipy.ndimage import find_objects

from recipes.metrics.formula_parts import Formula, visible

ENGINES = ("pdflatex", "xelatex")
NEEDS = (
    "LaTeX of 2022 or later with amsmath, amssymb and color (on Debian: texlive-latex-recommended, for xelatex "
    "texlive-xetex, too)"
)
# what the benchmark draws with: the consistency of positions is judged in these pixels
DOTS_PER_INCH = 200
MARGIN = 8
# of one document, in seconds
TIMEOUT = 30
# a formula that is larger is none that a page could hold
MOST_PIXELS = 40_000_000

_BEGIN = r"""
\documentclass[12pt]{article}
\usepackage{amsmath,amssymb,color}\setcounter{MaxMatrixCols}{50}
\newcommand\maybe[1]{\IfFileExists{#1.sty}{\usepackage{#1}}{}}
\maybe{upgreek}\maybe{cancel}
\newcommand\page{\hoffset=-1in\voffset=-1in
\pdfpagewidth=\dimexpr\wd0+8pt\relax\pdfpageheight=\dimexpr\ht0+\dp0+8pt\relax
\shipout\vbox{\kern4pt\hbox{\kern4pt\box0\kern4pt}\kern4pt}}
\newif\ifideographs
\ifdefined\pdftexversion\IfFileExists{CJKutf8.sty}{\IfFileExists{c70gkai.fd}{\ideographstrue}{}}{}\fi
\ifideographs\usepackage{CJKutf8}\fi
\begin{document}
\ifideographs\begin{CJK}{UTF8}{gkai}\fi
"""
_FORMULA = r"""\typeout{formula %d}\begingroup\setbox0\hbox{$\displaystyle
%s
$}\page\endgroup
"""
_END = r"""\ifideographs\end{CJK}\fi
\end{document}
"""
_LOGGED = re.compile(r"^(?:formula (\d+)|! (.*))$", re.MULTILINE)


class TeXError(Exception):
    """There is no TeX that could draw a formula, and why."""


@dataclass(frozen=True)
class Drawing:
    """The symbols of a formula that left ink.

    Attributes:
        names: of each, in the order of the LaTeX.
        boxes: left, top, right, bottom in pixels [n, 4].
        size: width and height of the drawing, with a margin around its ink.
        late: nothing was drawn, for TeX took longer than `TIMEOUT`.
    """

    names: tuple[str, ...]
    boxes: np.ndarray
    size: tuple[int, int]
    late: bool = False


@dataclass(frozen=True)
class _Run:
    """What came of a document: its pages, formulas in which TeX complained, and its first complaint."""

    pages: list[Drawing | None]
    wrong: list[int]
    complaint: str
    late: bool = False


def check_engine(engine: str) -> str:
    """The engine.

    Raises:
        ValueError: formulas are not drawn with it.
    """
    if engine not in ENGINES:
        lua = " (lualatex would run programs that a formula brings along)" if "lua" in engine else ""
        raise ValueError(f"engine: {engine} is none of {' and '.join(ENGINES)}{lua}; give one of these")
    return engine


def find_engine(engines: Sequence[str] = ENGINES) -> str:
    """The first of some engines that is on PATH and draws a coloured symbol.

    Raises:
        TeXError: none is there, or each lacks a package.
        ValueError: formulas are not drawn with one of them.
    """
    complaints = []
    for engine in map(check_engine, engines):
        if not shutil.which(engine):
            continue
        run = _run([Formula(tuple(visible("x")))], engine)
        if not run.wrong and [drawing and drawing.names for drawing in run.pages] == [("x",)]:
            return engine
        complaints.append(f"{engine} is there but cannot draw ({run.complaint or 'it left no page'})")
    complaint = complaints[0] if complaints else f"no {' or '.join(engines)} was found"
    raise TeXError(f"{complaint}; install {NEEDS}")


def draw(formulas: Sequence[Formula], engine: str) -> list[Drawing | None]:
    """Draw formulas with an engine; None for those of which TeX makes no page.

    Raises:
        ValueError: an engine that formulas are not drawn with.
    """
    if not formulas:
        return []
    run = _run(formulas, check_engine(engine))
    complete = len(run.pages) == len(formulas)
    if complete and (len(formulas) == 1 or not run.wrong):
        return run.pages
    if len(formulas) == 1:
        return [Drawing((), np.empty((0, 4)), (0, 0), late=True) if run.late else None]
    found: list[Drawing | None] = [None] * len(formulas)
    wrong = set(run.wrong)
    rest = [index for index in range(len(formulas)) if index not in wrong]
    half = len(rest) if wrong else len(rest) // 2
    for group in ([index] for index in wrong), (rest[:half], rest[half:]):
        for indices in group:
            for index, drawing in zip(indices, draw([formulas[index] for index in indices], engine), strict=True):
                found[index] = drawing
    return found


def symbol_boxes(image: np.ndarray, names: Sequence[str]) -> Drawing | None:
    """Find the symbols in an image [H, W, 3] of RGB, where the n-th one, from 1, has the colour n; None without ink."""
    colours = image.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    ink = colours != 0xFFFFFF
    if not ink.any():
        return None
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    top, left = rows[0] - MARGIN, columns[0] - MARGIN
    found = find_objects(np.where(colours <= len(names), colours, 0), len(names))
    boxes = {
        name: (across.start - left - 1, down.start - top - 1, across.stop - left, down.stop - top)
        for name, place in enumerate(found)
        if place is not None
        for down, across in [place]
    }
    size = int(columns[-1] - columns[0]) + 2 * MARGIN, int(rows[-1] - rows[0]) + 2 * MARGIN
    return Drawing(tuple(names[name] for name in boxes), np.array([*boxes.values()], float).reshape(-1, 4), size)


def _run(formulas: Sequence[Formula], engine: str) -> _Run:
    with TemporaryDirectory(prefix="formulas") as name:
        folder = Path(name)
        body = "".join(_FORMULA % (number, formula.coloured()) for number, formula in enumerate(formulas))
        (folder / "formulas.tex").write_text(_BEGIN + body + _END, encoding="utf-8")
        command = [engine, "-no-shell-escape", "-interaction=batchmode", "formulas.tex"]
        # files of other folders are neither read nor written
        environment = {**os.environ, "openin_any": "p", "openout_any": "p"}
        ended = True
        try:
            subprocess.run(
                command, cwd=folder, env=environment, timeout=TIMEOUT, check=False,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            ended = False
        wrong, complaint = _complaints(folder / "formulas.log")
        pages = _pages(folder / "formulas.pdf", formulas) if ended else []
        return _Run(pages, wrong, complaint if ended else f"it took longer than {TIMEOUT} s", not ended)


def _complaints(log: Path) -> tuple[list[int], str]:
    """Formulas in which TeX complained, and the first complaint."""
    wrong, complaint, number = [], "", None
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    for line in _LOGGED.finditer(text):
        if line[1] is not None:
            number = int(line[1])
            continue
        complaint = complaint or line[2]
        if number is not None and number not in wrong:
            wrong.append(number)
    return wrong, complaint


def _pages(path: Path, formulas: Sequence[Formula]) -> list[Drawing | None]:
    """The document's drawings, none where there are not as many pages as formulas."""
    if not path.is_file():
        return []
    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError:
        return []
    with document:
        if len(document) != len(formulas):
            return []
        return [_page(page, formula.names) for page, formula in zip(document, formulas, strict=True)]


def _page(page: pypdfium2.PdfPage, names: Sequence[str]) -> Drawing | None:
    scale = DOTS_PER_INCH / 72
    width, height = page.get_size()
    if width * height * scale**2 > MOST_PIXELS:
        return None
    # without smoothing, a pixel has one symbol's colour and no mixture
    bitmap = page.render(
        scale=scale, no_smoothtext=True, no_smoothpath=True, no_smoothimage=True, rev_byteorder=True
    )  # fmt: skip
    return symbol_boxes(bitmap.to_numpy()[..., :3], names)
