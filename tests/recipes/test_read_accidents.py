"""`python -m recipes.read` where memory, disk, names, numbers or the person get in its way."""

import errno
import io
import itertools
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_reading import page, pdf, read, write_checkpoint, written

import recipes.files
from recipes.reading.console import Console
from recipes.reading.lines import shown
from recipes.reading.reader import Reader


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pages(*names: str) -> tuple[str, ...]:
    for number, name in enumerate(names):
        page((40, 30), number).save(name, "PNG")
    return names


def only_up_to(monkeypatch, limit: int, error: Exception) -> list[int]:
    """Let the reader's memory hold so many pages; the sizes of the batches that were tried."""
    whole, sizes = Reader._read, []

    def full(self, images, *arguments):
        sizes.append(len(images))
        if len(images) > limit:
            raise error
        return whole(self, images, *arguments)

    monkeypatch.setattr(Reader, "_read", full)
    return sizes


CPU = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU)])
def test_a_batch_that_is_too_large_is_read_in_smaller_ones(checkpoint, folder, capsys, monkeypatch, error):
    names = pages("a.png", "b.png", "c.png", "d.png", "e.png")
    assert read(checkpoint, *names, "--batch-size", "1") == 0
    alone = written()
    sizes = only_up_to(monkeypatch, 2, error)
    assert read(checkpoint, *names, "--overwrite") == 0
    # what did not fit once is not tried again
    assert sizes == [4, 2, 2, 1]
    assert written() == alone
    assert "going on with --batch-size 2" in capsys.readouterr().out


def test_a_page_that_is_too_large_alone_fails_alone(checkpoint, folder, capsys, monkeypatch):
    names = pages("a.png", "b.png")
    calls, whole = itertools.count(), Reader._read

    def full(self, *arguments):
        if next(calls) == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, *arguments)

    monkeypatch.setattr(Reader, "_read", full)
    assert read(checkpoint, *names, "--batch-size", "1") == 1
    assert list(written()) == ["b.md"]
    assert "error: a.png: is too much for the memory, alone too; give a lower" in capsys.readouterr().err


