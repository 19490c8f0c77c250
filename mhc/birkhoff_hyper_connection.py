"""mHC whose H_res is doubly stochastic by construction: a point of Birkhoff's polytope, without Sinkhorn's steps."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from kernels.dispatch import compute_dtype, require, without_autocast
from kernels.hyper_coefficients import HyperCoefficients, normalised_projection
from mhc.manifold_hyper_connection import RESIDUAL_OFF_DIAGONAL
from mhc.streams import StreamTopology, leading_read, require_shape

Init = Literal["residual", "identity"]

# what the other logits of H_res are below the identity's under init="identity" (arXiv 2601.05732 and 2601.21579)
IDENTITY_DISTANCE = 8.0


class BirkhoffHyperConnection(StreamTopology):
    """x' = H_res x + H_post^T F(H_pre x), where a class makes H_res of K logits so that its rows and columns sum to 1.

    With v = vec(x) / sqrt(mean(vec(x)^2) + norm_eps) and (h_pre, h_post, h_res) = alpha (v phi) + bias:
    H_pre = sigmoid(h_pre), H_post = 2 sigmoid(h_post) as in mHC (arXiv 2512.24880, eq. 5-8), and H_res = matrix(h_res).
    Streams begin as copies and end as their mean. H_res of the first sublayer leaves copies as they are and that of the
    last one the mean, so that these two learn nothing.

    | init | H_res | H_pre | H_post | phi |
    |---|---|---|---|---|
    | residual | the diagonal of mHC's init of that name: 0.948 at n = 4 | as mHC's | 1 | 0 |
    | identity (mHC-lite, KromHC) | others 8 below I's | sigmoid(1) on that stream, sigmoid(-1) else | 2 H_pre | 0 |

    alpha starts at 0.01.

    Args:
        width: C, channels of a stream.
        index: of the sublayer in the trunk; stream (index mod n) leads at the start.
        streams: n, one of the class's `counts`.
        norm_eps: of the RMS over n C channels; 1e-20 is mHC's. Models with padding want 1e-6.
        init: "residual" or "identity".

    Raises:
        ValueError: an argument out of range, by name.

    Attributes:
        counts: the numbers of streams that the class's matrices exist for.
    """

    counts: Sequence[int] = range(1, 9)

    def __init__(
        self, width: int, index: int = 0, *, streams: int = 4, norm_eps: float = 1e-20, init: Init = "residual"
    ) -> None:
        super().__init__()
        name = type(self).__name__
        require_shape(width, streams)
        require(streams in self.counts, name, "streams", f"one of {', '.join(map(str, self.counts))}", streams)
        require(norm_eps > 0.0, name, "norm_eps", "positive", norm_eps)
        require(init in ("residual", "identity"), name, "init", "'residual' or 'identity'", repr(init))
        self.width, self.index, self.n, self.norm_eps, self.init = width, index, streams, norm_eps, init
        self.logits = len(self.start(0.0))
        columns = 2 * streams + self.logits
        self.phi = nn.Parameter(torch.empty(streams * width, columns, dtype=torch.float32))
        self.alpha = nn.Parameter(torch.empty(3, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(columns, dtype=torch.float32))
        self.reset_parameters()

    @abstractmethod
    def matrix(self, logits: Tensor) -> Tensor:
        """H_res [..., out, in] of logits [..., K]."""

    @abstractmethod
    def start(self, distance: float) -> Tensor:
        """Logits [K] of which the identity's is so far above the others'."""

    @abstractmethod
    def distance(self, diagonal: float) -> float:
        """The distance at which every entry of H_res's diagonal is `diagonal`, for n > 1."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set phi, alpha and bias to the `init` of the class's table."""
        n, lead = self.n, self.index % self.n
        nn.init.zeros_(self.phi)
        nn.init.constant_(self.alpha, 0.01)
        if self.init == "residual":
            pre, post = leading_read(n, lead), torch.zeros(n)
            diagonal = 1 / (1 + (n - 1) * math.exp(RESIDUAL_OFF_DIAGONAL))
            distance = self.distance(diagonal) if n > 1 else 0.0
        else:
            pre = post = 2 * torch.eye(n)[lead] - 1
            distance = IDENTITY_DISTANCE
        self.bias.copy_(torch.cat([pre, post, self.start(distance)]))

    def reduce(self, state: Tensor) -> Tensor:
        """Average the streams [B, S, n, C] to [B, S, C]."""
        return state.mean(-2)

    def coefficients(self, state: Tensor) -> HyperCoefficients:
        """H_pre [..., n], H_post [..., n] and H_res [..., out, in] of the streams [..., n, C], in fp32."""
        with without_autocast(state.device):
            flat = state.flatten(-2).to(compute_dtype(state))
            phi, alpha, bias = (tensor.to(flat.dtype) for tensor in (self.phi, self.alpha, self.bias))
            sizes = [self.n, self.n, self.logits]
            gates = torch.cat([gate.expand(size) for gate, size in zip(alpha, sizes, strict=True)])
            logits = torch.addcmul(bias, normalised_projection(flat, phi, self.norm_eps), gates)
            pre, post, res = logits.split(sizes, -1)
            return HyperCoefficients(pre.sigmoid(), 2 * post.sigmoid(), self.matrix(res))

    def extra_repr(self) -> str:
        """What `print(model)` shows of it."""
        return f"width={self.width}, index={self.index}, streams={self.n}, init={self.init!r}"
