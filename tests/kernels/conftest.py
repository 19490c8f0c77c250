"""`impl`: every code of an operation that runs here."""

import pytest

from kernels.native import compiler

NATIVE = pytest.param("native", marks=pytest.mark.skipif(compiler() is None, reason="no C compiler"))


@pytest.fixture(params=["reference", NATIVE])
def impl(request: pytest.FixtureRequest) -> str:
    return request.param
