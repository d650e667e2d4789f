"""Completion for zsh: a function for each command, each with the arguments that ``_arguments`` wants."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from cvqd.host.socket_paths import DIRECTORY

if TYPE_CHECKING:
    from cvqd.manual.command_tree import Argument, Command

_HELPERS: Final = """\
#compdef cvqd

_cvqd_of_instance() {
    compadd -- @DIRECTORY@/*.control(N:t:r)
}

_cvqd_of_device() {
    compadd -- /dev/vhost-vdpa-*(N) /sys/bus/vdpa/devices/*(N:t)
}
"""

_ACTIONS: Final = {
    "file": "_files",
    "directory": "_files -/",
    "instance": "_cvqd_of_instance",
    "device": "_cvqd_of_device",
    "": " ",
}


def text(tree: Command) -> str:
    """The file ``_cvqd``."""
    helpers = _HELPERS.replace("@DIRECTORY@", DIRECTORY)
    return "\n".join([helpers, *_functions(tree), '_cvqd "$@"', ""])


def _functions(command: Command) -> list[str]:
    """The command's function, and those of the commands below it."""
    specs = ["(- *)--help[show what it takes and does]"]
    for option in command.options:
        value = f":{option.metavar}:{_action(option)}" if option.metavar else ""
        specs += [f"{flag}[{_quoted(option.help)}]{value}" for flag in option.flags]
    specs += [
        f"{'*' if operand.many else ''}:{operand.metavar}:{_action(operand)}" for operand in command.operands
    ]
    if not command.commands:
        return [_function(command.path, _arguments("_arguments", specs))]
    body = [
        "local curcontext=$curcontext state line",
        *_arguments("_arguments -C", [*specs, ":verb:->verb", "*:: :->rest"]),
        "case $state in",
        "    verb)",
        "        local -a verbs=(",
        *(f"            {shlex.quote(f'{each.name}:{each.summary}')}" for each in command.commands),
        "        )",
        "        _describe verb verbs ;;",
        "    rest)",
        "        case $words[1] in",
        *(f"            {each.name}) {_name(each.path)} ;;" for each in command.commands),
        "        esac ;;",
        "esac",
    ]
    below = [function for each in command.commands for function in _functions(each)]
    return [_function(command.path, body), *below]


def _function(path: str, body: list[str]) -> str:
    return "\n".join([f"{_name(path)}() {{", *(f"    {line}" for line in body), "}", ""])


def _name(path: str) -> str:
    return "_" + path.replace(" ", "_").replace("-", "_")


def _arguments(call: str, specs: list[str]) -> list[str]:
    return [
        f"{call} \\",
        *(f"    {shlex.quote(spec)} \\" for spec in specs[:-1]),
        f"    {shlex.quote(specs[-1])}",
    ]


def _action(argument: Argument) -> str:
    return f"({' '.join(argument.choices)})" if argument.choices else _ACTIONS[argument.kind]


def _quoted(text: str) -> str:
    """Help inside the brackets of a specification."""
    return "".join(f"\\{character}" if character in "\\[]:" else character for character in text)
