"""`coordinator-cli gpu plan`: the plan as a table or as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coordinator.cli.terminal import PIPE_WIDTH
from serving.errors import ExitCode, MaifsError, Reason
from serving.gpu import dropins, guide
from serving.gpu.hosts import GIB, Host, host_of, parse_host, save_host
from serving.gpu.inventory import take_inventory
from serving.gpu.nvml import NvmlCallError, NvmlUnavailableError
from serving.gpu.plan import RANKING, Assumptions, Option, Plan, make_plan
from serving.known_models import find_shape
from serving.model_shapes import ModelShape, Quantization


@dataclass(frozen=True)
class Request:
    """The command's options."""

    host: str | None
    model: str
    quantization: Quantization | None
    max_model_len: int
    memory_utilization: float
    as_json: bool
    save_host: Path | None = None


def run(request: Request) -> None:
    """Prints the plan and ends the command.

    Raises:
        MaifsError: unknown model or host, or no driver here.
    """
    shape = find_shape(request.model)
    host = parse_host(request.host) if request.host else this_host()
    if request.save_host:
        save_host(host, request.save_host)
    plan = _plan(host, shape, request)
    if request.as_json:
        typer.echo(json.dumps(document(plan), indent=2))
    else:
        show(plan, Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH))
    raise typer.Exit(ExitCode.OK if plan.best else ExitCode.ITEMS_FAILED)


def _plan(host: Host, shape: ModelShape, request: Request) -> Plan:
    assumptions = Assumptions(request.max_model_len, request.memory_utilization)
    return make_plan(host, shape, _formats(shape, request.quantization), assumptions)


def apply(request: Request, title: str | None, folder: Path, *, write: bool) -> None:
    """Shows what the drop-ins of a layout change, and writes them if told so.

    Raises:
        MaifsError: unknown model, host or layout, no driver here, or a layout that the services cannot run.
    """
    host = parse_host(request.host) if request.host else this_host()
    plan = _plan(host, find_shape(request.model), request)
    option = _chosen(plan, title)
    files = dropins.dropins(option, plan)
    changes = dropins.difference(folder, files)
    if request.as_json:
        table = {
            "layout": option.layout.title,
            "folder": str(folder),
            "changed": bool(changes),
            "written": bool(changes) and write,
        }
        typer.echo(json.dumps({**table, "files": {str(name): text for name, text in files.items()}}, indent=2))
    else:
        typer.echo(changes or f"{folder}: nothing to change for {option.layout.title}.", nl=not changes)
    if changes and write:
        dropins.write(folder, files)
    if changes and not request.as_json:
        next_step = (
            "Now: systemctl daemon-reload; systemctl restart maifs.target" if write else "Not written: add --write"
        )
        typer.echo(f"For {option.layout.title}. {next_step}")


def _chosen(plan: Plan, title: str | None) -> Option:
    if title is None:
        option = plan.best_for_services
        if option is None:
            raise MaifsError(Reason.INVALID_REQUEST, f"No layout that the services run fits {plan.host.name}.")
        return option
    wanted = title.lower()
    found = next((o for o in plan.options if wanted in {o.layout.title.lower(), o.layout.profile}), None)
    if found is None:
        titles = "; ".join(option.layout.title for option in plan.options)
        names = ", ".join(dict.fromkeys(o.layout.profile for o in plan.options if o.layout.profile))
        raise MaifsError(
            Reason.INVALID_REQUEST, f"There is no layout {title!r}.", f"Choose one of: {titles}; or by name: {names}."
        )
    return found


def this_host() -> Host:
    """The GPUs of this host.

    Raises:
        MaifsError: BACKEND_UNAVAILABLE when there is no driver or no GPU.
    """
    try:
        host = host_of(take_inventory())
    except (NvmlUnavailableError, NvmlCallError) as error:
        raise _no_gpu(f"no NVIDIA driver answers ({error})") from error
    if not host.gpus:
        raise _no_gpu("the driver knows no GPU")
    return host


def _no_gpu(why: str) -> MaifsError:
    return MaifsError(
        Reason.BACKEND_UNAVAILABLE,
        f"This host has no GPU to plan with: {why}.",
        "Describe a host, e.g. --host 4xA100-40GB. Without a GPU all services run on the CPU and need no plan.",
    )


def _formats(shape: ModelShape, wanted: Quantization | None) -> list[Quantization]:
    if shape.quantization is not Quantization.BF16:
        if wanted not in {None, shape.quantization}:
            raise MaifsError(
                Reason.INVALID_REQUEST,
                f"The weights of {shape.name} are stored as {shape.quantization} and cannot become {wanted}.",
                "Leave --quantization out, or name the 16-bit model.",
            )
        return [shape.quantization]
    return [wanted] if wanted else list(Quantization)


