"""The vision side: tokenizers, encoders, query banks, views; and the whole model, OCR2."""

from encoders.causal_flow import CausalFlowEncoder
from encoders.checkpoint import CheckpointError
from encoders.clip import CLIPEncoder
from encoders.deep_encoder import DeepEncoder
from encoders.images import ImageError, open_image
from encoders.interface import VisionEncoder, VisualTokenizer
from encoders.mbart import MBARTEncoder
from encoders.ocr2 import OCR2
from encoders.patch import PatchTokenizer
from encoders.pretrained import load_causal_flow, load_decoder, load_sam
from encoders.processor import OCR2Processor
from encoders.qformer import QFormerEncoder
from encoders.query_bank import FixedQueryBank, InterpolatedQueryBank, QueryBank
from encoders.raster import RasterEncoder
from encoders.sam import SAMTokenizer
from encoders.views import ImageBatch, Views

__all__ = [
    "OCR2",
    "CLIPEncoder",
    "CausalFlowEncoder",
    "CheckpointError",
    "DeepEncoder",
    "FixedQueryBank",
    "ImageBatch",
    "ImageError",
    "InterpolatedQueryBank",
    "MBARTEncoder",
    "OCR2Processor",
    "PatchTokenizer",
    "QFormerEncoder",
    "QueryBank",
    "RasterEncoder",
    "SAMTokenizer",
    "Views",
    "VisionEncoder",
    "VisualTokenizer",
    "load_causal_flow",
    "load_decoder",
    "load_sam",
    "open_image",
]
