"""Prompts and images become what transformers makes of them; tokens become text again."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_tokenizer import tiny_tokenizer

from encoders.processor import FREE_OCR, MARKDOWN, OCR2Processor
from encoders.views import Views

VIEWS = Views(global_size=128, crop_size=64)
WIDE, TALL, SMALL = (Image.new("RGB", size, "teal") for size in ((150, 60), (60, 400), (20, 30)))


def processor(**arguments) -> OCR2Processor:
    return OCR2Processor(tiny_tokenizer(), **({"views": VIEWS, "page_tokens": 4, "crop_tokens": 1} | arguments))


PROMPTS = [FREE_OCR, "two: <image> and <image>é", "text alone", MARKDOWN]
IMAGES = [[WIDE], [SMALL, TALL], [], [TALL]]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_tokens_and_views_equal_transformers(padding):
    processing = pytest.importorskip("transformers.models.deepseek_ocr2.processing_deepseek_ocr2")
    imaging = pytest.importorskip("transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2")
    transformers = pytest.importorskip("transformers")
    begin, end, pad = (tiny_tokenizer().id_to_token(number) for number in range(3))
    theirs = processing.DeepseekOcr2Processor(
        imaging.DeepseekOcr2ImageProcessorPil(
            size={"height": 128, "width": 128}, tile_size=64, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tiny_tokenizer(), bos_token=begin, eos_token=end, pad_token=pad, padding_side=padding
        ),
    )
    expected = theirs(
        # their tokenizer puts no first token by itself
        text=[begin + prompt for prompt in PROMPTS],
        images=[row for row in IMAGES if row],
        padding=True,
        return_tensors="pt",
    )
    batch = processor()(PROMPTS, IMAGES, padding=padding)
    assert torch.equal(batch.tokens, expected["input_ids"])
    assert torch.equal(batch.mask, expected["attention_mask"].bool())
    assert batch.images.crop_counts == tuple(expected["num_local_patches"].tolist())
    assert torch.allclose(batch.images.pages, expected["pixel_values"], atol=1e-6, rtol=0)
    assert torch.allclose(batch.images.crops, expected["pixel_values_local"], atol=1e-6, rtol=0)


def test_released_counts():
    made = OCR2Processor(tiny_tokenizer())
    assert made.views == Views()
    batch = made([MARKDOWN], [[Image.new("RGB", (1190, 1684))]])
    assert int((batch.tokens == made.image_token).sum()) == 6 * 144 + 256 + 1
    assert [made.image_tokens(k) for k in (0, 2, 6)] == [257, 545, 1121]


def test_rows_begin_end_and_are_padded():
    made = processor()
    left, right = (made(PROMPTS, IMAGES, padding=side, end=True) for side in ("left", "right"))
    for row in range(len(PROMPTS)):
        tokens = left.tokens[row][left.mask[row]]
        assert tokens.tolist() == right.tokens[row][right.mask[row]].tolist()
        assert (int(tokens[0]), int(tokens[-1])) == (0, 1)
        assert (left.tokens[row][~left.mask[row]] == 2).all()
        assert (right.tokens[row][~right.mask[row]] == 2).all()
        # padding on one side only
        assert left.mask[row].int().diff().min() >= 0
        assert right.mask[row].int().diff().max() <= 0
    assert left.tokens.dtype == torch.int64
    assert left.mask.dtype == torch.bool


def test_text_alone_has_no_images():
    for images in (None, [[], []]):
        batch = processor()(["one", "and two"], images)
        assert batch.images is None
        assert batch.to("cpu", torch.bfloat16).tokens.shape == (2, 8)


def test_a_batch_moves_with_its_images():
    batch = processor()(PROMPTS, IMAGES).to(dtype=torch.bfloat16)
    assert batch.images.pages.dtype == batch.images.crops.dtype == torch.bfloat16
    assert batch.tokens.dtype == torch.int64
    assert batch.to("meta").images.pages.is_meta


def test_a_tokenizers_own_truncation_and_padding_are_off():
    tokenizer = tiny_tokenizer()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    made = OCR2Processor(tokenizer, views=VIEWS)
    assert len(made.encode("twelve bytes")) == 12


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_text_survives(text):
    made = processor()
    for mark in ("<image>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"):
        text = text.replace(mark, "")
    assert made.decode(made([text], end=True).tokens)[0] == text


def test_decoding_keeps_or_drops_marks():
    made = processor()
    text = "<|ref|>title<|/ref|>\n<table><tr><td>1</td></tr></table>"
    ids = [0, *made.encode(text), 1, 2, 2]
    assert made.decode(ids) == made.decode(torch.tensor(ids)) == text
    assert made.decode(torch.tensor([ids, ids])) == [text, text]
    assert made.decode(ids, special=False) == "title\n<table>1</table>"
    assert made.decode([]) == ""
    assert made.decode(torch.zeros(2, 0, dtype=torch.int64)) == ["", ""]
    with pytest.raises(ValueError, match="negative, got -100"):
        made.decode([5, -100])


@pytest.mark.parametrize(
    ("prompts", "images", "words"),
    [
        (["<image>", "<image> <image>"], [[WIDE], [WIDE]], "row 1 has 1 image for 2 <image> marks"),
        (["no mark"], [[WIDE, TALL]], "row 0 has 2 images for 0 <image> marks"),
        (["<image>"], None, "row 0 has 0 images for 1 <image> mark"),
        (["<image>"], [], "one list of images a prompt, got 0 for 1"),
        (["<image>"], [WIDE], "one list of images a prompt"),
        ([], None, "at least one text"),
        ("<image>", [[WIDE]], "list of at least one text"),
        (["<image>"], [[Image.new("L", (4, 4))]], "mode L"),
    ],
)
def test_bad_prompts_are_named(prompts, images, words):
    with pytest.raises(ValueError, match=words):
        processor()(prompts, images)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match='padding must be "left" or "right"'):
        processor()(["a"], padding="both")
    with pytest.raises(ValueError, match="crop_tokens"):
        processor(crop_tokens=0)
    with pytest.raises(ValueError, match="padding_token is 999"):
        processor(padding_token=999)
    with pytest.raises(ValueError, match="no token <table>"):
        processor().token("<table>")
    with pytest.raises(ValueError, match="2 images for 1 image tokens"):
        processor().expand([0, 259], [1, 2])


def test_settings_and_tokenizer_are_saved_and_read(tmp_path):
    made = processor(page_tokens=9, crop_tokens=2)
    made.save_pretrained(tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "ocr2_processor.json",
        "tokenizer.json",
    ]
    read = OCR2Processor.from_pretrained(tmp_path / "new" / "folder")
    assert (read.views, read.page_tokens, read.crop_tokens) == (VIEWS, 9, 2)
    assert torch.equal(read(PROMPTS, IMAGES).tokens, made(PROMPTS, IMAGES).tokens)
    other = OCR2Processor.from_pretrained(tmp_path / "new" / "folder", page_tokens=5)
    assert (other.page_tokens, other.crop_tokens) == (5, 2)


def test_a_released_folder_has_the_tokenizer_alone(tmp_path):
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    read = OCR2Processor.from_pretrained(tmp_path)
    assert (read.views, read.page_tokens, read.crop_tokens) == (Views(), 256, 144)


def test_a_save_that_fails_leaves_the_old_files(tmp_path, monkeypatch):
    processor().save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fails(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(json, "dumps", fails)
    with pytest.raises(OSError, match="no space"):
        processor(page_tokens=9).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("tokenizer.json", "{", "tokenizer.json is no tokenizer"),
        ("tokenizer.json", '{"version": "1.0"}', "tokenizer.json is no tokenizer"),
        ("ocr2_processor.json", "[]", "ocr2_processor.json"),
        ("ocr2_processor.json", "{", "ocr2_processor.json"),
        ("ocr2_processor.json", '{"page_token": 3}', "page_token, which no setting is called"),
        ("ocr2_processor.json", '{"page_tokens": "3"}', "page_tokens must be a whole number"),
        ("ocr2_processor.json", '{"views": {"crop_side": 3}}', "views.*crop_side"),
        ("ocr2_processor.json", '{"views": {"crop_size": "3"}}', "views"),
        ("ocr2_processor.json", '{"views": 3}', "views must hold"),
    ],
)
def test_broken_folders_are_named(tmp_path, file, content, words):
    processor().save_pretrained(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=words) as caught:
        OCR2Processor.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_tokenizer_without_image_slots_is_refused():
    tokenizer = tiny_tokenizer()
    broken = json.loads(tokenizer.to_str())
    broken["added_tokens"] = [token for token in broken["added_tokens"] if token["content"] != "<image>"]
    with pytest.raises(ValueError, match="no token <image>"):
        OCR2Processor(type(tokenizer).from_str(json.dumps(broken)))
    broken["model"]["vocab"]["<image>"] = 259
    with pytest.raises(ValueError, match="cuts <image> into pieces"):
        OCR2Processor(type(tokenizer).from_str(json.dumps(broken)))
