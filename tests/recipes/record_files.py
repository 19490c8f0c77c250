"""Tiny pages in every form that records come in."""

import base64
import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import typst
from PIL import Image, ImageDraw


def png(number: int, size: tuple[int, int] = (40, 60)) -> bytes:
    """A page with a number on it."""
    page = Image.new("RGB", size, "white")
    ImageDraw.Draw(page).text((2, 2), str(number), fill="black")
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that says it is 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def text(number: int) -> str:
    """What the page with the number reads as."""
    return f"# page {number}"


def write_shard(path: Path, numbers: range, members: dict[str, bytes] | None = None) -> None:
    """A tar with an image and a text a page, and what else is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = {}
    for number in numbers:
        contents[f"train/{number:04d}.png"] = png(number)
        contents[f"train/{number:04d}.md"] = text(number).encode()
    with tarfile.open(path, "w") as tar:
        for name, data in (contents | (members or {})).items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_lines(path: Path, numbers: range) -> None:
    """JSONL whose images are paths, data texts and bare base64 in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in numbers:
        encoded = base64.b64encode(png(number)).decode()
        (path.parent / f"{number}.png").write_bytes(png(number))
        image = [
            {"image": f"{number}.png"},
            {"image": f"data:image/png;base64,{encoded}"},
            {"image_base64": encoded},
        ][number % 3]
        lines.append(json.dumps(image | {"text": text(number)}))
    path.write_text("\n".join(lines) + "\n")


def pdf(texts: list[str]) -> bytes:
    """A PDF with a page a text; an empty one is a page without a text layer."""
    pages = "\n#pagebreak()\n".join(text or "#rect(fill: black)" for text in texts)
    return typst.compile(f"#set page(width: 120pt, height: 90pt, margin: 8pt)\n{pages}".encode())


def write_mix(folder: Path, numbers: range, version: int) -> Path:
    """Parquet and PDFs of olmOCR-mix 0225 or 1025."""
    pdfs = folder / "pdf_tarballs" / "extracted"
    rows = []
    for number in numbers:
        name = f"abcd{number}-1"
        place = pdfs / f"{name}.pdf" if version == 225 else pdfs / f"abcd/{number}-1.pdf"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(pdf([f"page {number}"]))
        row = {"id": name, "url": f"https://example.org/{number}.pdf", "page_number": number + 3}
        if version == 225:
            response = {"primary_language": "en", "is_rotation_valid": True, "natural_text": text(number)}
            rows.append(row | {"response": json.dumps(response)})
        else:
            relative = f"pdf_tarballs/00_documents_train_00000.tar.gz:abcd/{number}-1.pdf"
            rows.append(row | {"pdf_relpath": relative, "is_table": False, "natural_text": text(number)})
    path = folder / "train.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path
