"""Completion for bash, which needs nothing besides bash."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from cvqd.host.socket_paths import DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cvqd.manual.command_tree import Argument, Command

_BASH: Final = """\
# bash completion for cvqd

_cvqd_offer() {
    local IFS=$'\\n' instance
    case $1 in
        file)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$2")
            ;;
        directory)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -d -- "$2")
            ;;
        instance)
            for instance in @DIRECTORY@/*.control; do
                instance=${instance##*/}
                instance=${instance%.control}
                [[ $instance != "*" && $instance == "$2"* ]] && COMPREPLY+=("$instance")
            done
            ;;
        device)
            mapfile -t COMPREPLY < <(
                compgen -G "$2*" | grep '^/dev/vhost-vdpa'
                [[ /dev/vhost-vdpa- == "$2"* ]] && compgen -G "/dev/vhost-vdpa-*"
                [[ -d /sys/bus/vdpa/devices ]] && cd /sys/bus/vdpa/devices && compgen -f -- "$2"
            )
            ;;
        *)
            mapfile -t COMPREPLY < <(compgen -W "${1// /$IFS}" -- "$2")
            ;;
    esac
}

_cvqd() {
    local cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} verb= i
    COMPREPLY=()
    # bash takes the = of --option=value for a word
    [[ $cur == = ]] && cur=
    [[ $before == = ]] && before=${COMP_WORDS[COMP_CWORD - 2]}
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$verb ${COMP_WORDS[i]}" in
            @VERBS@) verb="$verb ${COMP_WORDS[i]}" ;;
        esac
    done
    case "$verb $before" in
@VALUES@
    esac
    case $verb in
@WORDS@
    esac
}

complete -F _cvqd cvqd
"""


def text(tree: Command) -> str:
    """The file ``cvqd``."""
    commands = list(_walk(tree))
    values = [
        (
            f'"{_verb(each)} {flag}"',
            f'_cvqd_offer {shlex.quote(_offers(option))} "$cur"; return' if _offers(option) else "return",
        )
        for each in commands
        for option in each.options
        if option.metavar
        for flag in option.flags
    ]
    words = []
    for each in commands:
        flags = " ".join([flag for option in each.options for flag in option.flags] + ["--help"])
        # last: the shell adds instances to what was offered before
        offers = sorted(set(filter(None, map(_offers, each.operands))), key="instance".__eq__)
        offers = offers or list(filter(None, [" ".join(sub.name for sub in each.commands)]))
        offer = "; ".join(f'_cvqd_offer {shlex.quote(kind)} "$cur"' for kind in offers) or ":"
        words.append(
            f'        "{_verb(each)}")\n'
            f'            if [[ $cur == -* ]]; then _cvqd_offer {shlex.quote(flags)} "$cur"\n'
            f"            else {offer}; fi ;;"
        )
    return (
        _BASH.replace("@DIRECTORY@", DIRECTORY)
        .replace("@VERBS@", " | ".join(f'"{_verb(each)}"' for each in commands if _verb(each)))
        .replace("@VALUES@", "\n".join(f"        {case}) {offer} ;;" for case, offer in values))
        .replace("@WORDS@", "\n".join(words))
    )


def _walk(tree: Command) -> Iterator[Command]:
    yield tree
    for each in tree.commands:
        yield from _walk(each)


def _verb(each: Command) -> str:
    """What follows ``cvqd`` in its path, with the blank before it."""
    return each.path.removeprefix("cvqd")


def _offers(argument: Argument) -> str:
    return " ".join(argument.choices) or argument.kind
