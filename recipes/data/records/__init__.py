"""Readers of real pages: images and what they are to be read as, in the forms in which they lie on disks."""

from recipes.data.records.interface import Record, RecordError, Records, Subset
from recipes.data.records.json_lines import JSONLines
from recipes.data.records.olmocr_mix import OLMOCRMix
from recipes.data.records.omnidocbench import OmniDocBench
from recipes.data.records.pairs import PairFolder
from recipes.data.records.pdf_text import PDFText
from recipes.data.records.tar_shards import TarShards

__all__ = [
    "JSONLines",
    "OLMOCRMix",
    "OmniDocBench",
    "PDFText",
    "PairFolder",
    "Record",
    "RecordError",
    "Records",
    "Subset",
    "TarShards",
]
