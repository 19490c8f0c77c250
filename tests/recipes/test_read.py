"""`python -m recipes.read`: pages in, Markdown out, and a line for whatever cannot be read."""

import itertools
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_reading import VIEWS, page, pdf, read, write_checkpoint, written
from tiny_tokenizer import tiny_tokenizer

from encoders.processor import MARKDOWN, OCR2Processor
from encoders.released import load_ocr2
from encoders.views import Views
from mhc.decoding import NoRepeatNGram
from recipes.reading.reader import Reader


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# a PDF of one page under a password that nobody has
ENCRYPTED = b"""%%PDF-1.4
1 0 obj
<< /Type /Catalog /Pages 2 0 R >>
endobj
2 0 obj
<< /Type /Pages /Kids [3 0 R] /Count 1 >>
endobj
3 0 obj
<< /Type /Page /Parent 2 0 R /MediaBox [0 0 72 72] >>
endobj
4 0 obj
<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>
endobj
trailer
<< /Root 1 0 R /Encrypt 4 0 R /ID [<00112233445566778899aabbccddeeff> <00112233445566778899aabbccddeeff>] >>
""" % (b"5a" * 32, b"a5" * 32)


def expected(checkpoint: Path, image: Image.Image, window: int, tokens: int = 6) -> str:
    """What the model writes on one page alone."""
    processor = OCR2Processor.from_pretrained(checkpoint, page_tokens=3, crop_tokens=2)
    batch = processor([MARKDOWN], [[image]])
    found = load_ocr2(checkpoint).generate(
        batch.tokens, batch.images, max_new_tokens=tokens, processors=[NoRepeatNGram(20, window)]
    )
    return processor.decode(found[0, batch.tokens.shape[1] :]) + "\n"


def test_pages_of_images_pdfs_and_folders_are_read(checkpoint, folder, capsys):
    Path("scans").mkdir()
    pages = {"photo": page((70, 30)), "one": page((20, 14), 1), "two": page((16, 60), 2)}
    pages["photo"].save("photo.jpg.png")
    pages["one"].save("scans/one.PNG")
    pages["two"].save("scans/two.bmp")
    Path("scans/notes.txt").write_text("no page")
    Path("scans/deeper").mkdir()
    page().save("scans/deeper/page.png")
    pdf(Path("document.pdf"), 3)
    assert read(checkpoint, "photo.jpg.png", "document.pdf", "scans", "--batch-size", "2", tokens=40) == 0
    found = written()
    assert list(found) == [
        "document-0001.md", "document-0002.md", "document-0003.md", "one.md", "photo.jpg.md", "two.md"
    ]  # fmt: skip
    # batches of other pages, of other lengths, change nothing
    assert found["photo.jpg.md"] == expected(checkpoint, pages["photo"], 90, 40)
    assert found["one.md"] == expected(checkpoint, pages["one"], 90, 40)
    assert found["two.md"] == expected(checkpoint, pages["two"], 90, 40)
    assert len(set(found.values())) > 3
    told = capsys.readouterr()
    assert told.err == ""
    assert "document.pdf page 3 -> out/document-0003.md: 40 tokens" in told.out
    assert "6 pages read" in told.out.splitlines()[-1]
    assert "240 tokens" in told.out.splitlines()[-1]
    assert "0 failed; 6 without an end" in told.out.splitlines()[-1]


def test_a_pdf_is_drawn_at_its_dpi_on_white(folder):
    from recipes.reading.sources import Document

    pdf(Path("document.pdf"), 2)
    for dpi, size in ((144, (60, 80)), (72, (30, 40))):
        document = Document(Path("document.pdf"), dpi)
        assert document.pages == 2
        image = document.draw(1)
        document.close()
        assert (image.size, image.mode) == (size, "RGB")
        # Pillow's PDFs hold JPEGs
        assert min(image.getpixel((0, 0))) > 240
        assert min(image.convert("L").tobytes()) < 150


def test_pages_of_a_tiff_are_pages(checkpoint, folder):
    pages = [page((30, 40), k) for k in range(3)]
    pages[0].save("fax.tiff", save_all=True, append_images=pages[1:])
    pages[0].save("single.tif")
    assert read(checkpoint, "fax.tiff", "single.tif") == 0
    assert list(written()) == ["fax-0001.md", "fax-0002.md", "fax-0003.md", "single.md"]
    assert written()["fax-0003.md"] == expected(checkpoint, pages[2], 90)


