"""Checks of a model directory before the engine is started: is it there, and is it whole?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serving.errors import MaifsError, Reason
from serving.model_config import is_cut_short

_PREPARE_ADVICE = "`llm-service prepare-model` makes the small development model; or set model to a complete directory."


def check_model_files(model: str) -> None:
    """Checks a model that is given as a directory; names on the model hub pass.

    Raises:
        MaifsError: MODEL_UNUSABLE for a directory that does not exist or lacks files.
    """
    path = Path(model)
    looks_like_path = path.is_absolute() or model.startswith(".") or model.count("/") > 1 or _has_folder(path)
    if not path.is_dir():
        if looks_like_path or path.exists():
            raise MaifsError(Reason.MODEL_UNUSABLE, f"The model directory {model} does not exist.", _PREPARE_ADVICE)
        return
    missing = missing_files(path)
    if missing:
        raise MaifsError(
            Reason.MODEL_UNUSABLE,
            f"The model directory {model} is incomplete; missing or damaged: {', '.join(missing[:8])}.",
            "Download it again, or " + _PREPARE_ADVICE,
        )


def _has_folder(path: Path) -> bool:
    return len(path.parts) > 1 and path.parent.is_dir()


def find_model_config(model: str) -> dict[str, Any] | None:
    """config.json of a model directory, or of a name on the model hub whose files are in the hub's cache here."""
    path = Path(model)
    if path.is_dir():
        return read_model_config(path)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return None
    return _read_json(Path(cached)) if isinstance(cached, str) else None


def architectures(model: str) -> list[str]:
    """Class names that config.json gives; empty where there is none at hand."""
    table = find_model_config(model) or {}
    return [str(name) for name in table.get("architectures") or ()]


def read_model_config(path: Path) -> dict[str, Any] | None:
    """config.json of a model directory; None where there is none that can be read."""
    return _read_json(path / "config.json")


def missing_files(path: Path) -> list[str]:
    """Names of the files that a model directory lacks, and of weights that are cut short.

    Raises:
        MaifsError: MODEL_UNUSABLE for weights whose header cannot be read.
    """
    missing = []
    if read_model_config(path) is None:
        missing.append("config.json")
    if not any((path / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("tokenizer.json")
    index = path / "model.safetensors.index.json"
    if index.exists():
        table = _read_json(index)
        shards = set(table.get("weight_map", {}).values()) if table else {index.name}
        missing.extend(sorted(name for name in shards if name == index.name or not (path / name).exists()))
    elif not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        missing.append("model.safetensors")
    return missing + [path.name for path in sorted(path.glob("*.safetensors")) if is_cut_short(path)]


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        table = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return table if isinstance(table, dict) else None
