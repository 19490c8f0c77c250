"""Residual topologies and the transformer trunk that runs on them; needs nothing but torch."""

from mhc import signal_gain
from mhc.attention import Attention
from mhc.birkhoff_hyper_connection import BirkhoffHyperConnection
from mhc.cross_attention import CrossAttention
from mhc.decoding import NoRepeatNGram
from mhc.description import Described, build, describe
from mhc.feed_forward import FeedForward, SwiGLU
from mhc.hyper_connection import HyperConnection
from mhc.identity_hyper_connection import IdentityHyperConnection
from mhc.kronecker_hyper_connection import KroneckerHyperConnection
from mhc.language_model import CausalLanguageModel
from mhc.manifold_hyper_connection import ManifoldHyperConnection
from mhc.mixture_of_experts import MixtureOfExperts
from mhc.norm import RMSNorm
from mhc.parameter_groups import parameter_groups
from mhc.permutation_hyper_connection import PermutationHyperConnection
from mhc.routing import Routing, load_balancing_loss, router_statistics
from mhc.streams import StreamTopology
from mhc.topology import Residual, ResidualTopology, TopologyFactory
from mhc.trunk import Context, KeyValueCache, Trunk

__all__ = [
    "Attention",
    "BirkhoffHyperConnection",
    "CausalLanguageModel",
    "Context",
    "CrossAttention",
    "Described",
    "FeedForward",
    "HyperConnection",
    "IdentityHyperConnection",
    "KeyValueCache",
    "KroneckerHyperConnection",
    "ManifoldHyperConnection",
    "MixtureOfExperts",
    "NoRepeatNGram",
    "PermutationHyperConnection",
    "RMSNorm",
    "Residual",
    "ResidualTopology",
    "Routing",
    "StreamTopology",
    "SwiGLU",
    "TopologyFactory",
    "Trunk",
    "build",
    "describe",
    "load_balancing_loss",
    "parameter_groups",
    "router_statistics",
    "signal_gain",
]
