"""The README's snippet runs as it stands, and its commands are the ones that exist."""

import re
from pathlib import Path

import torch

import mhc

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_snippet_puts_mhc_around_a_plain_torch_block():
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    exec(snippet, names)
    model, x = names["model"], torch.randn(2, 10, 512)
    plain = x
    with torch.no_grad():
        for block in model.blocks:
            plain = plain + block(plain)
        # it starts as the plain residual
        torch.testing.assert_close(model(x), plain, rtol=1e-4, atol=1e-4)
    model(x).square().mean().backward()
    connections = [part for part in model.modules() if isinstance(part, mhc.ManifoldHyperConnection)]
    assert len(connections) == len(model.blocks) == 6
    assert all(connection.bias.grad.abs().max() > 0 for connection in connections)


def test_every_make_target_and_configuration_named_in_the_readme_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z]+)", README))
    assert named
    assert named <= targets
    configurations = set(re.findall(r"ablations/[a-z0-9_]+\.yaml", README))
    assert configurations
    assert all((ROOT / path).exists() for path in configurations)


def test_nothing_is_left_to_fill_in():
    assert not re.findall(r"^\s*[A-Z]{4,}\s*$", README, flags=re.MULTILINE)


def test_every_picture_in_the_readme_exists():
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert pictures
    assert all((ROOT / path).stat().st_size > 5000 for path in pictures)