def document(plan: Plan) -> dict[str, Any]:
    """JSON form; docs/gpu.md lists the fields."""
    assumptions = plan.assumptions
    return {
        "host": {
            "name": plan.host.name,
            "gpus": [
                {
                    "name": gpu.name,
                    "index": gpu.index,
                    "minor": gpu.minor,
                    "uuid": gpu.uuid,
                    "memory_bytes": gpu.memory_bytes,
                    "bandwidth_bytes_per_s": gpu.bandwidth_bytes_per_s,
                }
                for gpu in plan.host.gpus
            ],
        },
        "model": {
            "name": plan.shape.name,
            "parameters_count": plan.shape.parameters,
            "checkpoint_bytes": plan.shape.checkpoint_bytes,
        },
        "assumptions": {
            "max_model_len_tokens": assumptions.max_model_len_tokens,
            "memory_utilization": assumptions.memory_utilization,
            "overhead_bytes": assumptions.overhead_bytes,
            "vision_bytes": assumptions.vision_bytes,
            "link_bytes_per_s": assumptions.link_bytes_per_s,
        },
        "ranking": RANKING,
        "options": [_option(option, plan) for option in plan.options],
    }


def _option(option: Option, plan: Plan) -> dict[str, Any]:
    layout, claim, padding = option.layout, guide.claim(option, plan), option.padding
    return {
        "title": layout.title,
        "profile": layout.profile,
        "valid": option.valid,
        "served": option.served,
        "reasons": list(option.reasons),
        "notes": list(option.notes),
        "llm_gpus_count": layout.llm_gpus,
        "vision_gpus_count": layout.vision_gpus,
        "vision": layout.vision.name,
        "quantization": layout.quantization.value,
        "tensor_parallel_size": layout.tensor_parallel,
        "pipeline_parallel_size": layout.pipeline_parallel,
        "replicas_count": layout.replicas,
        "offload_gib": layout.offload_gib,
        "padding": padding and vars(padding),
        "weights_bytes_per_gpu": [round(value) for value in option.weights_bytes],
        "kv_bytes_per_gpu": [round(value) for value in option.kv_bytes],
        "sequences_count": option.sequences,
        "decode_tokens_per_s_bound": round(option.decode_tokens_per_s, 2),
        "guide": claim and {"claim": claim.text, "corrections": list(claim.corrections)},
    }


def show(plan: Plan, console: Console) -> None:
    """Prints it for people."""
    shape, assumptions = plan.shape, plan.assumptions
    size = f"{shape.parameters / 1e9:.2f} billion parameters"
    console.print(Text(f"{shape.name} ({size}) on {plan.host.name}", style="bold"))
    per_sequence = f"Sequences of {assumptions.max_model_len_tokens}"
    table = Table("", "Layout", "Weights/GPU", "KV/GPU", per_sequence, "Decode bound", box=None, padding=(0, 2, 0, 0))
    for option in plan.options:
        table.add_row(*_row(option))
    console.print(table)
    console.print(
        "\nGiB per GPU, the emptiest and the fullest stage where they differ. Engine's share of memory "
        f"{assumptions.memory_utilization:g}, {assumptions.overhead_bytes / GIB:.0f} GiB overhead assumed. Decode "
        "bound: tokens/s of one sequence if memory bandwidth were the only limit. Layout: LLM GPUs + vision GPUs.\n"
        f"(ok): vLLM can run it, our services do not yet. Order: {RANKING}."
    )
    for option in plan.options:
        _explain(option, plan, console)
    console.print(Text(f"\n{_verdict(plan)}", style="bold"))


def _verdict(plan: Plan) -> str:
    best, served = plan.best, plan.best_for_services
    if best is None:
        return "No layout can run this model here."
    if served is best:
        return f"Best: {best.layout.title}"
    ours = f"with the services as they are: {served.layout.title}" if served else "the services run none of them yet"
    return f"Best: {best.layout.title} ({ours})"


def _row(option: Option) -> tuple[Text, ...]:
    mark = Text("no", style="red")
    if option.valid:
        mark = Text("ok", style="green") if option.served else Text("(ok)", style="yellow")
    cells = (
        option.layout.title,
        _range([value / GIB for value in option.weights_bytes], 2),
        _range([value / GIB for value in option.kv_bytes], 1) if min(option.kv_bytes) > 0 else "-",
        str(option.sequences) if option.valid else "-",
        f"{option.decode_tokens_per_s:.1f} tok/s",
    )
    return (mark, *(Text(cell) for cell in cells))


def _range(values: list[float], digits: int) -> str:
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low}-{high}"


def _explain(option: Option, plan: Plan, console: Console) -> None:
    claim = guide.claim(option, plan)
    lines = [("cannot run: ", reason, "red") for reason in option.reasons]
    lines += [("note: ", note, "") for note in option.notes]
    if claim:
        lines.append(("the guide says: ", claim.text, ""))
        lines += [("  but: ", correction, "yellow") for correction in claim.corrections]
    if lines:
        console.print(Text(f"\n{option.layout.title}"))
        for label, text, style in lines:
            console.print(Text(f"  {label}", style=style) + Text(text))
