"""Parquet of the olmOCR-mix kind: a row a page, its text in the row and its PDF in a file of its own.

Read are both layouts that there are, by the names of their columns:

- olmOCR-mix-0225: `url`, `page_number`, `response` and the index `id`; `response` is JSON with `natural_text` and
  `is_rotation_valid`, `rotation_correction` and others beside it. The page is the file `ID.pdf`.
- olmOCR-mix-1025: `id`, `url`, `page_number`, `pdf_relpath`, `natural_text` and the other fields as columns. The page
  is `pdf_relpath`, `pdf_tarballs/CHUNK.tar.gz:FOLDER/NAME.pdf`: a member of an archive.

A PDF holds its one page, whatever `page_number` says, which counts in the document that it was taken from. The archives
are compressed and cannot be read in any order: unpack them first. Not read: tables with images or PDFs as bytes in the
rows, and `rotation_correction`, so that pages stay as they are drawn.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recipes.data.records.interface import Record, RecordError, Records, find_files
from recipes.data.records.pdf_text import draw

# the index of a pandas table that has no name
INDICES = ("id", "__index_level_0__")
ARCHIVE = ".tar.gz:"
TEXT, RESPONSE, RELATIVE = "natural_text", "response", "pdf_relpath"


class OLMOCRMix(Records):
    """Rows with a page's text, and a folder with the PDFs.

    Args:
        path: a parquet file, a folder, or a pattern.
        pdfs: folder of the unpacked PDFs, in which `CHUNK.tar.gz/FOLDER/NAME.pdf`, `FOLDER/NAME.pdf` or `ID.pdf` is
            looked for; None is `pdf_tarballs/extracted` beside the parquet file.
        dpi: pixels an inch.
    """

    def __init__(self, path: str, pdfs: str | None = None, dpi: int = 144) -> None:
        self.path, self.dpi = path, dpi
        self.pdfs = None if pdfs is None else Path(pdfs).expanduser()

    @cached_property
    def files(self) -> list[Path]:
        """The parquet files."""
        return find_files(self.path, (".parquet",))

    @cached_property
    def _found(self) -> tuple[list[tuple[Path, pa.Table]], list[int], list[str]]:
        tables, ends, faults = [], [0], []
        for path in self.files:
            try:
                table = _read(path)
            except (OSError, pa.ArrowException, ValueError) as error:
                faults.append(f"{path}: cannot be read as parquet, or is cut ({' '.join(str(error).split())[:120]})")
                continue
            tables.append((path, table))
            ends.append(ends[-1] + len(table))
        return tables, ends, faults

    @property
    def faults(self) -> list[str]:
        """Files that are cut or no parquet."""
        return self._found[2]

    def __len__(self) -> int:
        return self._found[1][-1]

    def key(self, index: int) -> str:
        """File and id."""
        path, row = self._row(index)
        return f"{path.name} {_identity(row) or row['number']}"

    def read(self, index: int) -> Record:
        """Take the row's text, and draw its PDF."""
        path, row = self._row(index)
        key = self.key(index)
        text = _text(row, key)
        places = self._places(path, row)
        place = next((place for place in places if place.is_file()), None)
        if place is None:
            raise RecordError(key, f"has no PDF; looked for {' and '.join(map(str, places))}")
        return Record(draw(place, 0, self.dpi)[0], text, key)

    def _row(self, index: int) -> tuple[Path, dict[str, Any]]:
        tables, ends, _ = self._found
        if not 0 <= index < ends[-1]:
            raise IndexError(f"no record {index} of {ends[-1]}")
        part = next(part for part, end in enumerate(ends[1:]) if index < end)
        path, table = tables[part]
        number = index - ends[part]
        return path, table.slice(number, 1).to_pylist()[0] | {"number": number}

    def _places(self, path: Path, row: dict[str, Any]) -> list[Path]:
        """Where a row's PDF may lie."""
        folder = self.pdfs or path.parent / "pdf_tarballs" / "extracted"
        relative = row.get(RELATIVE)
        if relative:
            archive, separator, member = relative.partition(ARCHIVE)
            if separator:
                return [folder / archive.rpartition("/")[2] / member, folder / member]
            return [folder / relative]
        return [folder / f"{_identity(row)}.pdf"]


def _read(path: Path) -> pa.Table:
    file = pq.ParquetFile(path, memory_map=True)
    wanted = [name for name in (*INDICES, TEXT, RESPONSE, RELATIVE) if name in file.schema_arrow.names]
    if TEXT not in wanted and RESPONSE not in wanted:
        raise ValueError(f"it has neither {TEXT} nor {RESPONSE}, but {', '.join(file.schema_arrow.names)}")
    return file.read(columns=wanted)


def _identity(row: dict[str, Any]) -> str:
    return str(next((row[name] for name in INDICES if row.get(name) is not None), ""))


def _text(row: dict[str, Any], key: str) -> str:
    text = row.get(TEXT)
    if RESPONSE in row and TEXT not in row:
        try:
            text = json.loads(row[RESPONSE] or "")[TEXT]
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(key, f"has a response without {TEXT} ({error})") from None
    if not isinstance(text, str):
        raise RecordError(key, f"has no {TEXT}: the page is blank")
    return text
