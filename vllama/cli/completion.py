"""Shell completion: the scripts that `vllama completion` prints, and the words that they ask for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise

from vllama.errors import ConfigError, VllamaError

BASH = """\
_vllama_completion() {
    # bash cuts words at ":", which names of models have: the line is read here, and what stands before the last ":"
    # of the word is taken off the answers again.
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$' \\t\\n'
    local word="${line##*[[:space:]]}" before=""
    local -a words=($line)
    [[ -n "$word" ]] || words+=("")
    if [[ "$word" == *:* && "$COMP_WORDBREAKS" == *:* ]]; then before="${word%"${word##*:}"}"; fi
    IFS=$'\\n'
    COMPREPLY=($("${words[0]}" complete -- "${words[@]:1}" 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]%%$'\\t'*}")
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
}
complete -o bashdefault -o default -F _vllama_completion vllama
"""

ZSH = """\
#compdef vllama
_vllama() {
    local -a found
    local line
    while IFS= read -r line; do
        found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    done < <("${words[1]}" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)
    if (( ${#found} )); then _describe vllama found; else _files; fi
}
if [ "$funcstack[1]" = "_vllama" ]; then _vllama "$@"; else compdef _vllama vllama; fi
"""

FISH = """\
function __vllama_complete
    set -l words (commandline -opc)
    $words[1] complete -- $words[2..-1] (commandline -ct) 2>/dev/null
end
complete -c vllama -a '(__vllama_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def print_script(shell: str) -> None:
    """The script for a shell. Raises ConfigError for another one."""
    if shell not in SCRIPTS:
        raise ConfigError(f"there is no completion for {shell!r}: bash, zsh and fish have one")
    sys.stdout.write(SCRIPTS[shell])


def print_candidates(words: Sequence[str]) -> None:
    """What the last word may become after the others: one a line, a tab and what it means behind it."""
    for value, meaning in candidates(words):
        print(f"{value}\t{meaning}")


def candidates(words: Sequence[str]) -> list[tuple[str, str]]:
    """(word, meaning) of subcommands, options and names of models that begin as the last word does."""
    import typer

    from vllama.cli.main import commands as program

    *before, begun = words or ("",)
    root = typer.main.get_command(program())
    commands = {name: command for name, command in root.commands.items() if not command.hidden}  # type: ignore[attr-defined]
    if not before or before[0] not in root.commands:  # type: ignore[attr-defined]
        found = [(name, (command.help or "").partition("\n")[0]) for name, command in commands.items()]
        return [row for row in found if row[0].startswith(begun) and not before]
    command = root.commands[before[0]]  # type: ignore[attr-defined]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    if begun.startswith("-"):
        return [
            (name, p.help or "")
            for p in options
            for name in p.opts
            if name.startswith(begun) and (begun.startswith("--") or len(name) == 2 or begun == "-")
        ]
    taken = {name for p in options if not p.is_flag for name in p.opts}
    if before[-1] in taken and len(before) > 1:
        return []  # a value that only the user knows, or a file: the shell's own completion
    if before[0] == "completion":
        return [(shell, "") for shell in SCRIPTS if shell.startswith(begun)]
    if before[0] in WITH_MODELS and (before[0] == "rm" or not _argument_given(before, taken)):
        return [(name, "") for name in model_names() if name.lower().startswith(begun.lower())]
    return []


WITH_MODELS = frozenset({"run", "pull", "push", "show", "stop", "cp", "rm", "list", "ls", "ps"})
"""Commands whose argument is a model that is here."""


def _argument_given(before: Sequence[str], taken: set[str]) -> bool:
    """Whether a word after the command's name is neither an option nor an option's value."""
    return any(not word.startswith("-") and previous not in taken for previous, word in pairwise(before))


def model_names() -> list[str]:
    """Names of the models on this machine, without asking a server; none if they cannot be read."""
    from vllama.config import load_settings
    from vllama.models.library import names_here

    try:
        settings = load_settings()
        return names_here(settings.models_dir, overlay=settings.packaged_models)
    except (VllamaError, OSError):
        return []
