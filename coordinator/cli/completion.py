"""`coordinator-cli completion`: the script that makes a shell complete our commands and options."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from typer._completion_shared import get_completion_script

PROGRAM = "coordinator-cli"

EPILOG = """**Examples**

- `source <(coordinator-cli completion bash)`: for this shell; the line may stand in ~/.bashrc
- `coordinator-cli completion zsh > ~/.zfunc/_coordinator-cli`: any folder of $fpath
- `coordinator-cli completion fish > ~/.config/fish/completions/coordinator-cli.fish`: for every new shell
"""


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="Which shell.", show_default=False)],
) -> None:
    """Print a script that makes a shell complete commands, options and their values. Nothing is installed."""
    variable = f"_{PROGRAM}_COMPLETE".replace("-", "_").upper()
    typer.echo(get_completion_script(prog_name=PROGRAM, complete_var=variable, shell=shell))
