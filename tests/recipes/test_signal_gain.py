"""The probe: right numbers, no traces, pictures where they belong."""

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mhc import ManifoldHyperConnection
from recipes.callbacks import SignalGain, figures
from recipes.callbacks.signal_gain import IDENTITY
from tests.recipes.training import corpus, model, rows, series, trainer


def run(folder, topology, steps=6, *, gain=None, **changes):
    module = model(topology)
    fit = trainer(folder, steps, callbacks=[gain or SignalGain(every_n_steps=4)], **changes)
    fit.fit(module, corpus(folder.parent))
    return module


def test_plain_residual_has_gain_exactly_one(tmp_path):
    run(tmp_path / "run", "residual")
    found = {name: value for _, name, value in rows(tmp_path / "run") if name.startswith("signal_gain/")}
    assert len(found) == 5 * len(IDENTITY) + 4 * 2
    for name, value in found.items():
        assert value == IDENTITY[name.rpartition("/")[2]]


@pytest.mark.parametrize("topology", ["hc", "mhc"])
def test_steps_and_names(tmp_path, topology):
    folder = tmp_path / "run"
    run(folder, topology)
    assert list(series(folder, "signal_gain/composite/forward")) == [0, 4, 6]
    assert list(series(folder, "gradient_norm/sublayer_03")) == [4, 6]
    assert list(series(folder, "stream_norm/sublayer_00/stream_1")) == [0, 4, 6]
    assert series(folder, "signal_gain/depth_03/backward") == series(folder, "signal_gain/composite/backward")
    assert all(value > 0 for value in series(folder, "gradient_norm/sublayer_00").values())


def test_values_equal_a_product_by_hand(tmp_path):
    module = run(tmp_path / "run", "hc", steps=12)
    mixings, data = [], corpus(tmp_path)
    with torch.no_grad():
        module.probe(data.probe_batch(2), lambda k, topology, state, carry: mixings.append(topology.mixing(carry)))
    product = torch.eye(2, dtype=torch.float64)
    for mixing in mixings:
        product = mixing.double() @ product
    by_hand = {
        "forward": product.sum(-1).abs().amax(-1).mean(),
        "backward": product.sum(-2).abs().amax(-1).mean(),
        "forward_max": product.sum(-1).abs().amax(),
        "log_row_min": product.sum(-1).abs().log().amin(),
        "log_column_error": product.sum(-2).abs().log().abs().amax(),
    }
    for name, value in by_hand.items():
        assert series(tmp_path / "run", f"signal_gain/composite/{name}")[12] == pytest.approx(float(value), rel=1e-9)


def test_probe_changes_nothing(tmp_path):
    probed = run(tmp_path / "a", "mhc", gain=SignalGain(every_n_steps=1))
    alone = run(tmp_path / "b", "mhc", gain=SignalGain(every_n_steps=1000))
    for one, other in zip(probed.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)
    assert all(part.training for part in probed.modules())


def test_probe_is_the_same_for_every_model(tmp_path):
    data = [corpus(tmp_path, seed=5).probe_batch(3)[0] for _ in range(2)]
    assert torch.equal(*data)


def test_tensorboard_has_scalars_pictures_and_layout(tmp_path):
    folder = tmp_path / "run"
    logger = TensorBoardLogger(folder, name="", version="", default_hp_metric=False)
    run(folder, "mhc", logger=[logger])
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    assert [event.step for event in events.Scalars("signal_gain/composite/backward")] == [0, 4, 6]
    assert set(tags["images"]) == {"signal_gain/by_depth", "signal_gain/mixing"}
    # drawn when validation ended at step 5, with the probe of step 4, and at the end
    assert [event.step for event in events.Images("signal_gain/by_depth")] == [4, 6]
    assert "custom_scalars__config__" in tags["tensors"]


def test_figures():
    picture = figures.gain_by_depth([1.0, 10.0, 3000.0], [1.0, 2.0, 4.0], 7)
    maps = figures.mixing_heat_maps([None, *(torch.eye(4) for _ in range(20))], 7)
    for image in (picture, maps):
        assert image.dtype == np.uint8
        assert image.shape[2] == 4
        assert image.std() > 0


def test_peaks_outlive_a_resume():
    gain = SignalGain()
    gain.load_state_dict({"gains": {"forward_peak": 9.0}, "step": 3})
    assert gain.state_dict()["gains"]["forward_peak"] == 9.0


def test_manifold_gain_stays_at_one(tmp_path):
    module = run(tmp_path / "run", "mhc", steps=8)
    assert isinstance(module.network.trunk.topologies[0], ManifoldHyperConnection)
    assert all(abs(value - 1) < 0.01 for value in series(tmp_path / "run", "signal_gain/composite/forward").values())


@pytest.mark.parametrize("name", ["every_n_steps", "probe_sequences"])
def test_refuses(name):
    with pytest.raises(ValueError, match=rf"signal_gain\.{name}"):
        SignalGain(**{name: 0})