BROKEN = {
    "cut.png": (lambda: (Path("whole.png").read_bytes()[:70], "truncated or corrupt")),
    "text.png": (lambda: (b"hello", "is no image")),
    "empty.jpg": (lambda: (b"", "is empty")),
    "broken.pdf": (lambda: (b"%PDF-1.4 and nothing", "is no PDF, or broken")),
    "secret.pdf": (lambda: (ENCRYPTED, "is encrypted")),
    "cut.tif": (lambda: (b"II*\0\x08\0\0\0\xff", "")),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow, about tags it skips
def test_what_is_broken_is_told_and_the_rest_is_read(checkpoint, folder, capsys):
    page().save("whole.png")
    pdf(Path("whole.pdf"), 1)
    contents = {name: make() for name, make in BROKEN.items()}
    for name, (data, _) in contents.items():
        Path(name).write_bytes(data)
    Path("nothing").mkdir()
    names = [*BROKEN, "missing.png", "missing.pdf", "nothing"]
    assert read(checkpoint, "whole.png", *names, "whole.pdf") == 1
    assert list(written()) == ["whole-0001.md", "whole.md"]
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert len(lines) == len(names)
    for name in names:
        (line,) = [line for line in lines if line.startswith(f"error: {name}")]
        assert contents.get(name, ("", ""))[1] in line
    assert "2 pages read" in told.out.splitlines()[-1]
    assert f"{len(names)} failed" in told.out.splitlines()[-1]


def test_nothing_to_read_is_two(checkpoint, folder, capsys):
    Path("text.png").write_bytes(b"hello")
    assert read(checkpoint, "missing.png") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: nothing can be read"
    assert read(checkpoint, "text.png") == 2
    assert written() == {}


def refused(capsys, checkpoint: Path, *arguments: str) -> str:
    assert read(checkpoint, *arguments) == 2
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 1, told.err
    assert told.err.startswith("error: ")
    return told.err


def test_two_inputs_of_one_name_are_refused(checkpoint, folder, capsys):
    for name in ("a.png", "a.jpg", "b-0001.png"):
        page().save(name)
    pdf(Path("b.pdf"), 1)
    assert "a.png and a.jpg would both be written to out/a.md" in refused(capsys, checkpoint, "a.png", "a.jpg")
    assert "b.pdf page 1 and b-0001.png would both" in refused(capsys, checkpoint, "b.pdf", "b-0001.png")
    assert "a.png and ./a.png" in refused(capsys, checkpoint, "a.png", "././a.png").replace(
        "a.png and a", "a.png and ./a"
    )
    assert written() == {}


def test_outputs_that_exist_are_refused_skipped_or_replaced(checkpoint, folder, capsys):
    for name in ("a.png", "b.png"):
        page().save(name)
    Path("out").mkdir()
    Path("out/a.md").write_text("mine")
    assert "out/a.md exists; --resume skips" in refused(capsys, checkpoint, "a.png", "b.png")
    assert written() == {"a.md": "mine"}
    assert read(checkpoint, "a.png", "b.png", "--resume") == 0
    assert "1 page read" in (line := capsys.readouterr().out.splitlines()[-1])
    assert "1 there already" in line
    found = written()
    assert found.pop("a.md") == "mine"
    assert read(checkpoint, "a.png", "b.png", "--resume") == 0
    assert "0 pages read" in capsys.readouterr().out
    assert read(checkpoint, "a.png", "b.png", "--overwrite") == 0
    assert written() == found | {"a.md": found["b.md"]}
    assert found["b.md"] != "mine"
    with pytest.raises(SystemExit) as caught:
        read(checkpoint, "a.png", "--overwrite", "--resume")
    assert caught.value.code == 2


def test_an_interrupted_run_goes_on(checkpoint, folder, capsys, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        page().save(name)
    whole, calls = Reader.read, itertools.count()

    def interrupted(self, *arguments):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    monkeypatch.setattr(Reader, "read", interrupted)
    assert read(checkpoint, "a.png", "b.png", "c.png", "--batch-size", "1") == 130
    assert list(written()) == ["a.md"]
    assert "--resume goes on" in capsys.readouterr().err
    assert read(checkpoint, "a.png", "b.png", "c.png", "--resume") == 0
    assert list(written()) == ["a.md", "b.md", "c.md"]


def reader(checkpoint: Path, *arguments: str) -> Reader:
    from recipes.reading.options import parse

    return Reader.load(parse(["x.png", "--checkpoint", str(checkpoint), "--output", "out", *arguments]))


def test_images_and_pdfs_have_their_windows_against_repeats(checkpoint, folder, monkeypatch):
    page().save("a.png")
    pdf(Path("b.pdf"), 1)
    used = []
    monkeypatch.setattr("recipes.reading.reader.NoRepeatNGram", lambda *rule: used.append(rule) or NoRepeatNGram(*rule))
    allowed = [tiny_tokenizer().token_to_id(name) for name in ("<td>", "</td>")]
    assert read(checkpoint, "a.png", "b.pdf") == 0
    assert used == [(20, 90, allowed), (20, 50, allowed)]
    assert read(checkpoint, "a.png", "b.pdf", "--overwrite", "--no-repeat", "3,7") == 0
    # one rule, so one batch
    assert used[2:] == [(3, 7, allowed)]
    assert read(checkpoint, "a.png", "b.pdf", "--overwrite", "--no-repeat", "off") == 0
    assert len(used) == 3


def test_no_trigram_stands_twice_where_that_is_asked_for(checkpoint, folder):
    page().save("a.png")
    assert read(checkpoint, "a.png", "--no-repeat", "3,200", tokens=80) == 0
    text = written()["a.md"].strip()
    grams = [text[k : k + 3] for k in range(len(text) - 2)]
    assert len(grams) == len(set(grams))
    assert read(checkpoint, "a.png", "--no-repeat", "off", "--overwrite", tokens=80) == 0
    text = written()["a.md"].strip()
    grams = [text[k : k + 3] for k in range(len(text) - 2)]
    assert len(grams) > len(set(grams))


def test_prompts_and_marks(checkpoint, folder, monkeypatch):
    for name, prompt in (
        ("markdown", MARKDOWN), ("free", "<image>\nFree OCR."), ("Read it.", "<image>\nRead it."),
        ("Look: <image>", "Look: <image>"),
    ):  # fmt: skip
        assert reader(checkpoint, "--prompt", name).options.prompt == prompt
    made, raw = reader(checkpoint), reader(checkpoint, "--raw")
    grounded = "<|ref|>title<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\n# A title\n"
    ids = [*made.processor.encode(grounded), 1, 2, 2]
    assert made._reading(ids).text == "# A title"
    assert raw._reading(ids).text == grounded.strip()
    assert (made._reading(ids).ended, made._reading(ids).tokens) == (True, len(ids) - 2)
    assert (made._reading(ids[:-3]).ended, made._reading(ids[:-3]).tokens) == (False, len(ids) - 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "<image><image>"], "a page is one <image>"),
        (["--batch-size", "0"], "--batch-size"),
        (["--dpi", "x"], "--dpi"),
        (["--no-repeat", "20"], "N,WINDOW"),
        (["--no-repeat", "20,10"], "N <= WINDOW"),
    ],
)
def test_bad_arguments_are_named(checkpoint, folder, capsys, arguments, words):
    page().save("a.png")
    with pytest.raises(SystemExit) as caught:
        read(checkpoint, "a.png", *arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_devices_checkpoints_and_outputs_that_are_none(checkpoint, folder, capsys, tmp_path):
    page().save("a.png")
    assert "--device: warp is no device" in refused(capsys, checkpoint, "a.png", "--device", "warp")
    assert "--device: cuda:99 is not there" in refused(capsys, checkpoint, "a.png", "--device", "cuda:99")
    assert "missing is no folder" in refused(capsys, tmp_path / "missing", "a.png")
    assert f"{tmp_path} has no tokenizer.json" in refused(capsys, tmp_path, "a.png")
    assert written() == {}
    Path("out").write_text("a file")
    assert "--output: out is a file" in refused(capsys, checkpoint, "a.png")


def test_a_tokenizer_of_another_checkpoint_is_refused(checkpoint, folder, capsys, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in checkpoint.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens(["<new>"])
    OCR2Processor(tokenizer, views=Views(global_size=48, crop_size=16)).save_pretrained(other)
    page().save("a.png")
    assert "no query bank for a view of 48x48" in refused(capsys, other, "a.png")
    OCR2Processor(tokenizer, views=VIEWS, end_token=5).save_pretrained(other)
    assert "end_token is 1 in the model and 5 in the tokenizer" in refused(capsys, other, "a.png")


def test_a_reader_in_bf16(checkpoint, folder):
    from recipes.reading.options import parse

    options = parse(["x.png", "--checkpoint", str(checkpoint), "--output", "out", "--max-new-tokens", "5"])
    model = load_ocr2(checkpoint, dtype=torch.bfloat16)
    made = Reader(model, OCR2Processor.from_pretrained(checkpoint), options)
    steps = []
    readings = made.read([page((70, 30)), page((8, 8))], 90, steps.append)
    assert [reading.tokens for reading in readings] == [5, 5]
    assert steps == [1, 2, 3, 4, 5]
