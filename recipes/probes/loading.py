"""A checkpoint to probe."""

from pathlib import Path

from encoders.ocr2 import OCR2
from encoders.processor import OCR2Processor
from recipes.reading.options import Options as ReadingOptions
from recipes.reading.reader import Reader


def load(checkpoint: Path, device: str | None) -> tuple[OCR2, OCR2Processor]:
    """Model in evaluation mode and processor, as `recipes.read` loads them: bf16 on a GPU, fp32 on a CPU.

    Raises:
        UserError: a device or checkpoint that cannot be used, or model and tokenizer that do not belong together.
    """
    reader = Reader.load(ReadingOptions((), checkpoint, Path(), device=device))
    return reader.model, reader.processor
