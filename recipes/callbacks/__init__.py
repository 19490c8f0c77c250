"""What looks on while a model trains."""

from recipes.callbacks.compiled_sublayers import CompiledSublayers
from recipes.callbacks.divergence_guard import DivergedError, DivergenceGuard
from recipes.callbacks.interruption import Interrupted, Interruption
from recipes.callbacks.model_folder import ModelFolder
from recipes.callbacks.page_samples import PageSamples
from recipes.callbacks.query_order import QueryOrder
from recipes.callbacks.run_record import RunRecord, checkpoint_defaults
from recipes.callbacks.signal_gain import SignalGain

__all__ = [
    "CompiledSublayers",
    "DivergedError",
    "DivergenceGuard",
    "Interrupted",
    "Interruption",
    "ModelFolder",
    "PageSamples",
    "QueryOrder",
    "RunRecord",
    "SignalGain",
    "checkpoint_defaults",
]