def test_other_errors_of_a_batch_are_not_hidden(checkpoint, folder, monkeypatch):
    only_up_to(monkeypatch, 0, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        read(checkpoint, *pages("a.png"))


def test_numbers_that_are_not_finite_are_no_text(checkpoint, folder, capsys, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in checkpoint.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    (name,) = [name for name in tensors if name.endswith("lm_head.weight")]
    tensors[name][0, 0] = float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    assert read(broken, *pages("a.png")) == 2
    assert written() == {}
    assert "error: a.png: makes numbers that are not finite" in capsys.readouterr().err


def test_a_full_disk_ends_the_run_and_says_how_to_go_on(checkpoint, folder, capsys, monkeypatch):
    names = pages("a.png", "b.png", "c.png")
    calls, fsync = itertools.count(), os.fsync

    def full(descriptor):
        if next(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(recipes.files.os, "fsync", full)
    assert read(checkpoint, *names) == 1
    assert [path.name for path in Path("out").iterdir()] == ["a.md"]
    told = capsys.readouterr()
    assert told.err == (
        "error: out/b.md cannot be written (No space left on device); the same command with --resume goes on\n"
    )
    assert "1 page read" in told.out.splitlines()[-1]
    assert "2 not reached" in told.out.splitlines()[-1]
    assert read(checkpoint, *names, "--resume") == 0


def test_a_name_that_is_too_long_to_write_fails_alone(checkpoint, folder, capsys):
    long = "x" * 251
    assert read(checkpoint, *pages(f"{long}.png", "a.png")) == 1
    assert list(written()) == ["a.md"]
    assert f"out/{long}.md cannot be written (File name too long)" in capsys.readouterr().err


def test_names_that_cannot_be_looked_up_fail_alone(checkpoint, folder, capsys):
    pages("a.png")
    assert read(checkpoint, "a.png", "x" * 300, "a.png/b.png") == 1
    long, below = capsys.readouterr().err.splitlines()
    assert long.endswith("cannot be read (File name too long)")
    assert below == "error: a.png/b.png: cannot be read (Not a directory)"


def test_pdfs_that_are_empty_or_no_files(checkpoint, folder, capsys):
    Path("empty.pdf").write_bytes(b"")
    # nobody writes into it: whoever opens it waits for ever
    os.mkfifo("pipe.pdf")
    pdf(Path("a.pdf"), 1)
    assert read(checkpoint, "empty.pdf", "pipe.pdf", "a.pdf") == 1
    empty, pipe = capsys.readouterr().err.splitlines()
    assert empty == "error: empty.pdf: is empty (0 bytes)"
    assert pipe == "error: pipe.pdf: is no ordinary file"


def test_names_in_other_encodings_and_with_control_characters(checkpoint, folder, capsys, monkeypatch):
    strange = ("\udce9.png", "two\nlines.png", "\x1b[31mred.png", "\u65e5\u672c.png")
    assert read(checkpoint, *pages(*strange)) == 0
    assert sorted(os.listdir("out")) == sorted(name.replace("png", "md") for name in strange)
    told = capsys.readouterr().out
    for text in (r"\udce9.png", r"two\nlines.png", r"\x1b[31mred.png", "\u65e5\u672c.png"):
        assert f" {text} -> out/" in told
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert read(checkpoint, strange[-1], "--overwrite") == 0
    assert rb" \u65e5\u672c.png -> out/" in stream.buffer.getvalue()
    assert shown("a\u2028b") == r"a\u2028b"


def test_a_standard_output_that_nobody_reads_ends_the_run(checkpoint, folder, capfd, monkeypatch):
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert read(checkpoint, *pages("a.png")) == 2
        assert capfd.readouterr().err == "error: the standard output cannot be written (Broken pipe)\n"


def test_outputs_that_cannot_be_are_told_before_the_model_is_loaded(checkpoint, folder, capsys, monkeypatch):
    pages("a.png")
    monkeypatch.setattr(Reader, "load", lambda options: pytest.fail("loaded"))
    monkeypatch.setattr("small_reading.OUTPUT", "a.png/out")
    assert read(checkpoint, "a.png") == 2
    assert capsys.readouterr().err == "error: --output: a.png is a file; give a folder\n"
    monkeypatch.setattr("small_reading.OUTPUT", "deep/out")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert read(checkpoint, "a.png") == 2
    assert "cannot be written; give another folder" in capsys.readouterr().err


def test_sigterm_ends_as_an_interrupt_does(checkpoint, folder, capsys, monkeypatch):
    whole, calls = Reader.read, itertools.count()

    def terminated(self, *arguments):
        if next(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        return whole(self, *arguments)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Reader, "read", terminated)
    assert read(checkpoint, *pages("a.png", "b.png", "c.png"), "--batch-size", "1") == 143
    assert list(written()) == ["a.md"]
    told = capsys.readouterr()
    assert told.err == "terminated; the same command with --resume goes on\n"
    assert "2 not reached" in told.out.splitlines()[-1]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch-size", "9" * 30], "--batch-size: must be a whole number from 1"),
        (["--max-new-tokens", "1" + "0" * 9], "--max-new-tokens"),
        (["--prompt", "caf\udce9"], "--prompt: must be UTF-8"),
        ([""], "a name is empty"),
    ],
)
def test_arguments_that_would_fail_later(checkpoint, folder, capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        read(checkpoint, *pages("a.png"), *arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_the_meta_device_is_refused(checkpoint, folder, capsys):
    assert read(checkpoint, *pages("a.png"), "--device", "meta") == 2
    assert "--device: meta cannot be used" in capsys.readouterr().err


def test_progress_without_a_terminal(capsys, monkeypatch):
    now = itertools.count(step=20)
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    console = Console(8)
    for tokens in range(1, 6):
        console.step(tokens, pages=2)
    console.failed(ValueError("x.png: no"))
    console.step(6, pages=2)
    console.summary()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("0 of 8 pages, token 1, ")
    assert "left" not in lines[0]
    assert lines[-2].startswith("1 of 8 pages, token 6, ")
    assert lines[-2].endswith(" left")
    assert "tokens/s" in lines[-2]
    assert "7 not reached" in lines[-1]


def test_freed_memory_is_returned_after_every_batch(checkpoint, folder, monkeypatch):
    # without it, 200 pages of a PDF at 144 dpi left 2 GB behind
    calls = []
    monkeypatch.setattr("recipes.memory.return_freed_memory", lambda: calls.append(len(written())))
    assert read(checkpoint, *pages("a.png", "b.png", "c.png"), "--batch-size", "2") == 0
    assert calls == [2, 3]
