"""`coordinator-cli gpu`: plan a host's GPUs, check what runs on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.errors import MaifsError
from serving.model_shapes import Quantization

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Plan who gets which GPU of a host, and check what runs on them.",
)

PLAN_EPILOG = "Exit codes: 0 a layout can run, 1 none can, 2 usage, 3 no driver here and no --host given."

HostOption = Annotated[
    str | None,
    typer.Option(
        "--host", metavar="HOST", help="COUNTxKIND, e.g. 4xA100-40GB, or a saved profile. Default: this host."
    ),
]
Model = Annotated[
    str, typer.Option("--model", metavar="NAME|DIR", help="Name on the model hub, or a directory with the files.")
]
Storage = Annotated[
    Quantization | None,
    typer.Option("--quantization", help="Storage of the weights. Default: all for a 16-bit model."),
]
MaxModelLen = Annotated[
    int, typer.Option("--max-model-len", metavar="TOKENS", min=16, help="Longest prompt plus answer.")
]
Utilization = Annotated[
    float, typer.Option("--memory-utilization", min=0.1, max=1.0, help="Share of each GPU's memory for the engine.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
DEFAULT_MODEL = "Qwen/Qwen2.5-32B-Instruct"


@app.command(epilog=PLAN_EPILOG)
def plan(
    host: HostOption = None,
    model: Model = DEFAULT_MODEL,
    quantization: Storage = None,
    max_model_len: MaxModelLen = 4096,
    memory_utilization: Utilization = 0.92,
    save_host: Annotated[
        Path | None, typer.Option("--save-host", metavar="FILE", help="Write the host's profile for use elsewhere.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show every way to split the GPUs between the language model and vision: what runs, why not, and how fast.

    Numbers are arithmetic on the model's shape and the GPUs' data sheets, not measurements; tokens per second are
    upper bounds that the memory bandwidth sets.
    """
    from coordinator.cli import gpu_plan

    try:
        gpu_plan.run(gpu_plan.Request(host, model, quantization, max_model_len, memory_utilization, as_json, save_host))
    except MaifsError as error:
        _fail(error)


APPLY_EPILOG = "Exit codes: 0 done or nothing to do, 2 usage or a layout that cannot be served, 3 no driver here."


@app.command(epilog=APPLY_EPILOG)
def apply(
    host: HostOption = None,
    model: Model = DEFAULT_MODEL,
    quantization: Storage = None,
    max_model_len: MaxModelLen = 4096,
    memory_utilization: Utilization = 0.92,
    layout: Annotated[
        str | None,
        typer.Option("--layout", metavar="TITLE", help="Layout by its title in the plan. Default: the best."),
    ] = None,
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Folder of the units.")] = Path(
        "/etc/systemd/system"
    ),
    write: Annotated[bool, typer.Option("--write/--dry-run", help="Write, or only show what would change.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a layout of the plan into drop-ins of the units: device policy by minors, GPUs by UUID, parallel sizes.

    Shows the difference and writes nothing unless --write is given. Drop-ins of an earlier layout are removed.
    """
    from coordinator.cli import gpu_plan

    try:
        request = gpu_plan.Request(host, model, quantization, max_model_len, memory_utilization, as_json)
        gpu_plan.apply(request, layout, folder, write=write)
    except MaifsError as error:
        _fail(error)


CHECK_EPILOG = "Exit codes: 0 no fault, 1 faults found, 3 no NVIDIA driver here and nothing else wrong."


@app.command(epilog=CHECK_EPILOG)
def check(as_json: AsJson = False) -> None:
    """Show this host's GPUs, who uses them, how the services are pinned, and each fault with its cure.

    Who owns a GPU is measured from the processes on it, not read from the configuration. As root the device policy of
    a running unit is proven by trying the device nodes from inside its control group.
    """
    from coordinator.cli import gpu_check

    gpu_check.run(as_json=as_json)


def _fail(error: MaifsError) -> None:
    from coordinator.cli.terminal import Style, Terminal

    Terminal(Style.TEXT, "en", quiet=False).error(str(error))
    raise typer.Exit(error.reason.exit_code)
