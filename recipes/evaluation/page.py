"""One page's scores out of its truth and its prediction."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from scipy.optimize import linear_sum_assignment

from recipes.evaluation.formula_arrays import array_lines
from recipes.evaluation.matching import Line, category, match
from recipes.evaluation.pieces import FORMULA, INLINE, TEXT, Piece, Pieces, take_apart
from recipes.evaluation.truth import IGNORED, Block, Page, PageError
from recipes.metrics.distance import distance_matrix, edits
from recipes.metrics.formula_symbols import inside
from recipes.metrics.html_tables import cell_texts, normalise_table
from recipes.metrics.normalisation import latex_to_text, letters, normalise_formula, normalise_text
from recipes.metrics.tables import table_similarity


@dataclass
class Tally:
    """Edits out of so many characters.

    Attributes:
        edits: Levenshtein, summed over what is compared.
        length: the longer one of each two compared, summed.
    """

    edits: int = 0
    length: int = 0

    def add(self, prediction: Sequence, truth: Sequence) -> None:
        """Compare two."""
        self.edits += edits(prediction, truth)
        self.length += max(len(prediction), len(truth))

    @property
    def distance(self) -> float | None:
        """Edits / length, None where nothing was compared."""
        return self.edits / self.length if self.length else None


@dataclass
class PageScores:
    """What a page adds to the benchmark.

    Attributes:
        text: of text blocks and titles.
        formula: of displayed formulas.
        table: of tables' HTML.
        order: of the blocks' places in the reading order.
        text_of_formulas: formulas that were read as text; the benchmark adds them to the text where any page has some.
        tables: TEDS and TEDS-S of each table of the truth.
        has_text: whether any text was compared.
        formulas: each displayed formula's prediction, which may be empty, and truth, in LaTeX.
        cdm: of each of these but for empty pairs, None where formulas are not drawn.
    """

    text: Tally = field(default_factory=Tally)
    formula: Tally = field(default_factory=Tally)
    table: Tally = field(default_factory=Tally)
    order: Tally = field(default_factory=Tally)
    text_of_formulas: Tally = field(default_factory=Tally)
    tables: list[tuple[float, float]] = field(default_factory=list)
    has_text: bool = False
    formulas: list[tuple[str, str]] = field(default_factory=list)
    cdm: list[float] | None = None


def score_page(page: Page, markdown: str) -> PageScores:
    """Score a prediction, which may be empty.

    Raises:
        PageError: the truth is broken.
    """
    running, tables = page.blocks()
    pieces = take_apart(markdown)
    scores = PageScores()
    loose = _score_tables(scores, tables, pieces) if tables else []
    try:
        _score_running(scores, running, [*pieces.running, *loose])
    except (RecursionError, ValueError, TypeError) as error:
        raise PageError(f"it cannot be compared ({error})") from error
    return scores


def _score_tables(scores: PageScores, blocks: list[Block], pieces: Pieces) -> list[Piece]:
    """Score the tables; returns the cells of those that are too many, as texts."""
    blocks = [block for block in blocks if block.content]
    # the format of most tables is compared, and LaTeX is never equal to the truth's HTML
    tables = pieces.tables if len(pieces.tables) >= pieces.latex_tables else ()
    cost = distance_matrix([block.content for block in blocks], [table.content for table in tables])
    chosen = dict(zip(*(indices.tolist() for indices in linear_sum_assignment(cost)), strict=True))
    for row, block in enumerate(blocks):
        content = tables[chosen[row]].content if row in chosen else ""
        prediction = normalise_table(content) or content
        truth = normalise_table(block.content) or block.content
        scores.table.add(prediction, truth)
        scores.tables.append(table_similarity(prediction, truth))
    spare = [table for index, table in enumerate(tables) if index not in chosen.values()] if blocks else []
    return [replace(table, kind=TEXT, content=text) for table in spare for text in cell_texts(table.content)]


def _score_running(scores: PageScores, running: list[Block], pieces: list[Piece]) -> None:
    running = [part for block in running for part in _split_block(block)]
    pieces = sorted(pieces, key=lambda piece: (piece.kind == INLINE, piece.position))
    pieces = [part for piece in pieces for part in _split_piece(piece)]
    blocks = _lines((block.content, block.category, block.category == FORMULA) for block in running)
    lines = _lines((piece.content, piece.kind, piece.is_formula) for piece in pieces)
    placed = []
    for found in match(blocks, lines, IGNORED):
        kind = category(blocks, found, IGNORED)
        if kind in IGNORED:
            continue
        prediction = "".join(lines[index].normal for index in found.lines)
        truth = "".join(blocks[index].normal for index in found.blocks)
        # places and kinds are of the pieces before empty ones were taken out, as the benchmark has it: where one was,
        # those after it have the place of the one before
        first = pieces[found.lines[0]] if found.lines else None
        if kind != FORMULA:
            scores.has_text = True
            scores.text.add(prediction, truth)
            orders = [order for index in found.blocks if (order := running[index].order)]
            placed.append((orders, first and first.position))
        elif first is None or first.is_formula:
            scores.formula.add(prediction, truth)
            # several are drawn beside one another, as the benchmark joins them, and a comment ends with its own
            found_latex = "\n".join(inside(lines[index].content) for index in found.lines)
            scores.formulas.append((found_latex, "\n".join(inside(blocks[index].content) for index in found.blocks)))
        else:
            text = latex_to_text(_together([blocks[index].content for index in found.blocks]))
            scores.text_of_formulas.add(prediction, letters(text) or text)
    _score_order(scores.order, placed)


def _score_order(tally: Tally, placed: list[tuple[list[float], int | None]]) -> None:
    """Compare the blocks' order with that of the lines they were found in."""
    truth = sorted(order for orders, _ in placed for order in orders)
    found = sorted((pair for pair in placed if pair[1] is not None), key=lambda pair: pair[1])
    tally.add([order for orders, _ in found for order in orders], truth)


def _lines(items: Iterable[tuple[str, str, bool]]) -> list[Line]:
    """Normalise contents (content, category, whether it is a formula); what is empty then goes."""
    found = [
        Line(content, normalise_formula(content) if formula else normalise_text(content), name)
        for content, name, formula in items
    ]
    return [line for line in found if line.content and line.normal]


def _split_block(block: Block) -> list[Block]:
    found = array_lines(block.content) if block.category == FORMULA else None
    if found is None:
        return [block]
    if block.order is None:
        raise PageError("its truth is broken (a formula of several lines has no order)")
    return [
        replace(block, content=line, order=round(block.order + number / 10, 1))
        for number, (line, _) in enumerate(found, start=1)
    ]


def _split_piece(piece: Piece) -> list[Piece]:
    found = array_lines(piece.content) if piece.is_formula else None
    if found is None:
        return [piece]
    return [replace(piece, content=line, position=piece.position + start) for line, start in found]


def _together(formulas: list[str]) -> str:
    """Several formulas as one."""
    if len(formulas) == 1:
        return formulas[0]
    lines = " \\\\ ".join("{" + formula.strip("$").strip("\n") + "}" for formula in formulas)
    return f"\\begin{{array}}{{l}} {lines} \\end{{array}}"
