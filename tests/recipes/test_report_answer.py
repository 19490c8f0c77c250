"""The one sentence: it says what the numbers support and nothing beyond."""

import math
from pathlib import Path

import pytest
from cells import write_cell, write_plan

from recipes.reports.analysis import analyse
from recipes.reports.answer import answer
from recipes.reports.reading import read_ablation

YAML = "# Q?\nablation:\n  seeds: [0, 1, 2]\n  axes:\n    topology: {base: {}, new: {}}\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_plan(tmp_path / "a", YAML)


def sentence(folder: Path) -> str:
    text = answer(analyse(read_ablation(folder)))
    assert text.endswith(".")
    assert "\n" not in text
    assert ". " not in text, "more than one sentence"
    return text


def write(folder: Path, base: list[float], new: list[float], **changes) -> None:
    for seed, loss in enumerate(base):
        write_cell(folder, "base", seed, loss=loss, depth=1)
    for seed, loss in enumerate(new):
        write_cell(folder, "new", seed, loss=loss, depth=1, **changes)


def test_significant_difference_has_its_sign(folder):
    write(folder, [2.50, 2.60, 2.55], [2.40, 2.50, 2.452])
    assert "on validation loss new ends lower (new - base = -0.0993, p < 0.001; the smallest" in sentence(folder)
    write(folder, [2.50, 2.60, 2.55], [2.60, 2.70, 2.652])
    assert "new ends higher (new - base = +0.1007, p < 0.001" in sentence(folder)


def test_difference_not_shown_names_what_could_have_been(folder):
    write(folder, [2.50, 2.60, 2.55], [2.45, 2.62, 2.54])
    text = sentence(folder)
    # differences -.05, .02, -.01: mean -.0133, sd .03512; t = .6576 on 2 degrees; 3.264 sd
    t = 0.040 / 3 / (0.0351188 / math.sqrt(3))
    p = 1 - t / math.sqrt(t * t + 2)
    assert f"no difference is shown for new (new - base = -0.0133, p = {p:.3f}" in text
    assert "the smallest difference n = 3 could have shown is 0.11, and the observed one is not beyond it" in text


def test_one_seed_is_not_tested(folder):
    write(folder, [2.5], [2.4])
    text = sentence(folder)
    assert text.startswith("Over 1 seed (2 of 6 cells finished)")
    assert "ends at 2.5000 in base and 2.4000 in new, and with n = 1 no difference is tested" in text
    assert "p =" not in text


def test_equal_losses_leave_nothing_to_test(folder):
    write(folder, [2.5, 2.6], [2.5, 2.6])
    assert "new - base = +0.0000 at every one of n = 2 seeds, which leaves no spread to test with" in sentence(folder)


def test_diverged_is_a_result(folder):
    write(folder, [2.5, 2.6, 2.55], [2.4, 2.5, 2.45])
    for seed, steps in ((0, 120), (2, 90)):
        write_cell(folder, "new", seed, status="diverged", steps=steps, loss=50.0, gain=2e4, depth=1)
    text = sentence(folder)
    assert "new diverged at 2 of 3 seeds, first at step 90" in text
    assert "with n = 1 no difference is tested" in text
    assert "50.0" not in text, "the loss of a diverged cell is no final loss"
    assert "[1 to 20,000] in new (largest over training 22,000" in text


def test_all_diverged_still_answers(folder):
    write(folder, [2.5, 2.6], [])
    for seed in (0, 1):
        write_cell(folder, "new", seed, status="diverged", steps=10, gain=math.inf, backward=2.0, loss=math.nan)
    text = sentence(folder)
    assert "new diverged at 2 of 2 seeds, first at step 10" in text
    assert "infinite in new" in text


def test_untrained_is_never_no_difference(folder):
    prior = math.log(256)
    write(folder, [2.5, 2.6, 2.55], [prior, prior + 0.01, prior - 0.02])
    text = sentence(folder)
    assert "new is not trained (still at its prior), so its loss is not compared" in text
    assert "difference" not in text
    assert "loss ends at 2.5500 [2.5000 to 2.6000] in base, with no other trained variant to compare" in text


def test_both_untrained_say_nothing_about_loss(folder):
    write(folder, [5.54, 5.55, 5.56], [5.54, 5.54, 5.57])
    text = sentence(folder)
    assert "base is not trained" in text
    assert "new is not trained" in text
    assert "no difference" not in text


def test_one_untrained_seed_withholds_the_test(folder):
    write(folder, [2.5, 2.6, 2.55], [2.4, 5.6, 2.45])
    assert "new is not trained at 1 seed (still at its prior), so its loss is not compared" in sentence(folder)


def test_recorded_prior_counts_before_the_vocabulary(folder):
    write(folder, [2.5, 2.6], [3.3, 3.31], record={"prior_loss": 3.32})
    assert "new is not trained" in sentence(folder)
    write(folder, [2.5, 2.6], [3.2, 3.21], record={"prior_loss": 3.32})
    assert "not trained" not in sentence(folder)


