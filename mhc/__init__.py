"""Residual topologies and the transformer trunk that runs on them; needs nothing but torch."""

from mhc import signal_gain
from mhc.attention import Attention
from mhc.cross_attention import CrossAttention
from mhc.description import Described, build, describe
from mhc.feed_forward import FeedForward, SwiGLU
from mhc.hyper_connection import HyperConnection
from mhc.language_model import CausalLanguageModel
from mhc.manifold_hyper_connection import ManifoldHyperConnection
from mhc.norm import RMSNorm
from mhc.parameter_groups import parameter_groups
from mhc.topology import Residual, ResidualTopology, TopologyFactory
from mhc.trunk import Context, KeyValueCache, Trunk

__all__ = [
    "Attention",
    "CausalLanguageModel",
    "Context",
    "CrossAttention",
    "Described",
    "FeedForward",
    "HyperConnection",
    "KeyValueCache",
    "ManifoldHyperConnection",
    "RMSNorm",
    "Residual",
    "ResidualTopology",
    "SwiGLU",
    "TopologyFactory",
    "Trunk",
    "build",
    "describe",
    "parameter_groups",
    "signal_gain",
]
