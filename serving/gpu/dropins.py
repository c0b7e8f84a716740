"""systemd drop-ins of a layout: the device policy of each unit, and the settings that go with it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.errors import MaifsError, Reason
from serving.gpu.hosts import GpuSpec
from serving.gpu.plan import Option, Plan, pick
from serving.model_shapes import Quantization

NVIDIA_MAJOR = 195
"""Character device major of /dev/nvidiaN and, with minor 255, of /dev/nvidiactl."""
VISION_UNIT = "maifs-vision.service"
"""The vision service on the first of its GPUs, or on the CPU."""
VISION_INSTANCE = "maifs-vision@{}.service"
"""The vision service on a further GPU, by the GPU's index."""
LLM_UNIT = "maifs-llm.service"
COORDINATOR_UNIT = "maifs-coordinator.service"
TARGET = "maifs.target"
FILE_NAME = "10-gpu.conf"
WRITTEN_BY = "# Written by coordinator-cli gpu"
"""How every drop-in begins."""


def dropins(option: Option, plan: Plan) -> dict[Path, str]:
    """The drop-ins of a layout, by path below the folder of units.

    The device policy lists minors, the environment full UUIDs: inside the device cgroup CUDA counts the GPUs it may
    open from 0, so that an index would name another GPU than outside.

    Raises:
        MaifsError: INVALID_REQUEST when the layout cannot run, or needs what the services or the host do not have.
    """
    _check(option, plan)
    llm, vision = pick(plan.host.gpus, option.layout)
    units = {
        LLM_UNIT: _dropin(llm, _llm_settings(option, plan) | _pin_settings("LLM", llm)),
        VISION_UNIT: _dropin(vision[:1], _vision_settings(vision[:1])),
    }
    further = vision[1:]
    units |= {VISION_INSTANCE.format(gpu.index): _dropin([gpu], _vision_settings([gpu])) for gpu in further}
    units |= _replicas(further) if further else {}
    return {
        Path(f"{unit}.d", FILE_NAME): f"{WRITTEN_BY} apply; written anew by each run.\n{units[unit]}" for unit in units
    }


def _replicas(further: Sequence[GpuSpec]) -> dict[str, str]:
    """What makes the target start the further vision services and the coordinator use them."""
    wants = "".join(f"Wants={VISION_INSTANCE.format(gpu.index)}\n" for gpu in further)
    sockets = ["unix:/run/maifs/vision.sock", *(f"unix:/run/maifs/vision-{gpu.index}.sock" for gpu in further)]
    address = f'[Service]\nEnvironment="MAIFS_COORDINATOR_VISION_ADDRESS={",".join(sockets)}"\n'
    return {TARGET: f"[Unit]\n{wants}", COORDINATOR_UNIT: address}


def _check(option: Option, plan: Plan) -> None:
    layout = option.layout
    if not option.valid:
        raise _refused(f"it cannot run: {option.reasons[0]}")
    if layout.replicas > 1:
        raise _refused("the LLM service runs one engine")
    if plan.shape.quantization is Quantization.BF16 and layout.quantization is Quantization.AWQ:
        raise _refused(f"{plan.shape.name} is stored in 16 bits; plan with --model {plan.shape.name}-AWQ")
    if any(gpu.uuid is None or gpu.minor is None for gpu in plan.host.gpus):
        raise MaifsError(
            Reason.INVALID_REQUEST,
            f"Drop-ins need the UUIDs and device minors of the GPUs; {plan.host.name} has none.",
            "Run this on the host, or with a profile that --save-host wrote there.",
        )


def _refused(why: str) -> MaifsError:
    return MaifsError(
        Reason.INVALID_REQUEST,
        f"This layout cannot be written: {why}.",
        "Choose another one with --layout, by its title in the plan.",
    )


def _vision_settings(gpus: Sequence[GpuSpec]) -> dict[str, str]:
    return {"MAIFS_VISION_DEVICE": "cuda" if gpus else "cpu", **_pin_settings("VISION", gpus)}


