"""Pages depend on their seed, number and options, and on nothing else; modes, degradation, bad input, the command."""

import hashlib
import itertools
import json
import random
import re
from dataclasses import replace
from pydoc_data.topics import topics

import numpy as np
import pytest
from PIL import Image

from recipes.documents import MODES, Contents, Corpus, Generator
from recipes.documents.__main__ import main
from recipes.documents.degradation import Degradation
from recipes.documents.draws import Draws
from recipes.documents.text import Prose, RandomLetters, RandomWords
from recipes.documents.tree import Footnote, Rank

CORPUS = Corpus("\n".join(topics.values()))
SMALL = Contents(text_size=8)
BARE = Contents(text_size=13, blocks=1, words=1, title=0, running=0, sidebar=0, footnotes=0)


def same(first, second) -> bool:
    return first.grounded == second.grounded and np.array_equal(first.image, second.image)


def test_a_page_depends_on_seed_and_number_alone():
    generator = Generator(CORPUS, 3, 200, 240, SMALL, degradation=0.5)
    together = generator.pages(range(6))
    alone = Generator(CORPUS, 3, 200, 240, SMALL, degradation=0.5).pages([4, 1])
    assert same(alone[0], together[4])
    assert same(alone[1], together[1])
    assert len({page.markdown for page in together}) == 6
    assert not same(Generator(CORPUS, 4, 200, 240, SMALL, degradation=0.5).pages([1])[0], together[1])


def test_draws_do_not_change():
    digest = hashlib.sha256(b"page\x000\x001").digest()
    chance = random.Random(int.from_bytes(digest, "big")).random
    draws = Draws("page", 0, 1)
    assert [draws.integer(0, 99) for _ in range(6)] == [int(100 * chance()) for _ in range(6)]
    assert Draws("a", 1).number(0, 1) != Draws("a", 2).number(0, 1)
    items = list(range(9))
    Draws("shuffle").shuffle(items)
    assert sorted(items) == list(range(9))


def test_key_changes_with_every_option():
    plain = {"corpus": CORPUS, "seed": 0, "width": 200, "height": 240, "contents": SMALL, "mode": "prose"}
    plain["degradation"] = 0.0
    changes = {
        "corpus": Corpus("other words stand here now and then"),
        "seed": 1,
        "width": 201,
        "height": 241,
        "contents": replace(SMALL, table=0.5),
        "mode": "random_words",
        "degradation": 0.1,
    }
    assert set(changes) == set(plain)
    keys = [Generator(**plain | {name: value}).key for name, value in changes.items()] + [Generator(**plain).key]
    assert len(set(keys)) == len(keys)
    assert Generator(**plain).key == Generator(**plain).key


def test_shuffled_columns_are_read_by_their_number():
    pages = Generator(CORPUS, 1, 260, 240, SMALL, "shuffled_columns").pages(range(12))
    moved = 0
    for page in pages:
        ranks = sorted(
            ((placed.box[0] + placed.box[2]) / 2, placed.block.number)
            for placed in page.blocks
            if isinstance(placed.block, Rank)
        )
        count = len(ranks)
        assert sorted(number for _, number in ranks) == list(range(1, count + 1))
        assert count >= 2
        edges = [(first + second) / 2 for (first, _), (second, _) in itertools.pairwise(ranks)]
        # the columns of the blocks that do not span them, as they are read: the number above never falls
        body = [placed for placed in page.text if not isinstance(placed.block, Footnote)]
        body = body[1:] if getattr(body[0].block, "level", 2) == 1 else body
        centres = [(placed.box[0] + placed.box[2]) / 2 for placed in body]
        numbers = [ranks[sum(centre > edge for edge in edges)][1] for centre in centres]
        assert numbers == sorted(numbers)
        assert set(numbers) == set(range(1, count + 1))
        moved += [number for _, number in ranks] != list(range(1, count + 1))
        assert not any(line.strip() == str(number) for number in range(1, 4) for line in page.markdown.splitlines())
    assert moved >= 4