def test_unknown_prior_is_not_untrained(folder):
    write(folder, [2.5, 2.6], [9.0, 9.1], vocabulary=None, metrics=False)
    cell = read_ablation(folder).of("new")[0]
    assert math.isnan(cell.prior())
    assert cell.trained() is None


def test_baseline_without_cells_leaves_nothing_to_compare_with(tmp_path):
    folder = write_plan(tmp_path / "a", YAML.replace("new: {}", "new: {}, other: {}"))
    for variant in ("new", "other"):
        write_cell(folder, variant, 0)
        write_cell(folder, variant, 1)
    assert "and the baseline base has none, so no difference is tested" in sentence(folder)


def test_failed_cells_conclude_nothing(folder):
    for seed in range(3):
        write_cell(folder, "base", seed, status="failed", steps=0)
    assert sentence(folder) == "No cell has finished (3 of 6 failed), so nothing is concluded."
    write(folder, [2.5, 2.6], [])
    write_cell(folder, "new", 0, status="failed", steps=5, loss=1.0)
    assert "nothing is concluded about new, of which no cell finished" in sentence(folder)


def test_many_variants_are_summed_up(tmp_path):
    names = [f"s{k}" for k in range(6)]
    axes = ", ".join(f"{name}: {{}}" for name in names)
    folder = write_plan(tmp_path / "a", f"# Q?\nablation: {{seeds: [0, 1, 2], axes: {{streams: {{{axes}}}}}}}\n")
    for k, name in enumerate(names):
        for seed in range(3):
            wobble = 0.001 * ((seed * (k + 2)) % 3)
            changes = {"loss": 2.5 - 0.1 * (k == 5) + wobble, "gain": 1.0 + k, "axes": {"streams": name}, "depth": 1}
            write_cell(folder, name, seed, **changes)
    text = sentence(folder)
    assert "the composite forward gain ends between 1 (s0) and 6 (s5), the backward gain at 1 in every variant" in text
    assert "1 of 5 paired loss differences" in text
    assert "s5 - s0 = -0.1" in text


def test_a_grid_of_one_seed_says_where_the_loss_is_lowest(tmp_path):
    plan = "# Q?\nablation: {seeds: [0], axes: {encoder: {flow: {}, clip: {}}, rate: {low: {}, high: {}}}}\n"
    folder = write_plan(tmp_path / "rates", plan)
    for encoder, rate, reached in (
        ("flow", "low", 1.5), ("flow", "high", 0.9), ("clip", "low", 1.2), ("clip", "high", 5.6),
    ):  # fmt: skip
        write_cell(folder, f"{encoder}+{rate}", 0, loss=reached, axes={"encoder": encoder, "rate": rate})
    said = answer(analyse(read_ablation(folder)))
    assert (
        "the validation loss is lowest at rate high for flow (0.9000) and low for clip (1.2000), and with n = 1" in said
    )


def test_variants_without_a_difference_are_said_together(tmp_path):
    folder = write_plan(tmp_path / "a", "# Q?\nablation: {seeds: [0, 1, 2], axes: {x: {base: {}, one: {}, two: {}}}}\n")
    losses = {"base": (2.5, 2.6, 2.4), "one": (2.6, 2.5, 2.45), "two": (2.4, 2.65, 2.5)}
    for variant, reached in losses.items():
        for seed, value in enumerate(reached):
            write_cell(folder, variant, seed, loss=value, axes={"x": variant})
    said = answer(analyse(read_ablation(folder)))
    assert said.count("no difference is shown") == 1
    assert "for one and two (one - base = +0.0167, p = 0.808, p = 1.000 after Holm; two - base = +0.0167, p" in said
    assert "the smallest n = 3 could have shown is 0.34)" in said


def test_gains_of_a_grid_are_said_by_its_first_axis(tmp_path):
    plan = "# Q?\nablation: {seeds: [0], axes: {topology: {hc: {}, mhc: {}}, encoder: {a: {}, b: {}, c: {}}}}\n"
    folder = write_plan(tmp_path / "grid", plan)
    gains = {"hc": (4.0, 9.0, 23.0), "mhc": (1.0, 1.0, 1.0)}
    for topology, found in gains.items():
        for encoder, value in zip("abc", found, strict=True):
            axes = {"topology": topology, "encoder": encoder}
            write_cell(folder, f"{topology}+{encoder}", 0, gain=value, backward=value, axes=axes)
    said = answer(analyse(read_ablation(folder)))
    assert "the composite forward gain ends at 4 to 23 in hc and 1 in mhc, by variant between 1 (mhc+a)" in said
    assert "and 23 (hc+c); the backward gain at 4 to 23 in hc" in said
