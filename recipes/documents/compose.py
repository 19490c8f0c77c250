"""Draw a document: style, columns, and blocks until the page is full."""

from recipes.documents.draws import Draws
from recipes.documents.formula import draw_equation, draw_symbol
from recipes.documents.options import CHARACTER, LINE, Contents, Mode
from recipes.documents.text import MARKS, SHORT, Corpus, TextSource
from recipes.documents.tree import (
    Block,
    Caption,
    Cell,
    Column,
    DisplayFormula,
    Document,
    Emphasis,
    Footnote,
    Inline,
    InlineFormula,
    Listing,
    NoteMark,
    PageNumber,
    Paragraph,
    Rank,
    RunningFoot,
    RunningHead,
    Style,
    Table,
    Title,
    Words,
)


class Composer:
    """Draws one document.

    Args:
        corpus: of the words.
        draws: all that is left to chance.
        width: of the page, in pixels.
        height: of the page, in pixels.
        contents: what stands on it.
        mode: where words and the columns' order come from.
    """

    def __init__(self, corpus: Corpus, draws: Draws, width: int, height: int, contents: Contents, mode: Mode) -> None:
        self.draws, self.contents, self.mode = draws, contents, mode
        most = contents.most_columns(width, height)
        # an order that is written on the page needs columns to be told apart
        self.columns = draws.integer(max(contents.min_columns, 2 if mode.shuffled else 1), most)
        self.style = self._style(width, height)
        inner = width - 2 * self.style.margin
        self.sidebar = self.columns < 3 and most > self.columns and not mode.shuffled and draws.chance(contents.sidebar)
        if self.sidebar:
            inner *= 1 - self.style.sidebar_share
        column = (inner - (self.columns - 1) * self.style.gutter) / self.columns
        # characters of a line and lines of a column, roughly
        wide = 1.3 if self.style.font.endswith("Mono") else 1.0
        self.line = max(int(column / (CHARACTER * wide * self.style.text_size)), 8)
        self.lines = int((height - 2 * self.style.margin) / (LINE * self.style.text_size))
        self.source: TextSource = mode.source(corpus, draws, longest=max(self.line - 5, SHORT))

    def document(self) -> Document:
        """Compose it."""
        draws, contents = self.draws, self.contents
        notes = draws.integer(1, 3 if self.lines > 30 else 1) if draws.chance(contents.footnotes) else 0
        spanning: tuple[Block, ...] = ()
        if draws.chance(contents.title):
            spanning = (Title(self.source.label(draws.integer(2, 6))),)
        order = list(range(self.columns))
        if self.mode.shuffled:
            draws.shuffle(order)
        columns = tuple(self._column(place, notes if number == 0 else 0) for number, place in enumerate(order))
        footnotes = tuple(Footnote(number + 1, self.source.sentence(draws.integer(4, 9))) for number in range(notes))
        above: tuple[Block, ...] = ()
        below: tuple[Block, ...] = ()
        if draws.chance(contents.running):
            number = PageNumber(draws.integer(1, 999))
            above, below = draws.choice(
                (
                    ((RunningHead(self.source.label(2)), number), ()),
                    ((RunningHead(self.source.label(3)),), (number,)),
                    ((), (RunningFoot(self.source.label(2)), number)),
                    ((), (number,)),
                )
            )
        return Document(self.style, columns, spanning, self._sidebar(), footnotes, above, below)

    def _style(self, width: int, height: int) -> Style:
        draws, size = self.draws, self.contents.text_size
        indented = draws.chance(0.3)
        return Style(
            width=width,
            height=height,
            margin=self.contents.margin(width),
            gutter=self.contents.gutter,
            text_size=size,
            font=draws.choice(self.contents.fonts),
            justified=draws.chance(0.5),
            indent=1.2 * size * indented,
            leading=draws.number(0.02, 0.2) * size,
            gap=size * (draws.number(0.25, 0.4) if indented else draws.number(0.5, 0.8)),
            sidebar_share=1 / (self.columns + 1),
            sidebar_left=draws.chance(0.3),
        )

    def _column(self, order: int, notes: int) -> Column:
        blocks: list[Block] = [Rank(order + 1)] if self.mode.shuffled else []
        blocks.append(self._marked(notes) if notes else self._paragraph())
        # more than there is room for: typst leaves out what does not fit
        used, most = 0.0, self.contents.blocks or self.lines
        while used < 1.15 * self.lines and len(blocks) - self.mode.shuffled < most:
            more = self._blocks()[: most - len(blocks) + self.mode.shuffled]
            used += sum(self._height(block) for block in more)
            blocks += more
        return Column(tuple(blocks), order)

    def _blocks(self) -> list[Block]:
        draws, contents = self.draws, self.contents
        kind = draws.number(0, 1)
        for probability, make in (
            (contents.heading, self._headed),
            (contents.table, self._table),
            (contents.formula, self._formula),
            (contents.listing, self._list),
        ):
            kind -= probability
            if kind < 0:
                return make()
        return [self._rich() if draws.chance(contents.inline) else self._paragraph()]

    def _height(self, block: Block) -> float:
        if isinstance(block, Table):
            return 1.5 * len(block.rows)
        if isinstance(block, Listing):
            return len(block.items) * 1.3
        if isinstance(block, Paragraph):
            letters = sum(len(part.text) for part in block.parts if isinstance(part, Words))
            return 0.5 + letters / self.line
        return 2.0

    def _count(self) -> int:
        # words of a paragraph: no more than about a third of a column's, so that small pages hold several
        words = self.contents.words
        return self.draws.integer(min(4, words), max(min(words, self.line * self.lines // 18), min(6, words)))

    def _paragraph(self) -> Block:
        return Paragraph((Words(self.source.text(self._count())),))

    def _marked(self, notes: int) -> Block:
        parts: list[Inline] = []
        for number in range(notes):
            parts += [Words(self.source.sentence(self.draws.integer(3, 6))), NoteMark(number + 1)]
        return Paragraph(tuple(parts))

    def _rich(self) -> Block:
        parts: list[Inline] = [Words(self.source.label(self.draws.integer(3, 8)))]
        for _ in range(self.draws.integer(1, 2)):
            if self.draws.chance(0.5):
                parts.append(
                    Emphasis(" ".join(word.rstrip(MARKS) for word in self.source.words(self.draws.integer(1, 2))))
                )
            else:
                parts.append(InlineFormula(draw_symbol(self.draws)))
            parts.append(Words(" ".join(self.source.words(self.draws.integer(2, 6)))))
        parts[-1] = Words(parts[-1].text.rstrip(MARKS) + ".")
        return Paragraph(tuple(parts))

    def _headed(self) -> list[Block]:
        return [Title(self.source.label(self.draws.integer(1, 4)), level=2), self._paragraph()]

    def _formula(self) -> list[Block]:
        return [DisplayFormula(draw_equation(self.draws, self.draws.integer(2, max(2, min(7, self.line // 5)))))]

    def _list(self) -> list[Block]:
        items = tuple(self.source.label(self.draws.integer(2, 6)) for _ in range(self.draws.integer(2, 4)))
        return [Listing(items, numbered=self.draws.chance(0.4))]

    def _table(self) -> list[Block]:
        columns = self.draws.integer(2, max(2, min(4, self.line // 9)))
        table = Table(self._rows(columns), columns, lines=self.draws.chance(0.6))
        return (
            [Caption(f"Table {self.draws.integer(1, 9)}: {self.source.sentence(3)}"), table]
            if self.draws.chance(0.5)
            else [table]
        )

    def _rows(self, columns: int) -> tuple[tuple[Cell, ...], ...]:
        draws, count = self.draws, self.draws.integer(2, self.contents.rows)
        taken: set[tuple[int, int]] = set()
        rows = []
        for row in range(count):
            cells = []
            for column in range(columns):
                if (row, column) in taken:
                    continue
                across = 2 if column + 1 < columns and (row, column + 1) not in taken and draws.chance(0.08) else 1
                down = 2 if row and row + 1 < count and draws.chance(0.08) else 1
                taken |= {(row + y, column + x) for y in range(down) for x in range(across)}
                cells.append(Cell(self._cell(row, column), across, down))
            rows.append(tuple(cells))
        return tuple(rows)

    def _cell(self, row: int, column: int) -> str:
        if row and column:
            whole = str(self.draws.integer(0, 999))
            return whole if self.draws.chance(0.6) else f"{whole}.{self.draws.integer(0, 9)}"
        return self.source.label(1)

    def _sidebar(self) -> tuple[Block, ...]:
        if not self.sidebar:
            return ()
        return (Title(self.source.label(2), level=2), self._paragraph(), *self._list())