def test_words_are_from_the_corpus_and_their_order_is_not():
    first = RandomWords(CORPUS, Draws(1), 12)
    known = {word.rstrip(",;:.!?") for word in CORPUS.words}
    words = first.words(500)
    assert set(words) <= known
    assert max(map(len, words)) <= 12
    text = " ".join(CORPUS.words)
    pairs = [f" {one} {other} " for one, other in zip(words[::2], words[1::2], strict=True)]
    prose = Prose(CORPUS, Draws(1), 99).words(500)
    assert sum(f" {one} {other} " in text for one, other in itertools.pairwise(prose)) > 490
    # pairs of frequent words occur by chance
    assert sum(pair in text for pair in pairs) < 0.4 * len(pairs)
    letters = "".join(RandomLetters(CORPUS, Draws(1), 12).words(500))
    counts = np.array([letters.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"])
    assert counts.sum() == len(letters)
    assert counts.min() > 0.5 * counts.mean()


@pytest.mark.parametrize("mode", ["prose", "shuffled_columns"])
def test_blocks_of_a_column_are_at_most_so_many(mode):
    contents = replace(SMALL, blocks=2, heading=0.5, title=0, footnotes=0, sidebar=0)
    documents = Generator(CORPUS, 0, 260, 240, contents, mode).documents(range(20))
    counts = {len(column.blocks) - MODES[mode].shuffled for document in documents for column in document.columns}
    assert counts == {2}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_makes_pages(mode):
    page = Generator(CORPUS, 0, 200, 240, SMALL, mode).pages([0])[0]
    assert page.markdown
    assert page.image.size == (200, 240)


def test_strength_of_degradation():
    clean = Generator(CORPUS, 0, 200, 240, SMALL).pages(range(12))
    worse = [
        np.mean(
            [
                np.abs(np.asarray(one.image, float) - np.asarray(other.image, float)).mean()
                for one, other in zip(
                    clean, Generator(CORPUS, 0, 200, 240, SMALL, degradation=strength).pages(range(12)), strict=True
                )
            ]
        )
        for strength in (0.2, 1.0)
    ]
    assert 0 < worse[0] < worse[1]
    assert not any(page.degraded for page in clean)


def test_boxes_turn_with_the_page():
    dot = Image.new("L", (200, 300), 255)
    dot.paste(0, (40, 250, 43, 253))
    turned = Degradation(angle=2.0)
    dark = np.argwhere(np.asarray(turned(dot)) < 128).mean(0)[::-1] + 0.5
    assert np.abs(np.array(turned.moved((41.5, 251.5), 200, 300)) - dark).max() < 0.7
    assert np.abs(dark - [41.5, 251.5]).max() > 2
    assert turned.moved((0, 300), 200, 300)[0] >= 0


@pytest.mark.parametrize("name", ["blur", "ink", "noise", "quality", "paper"])
def test_each_degradation_alone(name):
    page = Generator(CORPUS, 0, 200, 240, SMALL).pages([0])[0].image
    value = {"blur": 0.8, "ink": 60.0, "noise": 20.0, "quality": 20, "paper": 200.0}[name]
    changed = Degradation(**{name: value})
    assert np.array_equal(changed(page), changed(page))
    before, after = np.asarray(page, float), np.asarray(changed(page), float)
    assert after.shape == before.shape
    assert np.abs(after - before).mean() > 0.5
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.6


def test_bad_input():
    with pytest.raises(ValueError, match=r"20 x 240 pixels is too small for 1 column.*contents\.text_size"):
        Generator(CORPUS, 0, 20, 240)
    with pytest.raises(ValueError, match="too small for 3 columns"):
        Generator(CORPUS, 0, 200, 240, Contents(min_columns=3))
    with pytest.raises(ValueError, match="too small"):
        Generator(CORPUS, 0, 200, 0)
    with pytest.raises(ValueError, match="96 x 96 pixels is too small"):
        Generator(CORPUS, 0, 96, 96, Contents(text_size=13))
    assert Generator(CORPUS, 0, 96, 96, BARE).pages([0])[0].markdown
    with pytest.raises(ValueError, match="96 x 70 pixels is too small"):
        Generator(CORPUS, 0, 96, 70, BARE)
    with pytest.raises(ValueError, match="96 x 96 pixels is too small"):
        Generator(CORPUS, 0, 96, 96, replace(BARE, title=1))
    with pytest.raises(ValueError, match=r"mode must be one of prose, .* got 'none'"):
        Generator(CORPUS, 0, mode="none")
    with pytest.raises(ValueError, match="degradation must be from 0 to 1, got 2"):
        Generator(CORPUS, 0, degradation=2)
    with pytest.raises(ValueError, match=r"needs columns: raise contents\.max_columns"):
        Generator(CORPUS, 0, mode="shuffled_columns", contents=Contents(max_columns=1))
    for text in ("", "1 2 3 {}", "мы не знаем этих слов вовсе", "internationalisation " * 9):
        with pytest.raises(ValueError, match=r"'a\.txt' holds no words"):
            Corpus(text, "a.txt")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("text_size", 1),
        ("max_columns", 0),
        ("max_columns", 9),
        ("title", 2),
        ("table", 0.9),
        ("words", 0),
        ("blocks", 0),
        ("rows", 1),
        ("fonts", ()),
        ("fonts", ("Comic",)),
    ],
)
def test_contents_refuse(option, value):
    with pytest.raises(ValueError, match=rf"contents\..*{option}"):
        Contents(**{option: value})


def test_smallest_pages_are_never_empty():
    contents = Contents(text_size=8, title=1, running=1, sidebar=1, footnotes=1)
    for mode in ("prose", "shuffled_columns", "random_letters"):
        width, height = (150, 100) if mode == "shuffled_columns" else (80, 96)
        for page in Generator(CORPUS, 0, width, height, contents, mode).pages(range(50)):
            assert len(page.markdown) > 8
            assert page.text


def test_command(tmp_path, capsys):
    (tmp_path / "words.txt").write_text(topics["lambda"] * 3)
    out = tmp_path / "out"
    command = ["--output", str(out), "--pages", "2", "--width", "300", "--height", "360", "--text-size", "10"]
    assert main([*command, "--text", str(tmp_path / "words.txt"), "--seed", "4", "--degradation", "0.3"]) == 0
    assert "2 pages of 300 x 360" in capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert names == {f"page-00000{n}.{kind}" for n in (0, 1) for kind in ("png", "md", "json")} | {
        "all.pdf",
        "truth.json",
    }
    truth = json.loads((out / "truth.json").read_text())
    assert [page["page_info"]["image_path"] for page in truth] == ["page-000000.png", "page-000001.png"]
    written = (out / "page-000000.md").read_text()
    texts = [block.get("text") for block in truth[0]["layout_dets"] if block["category_type"] == "text_block"]
    assert texts
    assert all(text in written for text in texts)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--text", "nowhere.txt"], "nowhere.txt' is not found"),
        (["--width", "10"], "too small"),
        (["--pages", "0"], "--pages must be at least 1"),
        (["--columns", "3", "2"], "min_columns"),
    ],
)
def test_command_refuses(tmp_path, capsys, arguments, told):
    assert main(["--output", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: .*{re.escape(told)}.*\n", error)
