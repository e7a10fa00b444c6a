"""Completion in a shell, made from the command's own parser: commands, options, and what those may be given."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

_BASH = """\
# wukong completion bash: source it from ~/.bashrc
_wukong() {
    local level="" found="" word
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case "$level $word" in
            @COMMANDS@) level="${level:+$level }$word" ;;
        esac
    done
    case "$level|${COMP_WORDS[COMP_CWORD-1]}" in
@VALUES@
        *) case "$level" in
@WORDS@
        esac ;;
    esac
    COMPREPLY=($(compgen -W "$found" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _wukong wukong
"""
_ZSH = """\
# wukong completion zsh: source it from ~/.zshrc, after compinit
_wukong() {
    local level="" found="" word
    for word in "${(@)words[2,CURRENT-1]}"; do
        case "$level $word" in
            @COMMANDS@) level="${level:+$level }$word" ;;
        esac
    done
    case "$level|${words[CURRENT-1]}" in
@VALUES@
        *) case "$level" in
@WORDS@
        esac ;;
    esac
    compadd -- ${=found} || _files
}
compdef _wukong wukong
"""
_FISH = """\
# wukong completion fish: put it into ~/.config/fish/completions/wukong.fish
function __wukong_at
    set -l level ''
    for word in (commandline -opc)[2..]
        switch "$level $word"
            case @COMMANDS@
                set level (string trim "$level $word")
        end
    end
    test "$level" = "$argv[1]"
end
"""


class _Level(NamedTuple):
    """What may follow one command. `path`: its words; `options` and `commands`: with their help."""

    path: str
    options: Mapping[str, argparse.Action]
    commands: Mapping[str, str]


def scripts(parser: argparse.ArgumentParser, values: Mapping[str, list[str]]) -> Mapping[str, Callable[[], str]]:
    """Return, by the name of the shell, what makes its script.

    Args:
        parser: of the whole command line.
        values: the values that an option takes, by its name, unless the parser has them.
    """
    levels = list(_levels(parser, ""))
    return {
        "bash": lambda: _with_cases(_BASH, levels, values),
        "zsh": lambda: _with_cases(_ZSH, levels, values),
        "fish": lambda: _fish(levels, values),
    }


def _levels(parser: argparse.ArgumentParser, path: str) -> Iterator[_Level]:
    options: dict[str, argparse.Action] = {}
    commands: dict[str, str] = {}
    below: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        options.update(dict.fromkeys(action.option_strings, action))
        if isinstance(action, argparse._SubParsersAction):
            commands = {str(each.dest): each.help or "" for each in action._choices_actions}
            below = dict(action.choices)
        elif not action.option_strings and action.choices:
            commands = {str(each): action.help or "" for each in action.choices}
    yield _Level(path, options, commands)
    for name, each in below.items():
        yield from _levels(each, f"{path} {name}".strip())


def _given(name: str, action: argparse.Action, values: Mapping[str, list[str]]) -> list[str] | None:
    """Return the values that an option takes, if they are known; None if it takes none."""
    if action.nargs == 0:
        return None
    return [str(each) for each in action.choices] if action.choices else list(values.get(name, ()))


def _with_cases(frame: str, levels: list[_Level], values: Mapping[str, list[str]]) -> str:
    commands, given, words = _paths(levels), [], []
    for level in levels:
        for name, action in level.options.items():
            if (known := _given(name, action, values)) is not None:
                given.append(f'        "{level.path}|{name}") found="{" ".join(known)}" ;;')
        words.append(f'            "{level.path}") found="{" ".join([*level.commands, *level.options])}" ;;')
    text = frame.replace("@COMMANDS@", "|".join(f'"{each}"' for each in commands))
    return text.replace("@VALUES@", "\n".join(given)).replace("@WORDS@", "\n".join(words))


def _fish(levels: list[_Level], values: Mapping[str, list[str]]) -> str:
    lines = [_FISH.replace("@COMMANDS@", " ".join(f"'{each}'" for each in _paths(levels)))]
    for level in levels:
        at = f"complete -c wukong -n '__wukong_at \"{level.path}\"'"
        lines += [f"{at} -f -a {name} -d {_quoted(line)}" for name, line in level.commands.items()]
        for action in dict.fromkeys(level.options.values()):
            options = action.option_strings
            names = " ".join(f"-{'l' if each.startswith('--') else 's'} {each.lstrip('-')}" for each in options)
            known = _given(options[-1], action, values)
            takes = "" if known is None else f" -x -a {_quoted(' '.join(known))}" if known else " -r"
            lines.append(f"{at} {names}{takes} -d {_quoted((action.help or '').replace('%%', '%'))}")
    return "\n".join([*lines, ""])


def _paths(levels: list[_Level]) -> list[str]:
    """Return each command, as the level above it and its own word."""
    parts = [level.path.rpartition(" ") for level in levels if level.path]
    return [f"{above} {word}" for above, _, word in parts]


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
