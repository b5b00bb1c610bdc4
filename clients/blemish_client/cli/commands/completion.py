# SPDX-License-Identifier: Apache-2.0
"""``blemish completion``: commands and options that the shell completes."""

from enum import StrEnum
from typing import Annotated

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]  # not in its __all__


class ShellName(StrEnum):
    """The shells that can complete commands."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


_PROGRAM = "blemish"
_VARIABLE = "_BLEMISH_COMPLETE"
"""Variable by which the script asks this program for completions."""


def completion(
    shell: Annotated[ShellName, typer.Argument(metavar="bash|zsh|fish", help="Shell to complete in.")],
) -> None:
    """Print a script that completes commands and options in a shell.

    Load it at the start of the shell:

    bash, in ~/.bashrc: eval "$(blemish completion bash)"

    zsh, in ~/.zshrc after compinit: eval "$(blemish completion zsh)"

    fish, once: blemish completion fish > ~/.config/fish/completions/blemish.fish

    Example: blemish completion bash
    """
    print(get_completion_script(prog_name=_PROGRAM, complete_var=_VARIABLE, shell=shell.value))
