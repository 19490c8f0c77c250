"""OmniDocBench's ground truth, page by page."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.errors import UserError

# compared with the prediction, but not counted
IGNORED = frozenset((
    "figure_caption", "figure_footnote", "table_caption", "table_footnote", "code_algorithm",
    "code_algorithm_caption", "header", "footer", "page_footnote", "page_number", "equation_caption",
))  # fmt: skip
# in the order that decides between equal places in the reading order
RUNNING = (
    "text_block", "title", "code_txt", "code_txt_caption", "reference", "equation_caption", "figure_caption",
    "figure_footnote", "table_caption", "table_footnote", "code_algorithm", "code_algorithm_caption", "header",
    "footer", "page_footnote", "page_number", "equation_isolated",
)  # fmt: skip
FORMULA = "equation_isolated"
ATTRIBUTES = {"page type": "data_source", "language": "language", "layout": "layout"}


class PageError(Exception):
    """A page that cannot be scored, and why."""


@dataclass(frozen=True)
class Block:
    """A part of a page's truth.

    Attributes:
        category: as the benchmark names it.
        content: text, LaTeX of a formula, or HTML of a table.
        order: place in the reading order, None or 0 for none.
    """

    category: str
    content: str
    order: float | None


@dataclass(frozen=True)
class Page:
    """A page's truth as the file has it.

    Attributes:
        name: of its image's file.
        attributes: page type, language, layout.
        record: its entry.
    """

    name: str
    attributes: dict[str, str]
    record: Mapping[str, Any]

    def blocks(self) -> tuple[list[Block], list[Block]]:
        """Running blocks and tables, both in reading order; texts cut by a column or page are joined.

        Raises:
            PageError: the entry is broken.
        """
        try:
            return _blocks(self.record)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            what = f"there is no {error} where one is needed" if isinstance(error, KeyError) else str(error)
            raise PageError(f"its truth is broken ({what})") from None


def read_truth(path: Path) -> tuple[list[Page], list[str]]:
    """Read the pages of a ground-truth file, and the entries that are none.

    Raises:
        UserError: no such file, no JSON, no list of pages, or two pages of one image.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--ground-truth: {path} cannot be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"--ground-truth: {path} is no JSON ({error})") from None
    if not isinstance(records, list) or not records:
        raise UserError(f"--ground-truth: {path} holds no pages; give OmniDocBench's JSON, a list of them")
    pages: dict[str, Page] = {}
    broken = []
    for number, record in enumerate(records):
        try:
            page = _page(record)
        except (KeyError, TypeError, AttributeError):
            broken.append(f"entry {number} of {path.name}: it has no page_info.image_path")
            continue
        if page.name in pages:
            raise UserError(f"--ground-truth: {path} has two pages of {page.name}; take one out")
        pages[page.name] = page
    return list(pages.values()), broken


def _page(record: Mapping[str, Any]) -> Page:
    information = record["page_info"]
    name = str(information["image_path"]).replace("\\", "/").rsplit("/", 1)[-1]
    given = information.get("page_attribute") or {}
    return Page(name, {shown: str(given[key]) for shown, key in ATTRIBUTES.items() if given.get(key)}, record)


def _blocks(record: Mapping[str, Any]) -> tuple[list[Block], list[Block]]:
    chains = _chains((record.get("extra") or {}).get("relation") or [])
    chained = {number for chain in chains for number in chain}
    groups: dict[str, list[Block]] = {}
    parts = {}
    for item in record["layout_dets"]:
        if item["anno_id"] in chained:
            parts[item["anno_id"]] = item
        else:
            category = item["category_type"]
            groups.setdefault(category, []).append(Block(category, _content(item), item.get("order")))
    for chain in chains:
        # a part of three that are joined two by two comes twice, as it does in the benchmark
        items = sorted((parts[number] for number in chain), key=lambda item: item["order"])
        first = items[0]
        joined = Block(first["category_type"], "".join(item["text"] for item in items), first["order"])
        groups.setdefault(joined.category, []).append(joined)
    running = [block for category in RUNNING for block in groups.get(category, [])]
    return _in_order(running), _in_order(groups.get("table", []))


def _chains(relations: list[Mapping[str, Any]]) -> list[list[Any]]:
    chains: list[list[Any]] = []
    for relation in relations:
        if relation["relation_type"] != "truncated":
            continue
        pair = [relation["source_anno_id"], relation["target_anno_id"]]
        touched = [chain for chain in chains if pair[0] in chain or pair[1] in chain]
        for chain in touched:
            chain += pair
        if not touched:
            chains.append(pair)
    return chains


def _content(item: Mapping[str, Any]) -> str:
    category = item["category_type"]
    if category == "table":
        return str(item["html"])
    if category == FORMULA:
        return str(item["latex"])
    return str(item["text"]) if category in RUNNING else ""


def _in_order(blocks: list[Block]) -> list[Block]:
    return sorted(blocks, key=lambda block: block.order or 0)
