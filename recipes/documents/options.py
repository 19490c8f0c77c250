"""What stands on made-up pages, and the modes."""

from dataclasses import dataclass

from recipes.documents.text import Prose, RandomLetters, RandomWords, TextSource

# fewest characters of a column's line, and lines of a page: below, there is no layout to speak of
FEWEST_CHARACTERS, FEWEST_LINES = 12, 8
# and lines of a page that has a few blocks and nothing beside them
FEWEST_LINES_OF_BLOCKS = 4
# mean width of a character and height of a line, of the text's size
CHARACTER, LINE = 0.46, 1.22
FONTS = ("Libertinus Serif", "New Computer Modern", "DejaVu Sans Mono")


@dataclass(frozen=True)
class Mode:
    """How the text and the order of the columns come about.

    Attributes:
        source: of the words.
        shuffled: columns are read by the number printed at their head, and not from left to right.
    """

    source: type[TextSource]
    shuffled: bool = False


MODES = {
    "prose": Mode(Prose),
    "random_words": Mode(RandomWords),
    "random_letters": Mode(RandomLetters),
    "shuffled_columns": Mode(Prose, shuffled=True),
    "shuffled_random_words": Mode(RandomWords, shuffled=True),
}


@dataclass(frozen=True)
class Contents:
    """What stands on a page; what says nothing else is the probability that a page, or a block, has it.

    Args:
        text_size: of running text, in pixels.
        min_columns: the fewest of a page.
        max_columns: the most; fewer where a column would be too narrow.
        title: a title over all columns.
        heading: a block of a column is a heading and a paragraph.
        running: a line above or below the page, and its number; they are not part of its text.
        sidebar: a box beside the columns, of pages of one or two columns.
        footnotes: one to three of them.
        table: a block is a table.
        formula: a block is a displayed formula.
        listing: a block is a list.
        inline: a paragraph has formulas and words in italics.
        words: of a paragraph, at most.
        blocks: of a column, at most; None fills the page.
        rows: of a table, at most.
        fonts: of which a page has one; typst carries Libertinus Serif, New Computer Modern and DejaVu Sans Mono.

    Raises:
        ValueError: a value out of range, by its name.
    """

    text_size: float = 10.0
    min_columns: int = 1
    max_columns: int = 3
    title: float = 0.6
    heading: float = 0.15
    running: float = 0.4
    sidebar: float = 0.15
    footnotes: float = 0.2
    table: float = 0.12
    formula: float = 0.12
    listing: float = 0.1
    inline: float = 0.2
    words: int = 60
    blocks: int | None = None
    rows: int = 6
    fonts: tuple[str, ...] = FONTS[:2]

    def __post_init__(self) -> None:
        if not 4 <= self.text_size <= 200:
            raise ValueError(f"contents.text_size must be from 4 to 200 pixels, got {self.text_size}")
        if not 1 <= self.min_columns <= self.max_columns <= 4:
            raise ValueError(
                "contents.min_columns and max_columns must be 1 to 4, in this order, got "
                f"{self.min_columns} and {self.max_columns}"
            )
        for name in ("title", "heading", "running", "sidebar", "footnotes", "table", "formula", "listing", "inline"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"contents.{name} must be a probability, got {getattr(self, name)}")
        if (total := self.heading + self.table + self.formula + self.listing) > 1:
            raise ValueError(
                f"contents.heading, table, formula and listing add up to {total:g}: lower one to make it 1"
            )
        if self.blocks is not None and self.blocks < 1:
            raise ValueError(f"contents.blocks must be at least 1, got {self.blocks}")
        if self.words < 1 or self.rows < 2:
            raise ValueError(f"contents.words must be at least 1 and rows 2, got {self.words} and {self.rows}")
        if not self.fonts or set(self.fonts) - set(FONTS):
            raise ValueError(f"contents.fonts must be some of {', '.join(FONTS)}, got {list(self.fonts)}")
        object.__setattr__(self, "fonts", tuple(self.fonts))

    def most_columns(self, width: int, height: int) -> int:
        """How many columns a page of width x height pixels has room for.

        Raises:
            ValueError: none, or fewer than `min_columns`.
        """
        inner = width - 2 * self.margin(width)
        narrowest = FEWEST_CHARACTERS * CHARACTER * self.text_size
        room = int((inner + self.gutter) // (narrowest + self.gutter))
        lines = (height - 2 * self.margin(width)) / (LINE * self.text_size)
        beside = self.title or self.running or self.sidebar or self.footnotes or self.blocks is None
        if room < self.min_columns or lines < (FEWEST_LINES if beside else FEWEST_LINES_OF_BLOCKS):
            wanted = f"{self.min_columns} column{'s' * (self.min_columns > 1)}"
            raise ValueError(
                f"a page of {width} x {height} pixels is too small for {wanted} of text of {self.text_size:g} pixels: "
                "make the page larger, or lower contents.text_size or min_columns"
            )
        return min(room, self.max_columns)

    @property
    def gutter(self) -> float:
        """Between columns, in pixels."""
        return 1.2 * self.text_size

    def margin(self, width: int) -> float:
        """On all sides, in pixels."""
        return max(0.8 * self.text_size, 0.05 * width)
