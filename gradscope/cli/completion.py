"""``gradscope completion``: what a shell needs to complete commands and options."""

import argparse

from gradscope.cli.command import Commands, add_command
from gradscope.terminal import write

SHELLS = ("bash", "zsh", "tcsh")

EXAMPLES = """\
  gradscope completion bash > ~/.local/share/bash-completion/completions/gradscope
  gradscope completion zsh > ~/.zfunc/_gradscope     with `fpath+=~/.zfunc` in .zshrc
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "completion", execute, "write what a shell needs to complete commands", EXAMPLES)
    parser.add_argument("shell", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")


def execute(arguments: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from gradscope.cli import build_parser

    write(shtab.complete(build_parser(), arguments.shell) + "\n")
    return 0
