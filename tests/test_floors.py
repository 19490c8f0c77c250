"""Each room imports only from floors below it; `kernels` and `mhc` need nothing but torch."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("kernels", "mhc", "encoders", "recipes")  # from the ground up
BESIDE = {"ablations", "tests", "results"}  # no packages
LIGHT = {"kernels", "mhc"}
LIGHT_NEEDS = {"torch", "triton"}
# what a benchmark compares with and draws with where it is installed
BENCHMARK, BENCHMARK_USES = Path("kernels", "benchmark"), {"liger_kernel", "matplotlib"}


def imported(source: str) -> Iterator[tuple[int, str]]:
    """(line, top-level name) of every absolute import, wherever it stands, and of import_module("...")."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            argument = node.args[0]
            if name in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                yield node.lineno, str(argument.value).partition(".")[0]


def violations(root: Path) -> list[str]:
    """What breaks the order of the house, a line each."""
    found = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if folder.name in FLOORS:
            found += [fault for path in sorted(folder.rglob("*.py")) for fault in faults_of(path, root)]
        elif folder.name not in BESIDE and (folder / "__init__.py").exists():
            found.append(f"{folder.name}: a top-level package that is no floor")
    return found


def faults_of(path: Path, root: Path) -> Iterator[str]:
    room = path.relative_to(root).parts[0]
    above = FLOORS[FLOORS.index(room) + 1 :]
    light = LIGHT_NEEDS | (BENCHMARK_USES if path.relative_to(root).parent == BENCHMARK else set())
    for line, name in imported(path.read_text()):
        at = f"{path.relative_to(root)}:{line}"
        if name in above or name in BESIDE:
            yield f"{at} imports {name}, which is not below"
        elif room in LIGHT and name not in light | set(FLOORS) | set(sys.stdlib_module_names):
            yield f"{at} imports {name}: {room} needs nothing but torch"


def test_imports_go_down():
    assert violations(ROOT) == []


def test_every_floor_that_is_there_was_read():
    present = [name for name in FLOORS if (ROOT / name).exists()]
    assert {"kernels", "mhc", "recipes"} <= set(present)
    read = {name for path in (ROOT / "mhc").rglob("*.py") for _, name in imported(path.read_text())}
    assert {"torch", "kernels", "mhc"} <= read


@pytest.mark.parametrize(
    ("path", "source", "fault"),
    [
        ("kernels/bad.py", "from mhc.norm import RMSNorm", "kernels/bad.py:1 imports mhc"),
        ("mhc/bad.py", "import recipes.fit as fit", "mhc/bad.py:1 imports recipes"),
        ("mhc/bad.py", "def later():\n    from encoders import views", "mhc/bad.py:2 imports encoders"),
        ("mhc/bad.py", "import importlib\nimportlib.import_module('recipes.fit')", "mhc/bad.py:2 imports recipes"),
        ("encoders/deep/bad.py", "import math, recipes", "encoders/deep/bad.py:1 imports recipes"),
        ("recipes/bad.py", "from tests.helpers import gradients", "recipes/bad.py:1 imports tests"),
        ("mhc/bad.py", "try:\n    import lightning\nexcept ImportError:\n    pass", "mhc/bad.py:2 imports lightning"),
        ("kernels/bad.py", "import numpy as np", "kernels/bad.py:1 imports numpy"),
        ("utilities/__init__.py", "", "utilities: a top-level package"),
    ],
)
def test_a_violation_is_found(tmp_path, path, source, fault):
    good = {
        "kernels/good.py": "import math, torch\nimport triton.language as tl\nfrom kernels import x\nfrom . import y",
        "mhc/good.py": "from kernels.sinkhorn import sinkhorn\nfrom torch import nn",
        "recipes/good.py": "import lightning, numpy\nfrom mhc import Trunk\nimport encoders",
        "tests/helpers.py": "import recipes",
        "ablations/no_package.yaml": "",
    }
    for name, text in good.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert violations(tmp_path) == []
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(source)
    found = violations(tmp_path)
    assert len(found) == 1
    assert found[0].startswith(fault)


SCRIPT = """
import json, sys
import torch
before = set(sys.modules)
import mhc
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(names)))
"""


def test_import_mhc_loads_nothing_that_torch_does_not():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(json.loads(run.stdout))
    assert {"mhc", "kernels"} <= loaded
    assert loaded <= {"mhc", "kernels", "torch"} | set(sys.stdlib_module_names)
