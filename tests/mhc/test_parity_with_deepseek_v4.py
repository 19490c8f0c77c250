"""ManifoldHyperConnection against the DeepSeek-V4 module of transformers, forward and every gradient."""

from types import SimpleNamespace

import pytest
import torch
from helpers import assert_close, outputs_and_gradients, relative_error, with_weights
from torch.func import functional_call

from mhc import ManifoldHyperConnection

# both compute in fp32, logits of sigma 4 pass through 20 normalisations: the two differ by some 1e-7
TOLERANCE = 5e-6


def deepseek_v4(n: int, width: int, eps: float) -> torch.nn.Module:
    modeling = pytest.importorskip("transformers.models.deepseek_v4.modeling_deepseek_v4")
    return modeling.DeepseekV4HyperConnection(
        SimpleNamespace(hc_mult=n, hc_sinkhorn_iters=20, hc_eps=eps, rms_norm_eps=1e-6, hidden_size=width)
    )


def transposed(res_last: torch.Tensor, n: int) -> torch.Tensor:
    """Columns pre, post, res [..., n (n + 2)] with the res part, [out, in], turned to V4's [in, out], and back."""
    gates, res = res_last.split([2 * n, n * n], -1)
    return torch.cat([gates, res.unflatten(-1, (n, n)).mT.flatten(-2)], -1)


def inputs_of(n: int, width: int) -> dict[str, torch.Tensor]:
    """Logits of sigma 4, where another reading of eps is off by more than .01; some tokens small beside norm_eps."""
    columns = n * (n + 2)
    size = torch.where(torch.arange(50) % 10 == 0, 1e-3, 2.0)[:, None, None]
    return {
        "x": size * torch.randn(2, 50, n, width),
        "y": torch.randn(2, 50, width),
        "phi": 3.5 * torch.randn(n * width, columns) / (n * width) ** 0.5,
        "alpha": 1 + 0.1 * torch.randn(3),
        "bias": 2 * torch.randn(columns),
    }


@pytest.mark.parametrize("eps", [0.0, 1e-6])
@pytest.mark.parametrize(("n", "width"), [(4, 32), (4, 7), (2, 16), (3, 5)])
def test_a_sublayer_and_its_gradients_equal_deepseek_v4(n, width, eps):
    oracle = deepseek_v4(n, width, eps)

    def theirs_of(x, y, phi, alpha, bias):
        weights = {"fn": transposed(phi, n).mT, "base": transposed(bias, n), "scale": alpha}
        post, comb, collapsed = functional_call(oracle, weights, (x,))
        return collapsed, post, comb.mT, post[..., None] * y[..., None, :] + comb.mT @ x

    def ours_of(x, y, phi, alpha, bias):
        ours = ManifoldHyperConnection(width, streams=n, eps=eps, norm_eps=1e-6)
        with_weights(ours, phi=phi, alpha=alpha, bias=bias)
        z, carry = ours.aggregate(x)
        return z, carry.post, carry.res, ours.combine(x, y, carry)

    arguments = inputs_of(n, width)
    expected = outputs_and_gradients(theirs_of, arguments)
    assert_close(outputs_and_gradients(ours_of, arguments), expected, TOLERANCE)


def test_the_comparison_tells_conventions_apart():
    # what a wrong layout, a wrong order or a forgotten eps would measure, to show that TOLERANCE is far below
    arguments = inputs_of(4, 32)
    x = arguments["x"]
    oracle = deepseek_v4(4, 32, 1e-6)
    with torch.no_grad():
        oracle.fn.copy_(transposed(arguments["phi"], 4).mT)
        oracle.base.copy_(transposed(arguments["bias"], 4))
        oracle.scale.copy_(arguments["alpha"])
        comb = oracle(x)[1].mT

        def error(**options) -> float:
            ours = ManifoldHyperConnection(32, **({"eps": 1e-6, "norm_eps": 1e-6} | options))
            ours.load_state_dict({name: arguments[name] for name in ("phi", "alpha", "bias")})
            return relative_error(ours.coefficients(x).res, comb)

        assert error() < TOLERANCE
        assert error(last="columns") > 1000 * TOLERANCE
        assert error(eps=0.0) > 100 * TOLERANCE
        assert error(sinkhorn_steps=19) > 100 * TOLERANCE
        assert error(norm_eps=1e-20) > 100 * TOLERANCE
        oracle.fn.copy_(arguments["phi"].mT)
        assert relative_error(oracle(x)[1].mT, comb) > 0.1
