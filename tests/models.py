"""Small language models for the tests of `mhc`."""

from functools import partial

import torch
import torch.nn.functional as F
from helpers import randomise
from torch import Tensor

from mhc import (
    Attention,
    CausalLanguageModel,
    Context,
    HyperConnection,
    IdentityHyperConnection,
    KroneckerHyperConnection,
    ManifoldHyperConnection,
    PermutationHyperConnection,
    Residual,
    SwiGLU,
    TopologyFactory,
    parameter_groups,
)

TOPOLOGIES: dict[str, TopologyFactory] = {
    "residual": Residual,
    "hc": HyperConnection,
    "mhc": ManifoldHyperConnection,
    "mhc lite": PermutationHyperConnection,
    "kromhc": KroneckerHyperConnection,
    "identity": IdentityHyperConnection,
}
VOCABULARY = 23


def language_model(topology: TopologyFactory, *, depth: int = 2, width: int = 16, seed: int = 0) -> CausalLanguageModel:
    """Grouped heads, query-key norm, SwiGLU, untied head; weights large enough for every sublayer to matter."""
    torch.manual_seed(seed)
    model = CausalLanguageModel(
        VOCABULARY,
        width,
        depth,
        topology=topology,
        attention=partial(Attention, heads=4, key_value_heads=2, query_key_norm=True),
        feed_forward=partial(SwiGLU, hidden=3 * width),
        tied=False,
    )
    for part in (model.embedding, model.trunk.sublayers, model.norm, model.head):
        randomise(part, 0.2)
    return model


def tokens(batch: int = 2, length: int = 11, seed: int = 5) -> Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def observed(model: CausalLanguageModel, inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(state, H_res) of every sublayer during a forward pass."""
    seen = []
    with torch.no_grad():
        model(inputs, Context(observe=lambda k, topology, state, carry: seen.append((state, topology.mixing(carry)))))
    return seen


def train(model: CausalLanguageModel, steps: int, learning_rate: float = 3e-3) -> float:
    """Steps of AdamW on counting by 1, 2 or 3 modulo the vocabulary; returns the last loss in nats a token."""
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=learning_rate, weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        start = torch.randint(VOCABULARY, (8, 1), generator=generator)
        stride = torch.randint(1, 4, (8, 1), generator=generator)
        counting = (start + stride * torch.arange(13)) % VOCABULARY
        loss = F.cross_entropy(model(counting[:, :-1]).flatten(0, 1), counting[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()
