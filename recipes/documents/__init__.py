"""Pages that are made up: a tree of blocks, set by typst, and what is to be read on them.

`python -m recipes.documents --seed 0 --pages 8 --output FOLDER` writes some to look at.
"""

from recipes.documents.generate import Generator, Page
from recipes.documents.options import MODES, Contents
from recipes.documents.text import Corpus

__all__ = ["MODES", "Contents", "Corpus", "Generator", "Page"]
