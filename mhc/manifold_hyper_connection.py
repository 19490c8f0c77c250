"""Manifold-constrained Hyper-Connections (mHC, arXiv 2512.24880): streams mixed by doubly stochastic matrices."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from kernels import combine_aggregate, hyper_coefficients
from kernels.dispatch import Implementation, Last, require, require_implementation, require_normalisation
from kernels.hyper_coefficients import HyperCoefficients
from mhc.streams import StreamTopology, leading_read, require_shape
from mhc.topology import ResidualTopology

Init = Literal["residual", "uniform", "identity"]

# off-diagonal logit of H_res under init="residual": at n = 4 a stream keeps 0.948 of itself, mixes over ~14
# sublayers, and a step of 0.01 in the logit moves an entry by 2e-4; at -8 it would be 3e-6
RESIDUAL_OFF_DIAGONAL = -4.0


class ManifoldHyperConnection(StreamTopology):
    """x' = H_res x + H_post^T F(H_pre x) over n streams, H_res doubly stochastic (arXiv 2512.24880, eq. 3-9).

    Streams begin as copies and end as their mean. A gate that is switched off (Table 1 of the paper) is the
    constant H_pre = 1/n, H_post = 1 or H_res = I.

    | init | H_res | H_pre | H_post | phi |
    |---|---|---|---|---|
    | residual | logits 0 on the diagonal, -4 off it | .55 on stream (index mod n), .45 over the others | 1 | 0 |
    | uniform (Liger, DeepSeek-V4) | J / n | .5 | 1 | normal, std .02 |
    | identity (mhc-lite) | as residual, -8 off it | sigmoid(+1) on that stream, sigmoid(-1) else | twice H_pre | 0 |

    "residual" equals the plain residual exactly while the streams are copies, and learns to part them; with one
    stream H_pre is sigmoid(8), the same function behind a pre-norm. "uniform" needs phi to be random: with phi = 0
    its streams would stay equal for ever. alpha starts at 0.01.

    Args:
        width: C, channels of a stream.
        index: of the sublayer in the trunk; stream (index mod n) leads at the start.
        streams: n, 1 to 8.
        sinkhorn_steps: t_max; the paper's is 20.
        last: "rows" (paper, DeepSeek-V4) or "columns" (Liger, Megatron) are normalised last.
        eps: 0 (paper) or what V4 and Liger add inside Sinkhorn and to H_pre, 1e-6.
        norm_eps: of the RMS over n C channels; 1e-20 (paper). Models with padding want 1e-6: the gradient of an
            all-zero token is 1e7 at 1e-20.
        init: "residual", "uniform" or "identity".
        pre: learn H_pre, or hold it at 1/n.
        post: learn H_post, or hold it at 1.
        res: learn H_res, or hold it at I.
        impl: code of the kernels: "auto", "reference", "native" or "triton".

    Raises:
        ValueError: an argument out of range, by name.
        RuntimeError: `impl="triton"` where Triton is not installed.
    """

    def __init__(
        self,
        width: int,
        index: int = 0,
        *,
        streams: int = 4,
        sinkhorn_steps: int = 20,
        last: Last = "rows",
        eps: float = 0.0,
        norm_eps: float = 1e-20,
        init: Init = "residual",
        pre: bool = True,
        post: bool = True,
        res: bool = True,
        impl: Implementation = "auto",
    ) -> None:
        super().__init__()
        require_shape(width, streams)
        require_normalisation("ManifoldHyperConnection", sinkhorn_steps, last, eps)
        require(norm_eps > 0.0, "ManifoldHyperConnection", "norm_eps", "positive", norm_eps)
        require_implementation("ManifoldHyperConnection", impl)
        self.width, self.index, self.n = width, index, streams
        self.sinkhorn_steps, self.last, self.eps, self.norm_eps = sinkhorn_steps, last, eps, norm_eps
        self.init, self.pre, self.post, self.res, self.impl = init, pre, post, res, impl
        columns = streams * (streams + 2)
        self.phi = nn.Parameter(torch.empty(streams * width, columns, dtype=torch.float32))
        self.alpha = nn.Parameter(torch.empty(3, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(columns, dtype=torch.float32))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set phi, alpha and bias to the `init` of the class's table.

        Raises:
            ValueError: `init` is none of the table's.
        """
        n, lead = self.n, self.index % self.n
        eye = torch.eye(n)
        nn.init.zeros_(self.phi)
        nn.init.constant_(self.alpha, 0.01)
        if self.init == "residual":
            pre, post, res = leading_read(n, lead), torch.zeros(n), RESIDUAL_OFF_DIAGONAL * (1 - eye)
        elif self.init == "uniform":
            nn.init.normal_(self.phi, std=0.02)
            pre, post, res = torch.zeros(n), torch.zeros(n), torch.zeros(n, n)
        elif self.init == "identity":
            pre = post = 2 * eye[lead] - 1
            res = -8.0 * (1 - eye)
        else:
            raise ValueError(f"init must be 'residual', 'uniform' or 'identity', got {self.init!r}")
        self.bias.copy_(torch.cat([pre, post, res.flatten()]))

    def combine_aggregate(
        self, state: Tensor, y: Tensor, carry: HyperCoefficients, following: ResidualTopology
    ) -> tuple[Tensor, Tensor, Any]:
        """One pass over the streams [B, S, n, C] where the following sublayer reads them in this class's way."""
        if not (isinstance(following, ManifoldHyperConnection) and self._joins(following)):
            return super().combine_aggregate(state, y, carry, following)
        state, x, *coefficients = combine_aggregate(
            state,
            y,
            carry.post,
            carry.res,
            following.phi,
            following.alpha,
            following.bias,
            **following._options(),
        )
        return state, x, following._switched(HyperCoefficients(*coefficients))

    def _joins(self, following: "ManifoldHyperConnection") -> bool:
        # with a `combine`, `aggregate` or `coefficients` of its own, a subclass or an object means something else
        return (
            self._does("combine")
            and following._does("aggregate")
            and following._does("coefficients")
            and following.pre
            and (self.n, self.width, self.impl) == (following.n, following.width, following.impl)
        )

    def _does(self, name: str) -> bool:
        """Whether a method is this class's own, overridden neither by a subclass nor on the object."""
        return getattr(getattr(self, name), "__func__", None) is getattr(ManifoldHyperConnection, name)

    def reduce(self, state: Tensor) -> Tensor:
        """Average the streams [B, S, n, C] to [B, S, C]."""
        return state.mean(-2)

    def coefficients(self, state: Tensor) -> HyperCoefficients:
        """H_pre [..., n], H_post [..., n] and H_res [..., out, in] of the streams [..., n, C], in fp32."""
        return self._switched(hyper_coefficients(state, self.phi, self.alpha, self.bias, **self._options()))

    def _options(self) -> dict[str, Any]:
        return {
            "steps": self.sinkhorn_steps,
            "last": self.last,
            "eps": self.eps,
            "norm_eps": self.norm_eps,
            "impl": self.impl,
        }

    def _switched(self, coefficients: HyperCoefficients) -> HyperCoefficients:
        pre, post, res = coefficients
        if not self.pre:
            pre = torch.full_like(pre, 1 / self.n)
        if not self.post:
            post = torch.ones_like(post)
        if not self.res:
            res = torch.eye(self.n, dtype=res.dtype, device=res.device).expand_as(res)
        return HyperCoefficients(pre, post, res)

    def extra_repr(self) -> str:
        """What `print(model)` shows of it."""
        return f"width={self.width}, index={self.index}, streams={self.n}, init={self.init!r}"