def _pin_settings(service: str, gpus: Sequence[GpuSpec]) -> dict[str, str]:
    if not gpus:
        return {}
    uuids = ",".join(str(gpu.uuid) for gpu in gpus)
    return {f"MAIFS_{service}_GPU_DEVICES": uuids, f"MAIFS_{service}_GPU_REQUIRE_ENFORCED": "true"}


def _llm_settings(option: Option, plan: Plan) -> dict[str, str]:
    layout, assumptions = option.layout, plan.assumptions
    # The name of a model would win over the directory in maifs.toml and send the service to a hub it cannot reach.
    settings = {"MAIFS_LLM_MODEL": plan.shape.name} if Path(plan.shape.name).is_absolute() else {}
    settings |= {
        "MAIFS_LLM_TENSOR_PARALLEL_SIZE": str(layout.tensor_parallel),
        "MAIFS_LLM_PIPELINE_PARALLEL_SIZE": str(layout.pipeline_parallel),
        "MAIFS_LLM_MAX_MODEL_LEN_TOKENS_COUNT": str(assumptions.max_model_len_tokens),
        "MAIFS_LLM_GPU_MEMORY_UTILIZATION": f"{assumptions.memory_utilization:g}",
    }
    if layout.offload_gib:
        settings["MAIFS_LLM_CPU_OFFLOAD_GIB"] = str(layout.offload_gib)
    if layout.quantization is not plan.shape.quantization:
        settings["MAIFS_LLM_QUANTIZATION"] = layout.quantization.value
    return settings


def _dropin(gpus: Sequence[GpuSpec], settings: Mapping[str, str]) -> str:
    lines = ["[Service]", "DevicePolicy=closed"]
    for gpu in gpus:
        lines += [f"# {gpu.name}, index {gpu.index}", f"DeviceAllow=/dev/char/{NVIDIA_MAJOR}:{gpu.minor} rw"]
    uuids = ",".join(str(gpu.uuid) for gpu in gpus)
    lines += ["Environment=CUDA_DEVICE_ORDER=PCI_BUS_ID", f"Environment=CUDA_VISIBLE_DEVICES={uuids}"]
    lines += [f'Environment="{name}={_escaped(value)}"' for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def difference(folder: Path, files: Mapping[Path, str]) -> str:
    """What writing would change below a folder, as a unified diff; empty when nothing would.

    Raises:
        MaifsError: FILE_UNREADABLE when a file that is there cannot be read.
    """
    parts: list[str] = []
    for name, text in {**files, **dict.fromkeys(_stale(folder, files), "")}.items():
        path = folder / name
        before = _read(path)
        parts += difflib.unified_diff(before.splitlines(True), text.splitlines(True), str(path), str(path))
    return "".join(parts)


def _stale(folder: Path, files: Mapping[Path, str]) -> list[Path]:
    """Drop-ins of an earlier layout that this one does not have."""
    there = (path.relative_to(folder) for path in sorted(folder.glob(f"maifs*.d/{FILE_NAME}")))
    return [name for name in there if name not in files and _read(folder / name).startswith(WRITTEN_BY)]


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise MaifsError(Reason.FILE_UNREADABLE, f"{path} cannot be read: {error}.") from error


def write(folder: Path, files: Mapping[Path, str]) -> None:
    """Writes the drop-ins, each complete or not at all, and removes those of an earlier layout.

    Raises:
        MaifsError: OUTPUT_UNWRITABLE.
    """
    for name in _stale(folder, files):
        _remove(folder / name)
    for name, text in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".new")
            draft.write_text(text, "utf-8")
            draft.chmod(0o644)
            draft.replace(path)
        except OSError as error:
            raise MaifsError(
                Reason.OUTPUT_UNWRITABLE, f"{path} cannot be written: {error.strerror}.", "Run this as root."
            ) from error


def _remove(path: Path) -> None:
    try:
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    except OSError as error:
        raise MaifsError(
            Reason.OUTPUT_UNWRITABLE, f"{path} cannot be removed: {error.strerror}.", "Run this as root."
        ) from error
