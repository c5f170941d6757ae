from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """``write_run(path, ...)``: a run directory as a run would leave it (synthetic.py)."""
    spec = spec_from_file_location("synthetic", Path(__file__).parent / "synthetic.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_run
