"""``fetcher completion``: a script that makes a shell complete commands, options and paths. It runs no program: all it
knows is written into it, from the same parsers that ``--help`` shows.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fetcher.cli.context import Context

Takes = Literal["nothing", "directory", "file", "word", "text"]
"""What may follow. ``word``: one of a few. ``text``: anything, of which no shell knows more."""

SHELLS = ("bash", "zsh", "fish")
_FILES = re.compile(r"\bFILE\b|\bPATH\b")


@dataclass(frozen=True, slots=True)
class Slot:
    """An option, or a place for an argument (without ``flags``)."""

    flags: tuple[str, ...]
    help: str
    takes: Takes
    words: tuple[str, ...] = ()
    required: bool = False
    many: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """A command and what it takes."""

    name: str
    help: str
    slots: tuple[Slot, ...]

    @property
    def options(self) -> tuple[Slot, ...]:
        return tuple(slot for slot in self.slots if slot.flags)

    @property
    def places(self) -> tuple[Slot, ...]:
        return tuple(slot for slot in self.slots if not slot.flags)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="which one; bash: source <(fetcher completion bash) in ~/.bashrc")
    parser.epilog = (
        "bash: into /etc/bash_completion.d/fetcher, or as above. zsh: into a file _fetcher of a directory in $fpath, "
        "or source <(fetcher completion zsh) after compinit. fish: into ~/.config/fish/completions/fetcher.fish."
    )


def run(context: Context) -> int:
    top, commands = read_parsers()
    write = {"bash": bash, "zsh": zsh, "fish": fish}[context.options.shell]
    script = write(top, commands)
    if context.output.json_lines:
        context.output.event({"event": "completion", "shell": context.options.shell, "script": script})
    else:
        context.output.data(script.rstrip("\n"))
    return 0


def read_parsers() -> tuple[tuple[Slot, ...], tuple[Command, ...]]:
    """The options of the program itself, and its commands."""
    from fetcher.cli.app import COMMANDS, build_parser

    parser = build_parser(list(COMMANDS))
    (action,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    commands = (Command(name, COMMANDS[name], _slots(found)) for name, found in action.choices.items())
    return _slots(parser), tuple(commands)


def _slots(parser: argparse.ArgumentParser) -> tuple[Slot, ...]:
    actions = [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]
    return tuple(_slot(action) for action in actions)


def _slot(action: argparse.Action) -> Slot:
    words = tuple(str(choice) for choice in action.choices or ())
    takes: Takes = "text"
    metavar = str(action.metavar or "")
    if action.nargs == 0:
        takes = "nothing"
    elif words:
        takes = "word"
    elif metavar == "DIR":
        takes = "directory"
    elif _FILES.search(metavar):
        takes = "file"
    # argparse's own form for "%" in help texts.
    text = (action.help or "").replace("%%", "%")
    return Slot(tuple(action.option_strings), text, takes, words, action.required, action.nargs in ("+", "*"))


# --- bash


def bash(top: Sequence[Slot], commands: Sequence[Command]) -> str:
    """Needs no bash-completion. Descriptions are nothing that bash shows."""
    cases = []
    for command in commands:
        place = next(iter(command.places), None)
        cases.append(
            f"    {command.name}) options={_quoted(_flags(command.options))} place={_quoted(_bash_of(place))} ;;"
        )
    valued: dict[str, list[str]] = {}
    for slot in {
        slot.flags: slot for each in (top, *(command.slots for command in commands)) for slot in each
    }.values():
        if slot.flags and slot.takes != "nothing":
            valued.setdefault(_bash_of(slot), []).extend(slot.flags)
    befores = [f"    {'|'.join(dict.fromkeys(flags))}) want={_quoted(want)} ;;" for want, flags in valued.items()]
    after = "|".join(dict.fromkeys(flag for flags in valued.values() for flag in flags))
    names = " ".join(command.name for command in commands)
    lines = [
        "# bash completion for fetcher; made by: fetcher completion bash",
        "_fetcher() {",
        "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}",
        "  local command= options= place= want= number joined=",
        "  COMPREPLY=()",
        # --option=value: bash takes "=" for a word of its own, unless COMP_WORDBREAKS says otherwise.
        "  if [[ $word == = ]]; then word=",
        "  elif [[ $before == = ]]; then before=${COMP_WORDS[COMP_CWORD-2]}",
        "  elif [[ $word == --*=* ]]; then before=${word%%=*} joined=${word%%=*}= word=${word#*=}",
        "  fi",
        "  for ((number = 1; number < COMP_CWORD; number++)); do",
        "    case ${COMP_WORDS[number]} in",
        f"    {after}) [[ ${{COMP_WORDS[number+1]}} != = ]] || ((number++)); ((number++)) ;;",
        "    -*|=) ;;",
        "    *) command=${COMP_WORDS[number]}; break ;;",
        "    esac",
        "  done",
        "  case $command in",
        f"    '') options={_quoted(_flags([slot for slot in top if slot.flags]))} place={_quoted(f'-W {names}')} ;;",
        *cases,
        "  esac",
        "  case $before in",
        *befores,
        '    *) if [[ $word == -* ]]; then want="-W $options"; else want=$place; fi ;;',
        "  esac",
        "  case $want in",
        '    -W*) mapfile -t COMPREPLY < <(compgen -W "${want#-W }" -- "$word") ;;',
        '    -d|-f) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen "$want" -- "$word") ;;',
        "  esac",
        # With an empty list, a prefix would make one reply of nothing.
        '  if [[ -n $joined && ${#COMPREPLY[@]} -gt 0 ]]; then COMPREPLY=("${COMPREPLY[@]/#/$joined}"); fi',
        "}",
        "complete -F _fetcher fetcher",
    ]
    return "\n".join(lines) + "\n"


def _bash_of(slot: Slot | None) -> str:
    if slot is None or slot.takes in ("nothing", "text"):
        return "none"
    return {"directory": "-d", "file": "-f", "word": f"-W {' '.join(slot.words)}"}[slot.takes]


def _flags(slots: Sequence[Slot]) -> str:
    return " ".join(flag for slot in slots for flag in slot.flags)


# --- zsh


def zsh(top: Sequence[Slot], commands: Sequence[Command]) -> str:
    """For ``compinit``: as a file of ``$fpath``, or sourced."""
    names = [f"      {_quoted(f'{command.name}:{command.help}')}" for command in commands]
    cases = []
    for command in commands:
        specs = [_zsh_option(slot) for slot in command.options] + [_zsh_place(slot) for slot in command.places]
        cases += [f"      {command.name}) _arguments \\", *(f"        {spec} \\" for spec in specs[:-1])]
        cases += [f"        {specs[-1]} ;;"]
    lines = [
        "#compdef fetcher",
        "# zsh completion for fetcher; made by: fetcher completion zsh",
        "_fetcher() {",
        "  local context state state_descr line",
        "  typeset -A opt_args",
        "  _arguments -C \\",
        *(f"    {_zsh_option(slot)} \\" for slot in top if slot.flags),
        "    '1: :->command' '*:: :->arguments'",
        "  case $state in",
        "  command)",
        "    local -a commands=(",
        *names,
        "    )",
        "    _describe command commands ;;",
        "  arguments)",
        "    case $words[1] in",
        *cases,
        "    esac ;;",
        "  esac",
        "}",
        'if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _fetcher "$@"; else compdef _fetcher fetcher; fi',
    ]
    return "\n".join(lines) + "\n"


def _zsh_option(slot: Slot) -> str:
    described = re.sub(r"([][\\:])", r"\\\1", slot.help)
    flags = slot.flags[0] if len(slot.flags) == 1 else f"{{{','.join(slot.flags)}}}"
    tail = "" if slot.takes == "nothing" else f":{slot.flags[-1].lstrip('-')}:{_zsh_of(slot)}"
    spec = _quoted(f"[{described}]{tail}")
    return f"'*'{flags}{spec}"  # may be given again: what the last one says counts, and some are many


def _zsh_place(slot: Slot) -> str:
    return _quoted(f"{'*' if slot.many else ''}:argument:{_zsh_of(slot)}")


def _zsh_of(slot: Slot) -> str:
    if slot.takes == "word":
        return f"({' '.join(slot.words)})"
    # An empty list rather than the single blank that _arguments has for this: after that it offers no options, either.
    return {"directory": "_files -/", "file": "_files"}.get(slot.takes, "()")


# --- fish


def fish(top: Sequence[Slot], commands: Sequence[Command]) -> str:
    """For ``~/.config/fish/completions``."""
    lines = [
        "# fish completion for fetcher; made by: fetcher completion fish",
        "complete -c fetcher -e",
        "complete -c fetcher -f",
    ]
    lines += [_fish_line("__fish_use_subcommand", slot) for slot in top if slot.flags]
    for command in commands:
        lines.append(
            f"complete -c fetcher -n __fish_use_subcommand -a {command.name} -d {_quoted(command.help, fish=True)}"
        )
    for command in commands:
        seen = f"'__fish_seen_subcommand_from {command.name}'"
        lines += [_fish_line(seen, slot) for slot in command.options]
        lines += [_fish_line(seen, slot) for slot in command.places if slot.takes not in ("text", "nothing")]
    return "\n".join(lines) + "\n"


def _fish_line(condition: str, slot: Slot) -> str:
    words = [f"complete -c fetcher -n {condition}"]
    for flag in slot.flags:
        words.append(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}")
    if slot.flags:
        words += {"nothing": [], "text": ["-x"], "word": ["-x"], "file": ["-r", "-F"], "directory": ["-x"]}[slot.takes]
    elif slot.takes == "file":
        words.append("-F")
    if slot.takes == "word":
        words.append(f"-a {_quoted(' '.join(slot.words), fish=True)}")
    elif slot.takes == "directory":
        words.append("-a '(__fish_complete_directories)'")
    if slot.flags:
        words.append(f"-d {_quoted(slot.help, fish=True)}")
    return " ".join(words)


def _quoted(text: str, *, fish: bool = False) -> str:
    """One word of a shell, whatever is in it."""
    if fish:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return "'" + text.replace("'", "'\\''") + "'"
