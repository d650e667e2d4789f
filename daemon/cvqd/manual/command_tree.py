"""The command line as a tree of values, from which pages and completions are made."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

#: kind of a value, by its name in the usage
_KINDS: Final = {
    "FILE": "file",
    "A": "file",
    "B": "file",
    "LOG": "file",
    "PATH": "file",
    "DIR": "directory",
    "DIRECTORY": "directory",
    "INSTANCE": "instance",
    "DEVICE": "device",
}

#: every command has it, and no manual needs to say so
_HELP = "--help"


@dataclass(frozen=True, slots=True)
class Argument:
    """An option (``flags``) or an operand (none); ``metavar`` names its value, empty for a switch.

    ``many`` says that several values may be given.
    """

    flags: tuple[str, ...]
    metavar: str
    help: str
    choices: tuple[str, ...]
    required: bool
    many: bool

    @property
    def kind(self) -> str:
        """What a shell can offer for it: file, directory, instance, device; empty for nothing."""
        return _KINDS.get(self.metavar, "")

    @property
    def usage(self) -> str:
        """How it is written."""
        value = f"{self.metavar}..." if self.many else self.metavar
        return " ".join(filter(None, (*self.flags[-1:], value)))


@dataclass(frozen=True, slots=True)
class Command:
    """A program, a verb or a verb's verb; ``path`` is how it is called (``cvqd snapshot take``)."""

    path: str
    #: what follows the path, written as usual: ``--config FILE [--json] [INSTANCE]``
    usage: str
    #: the line in the list of verbs
    summary: str
    #: paragraphs
    description: tuple[str, ...]
    arguments: tuple[Argument, ...]
    commands: tuple[Command, ...]

    @property
    def name(self) -> str:
        """The last word of its path."""
        return self.path.rpartition(" ")[2]

    @property
    def leaves(self) -> tuple[Command, ...]:
        """What can be called: itself, or the commands at the ends of its branches."""
        return tuple(leaf for each in self.commands for leaf in each.leaves) or (self,)

    @property
    def options(self) -> tuple[Argument, ...]:
        """Arguments with flags."""
        return tuple(argument for argument in self.arguments if argument.flags)

    @property
    def operands(self) -> tuple[Argument, ...]:
        """Arguments without."""
        return tuple(argument for argument in self.arguments if not argument.flags)


def command(parser: argparse.ArgumentParser, summary: str = "") -> Command:
    """The tree below a parser."""
    actions: Sequence[argparse.Action] = parser._actions  # noqa: SLF001 -- argparse has no other way to ask
    shown = [action for action in actions if _HELP not in action.option_strings]
    branches = [action for action in shown if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001
    arguments = {id(action): _argument(action) for action in shown if action not in branches}
    return Command(
        path=parser.prog,
        usage=_usage(parser, shown, arguments),
        summary=summary,
        description=tuple(_paragraphs(parser.description) or _paragraphs(summary))
        + tuple(_paragraphs(parser.epilog)),
        arguments=tuple(arguments.values()),
        commands=tuple(each for branch in branches for each in _commands(branch)),
    )


def _commands(branch: argparse._SubParsersAction[Any]) -> list[Command]:
    summaries = {choice.dest: choice.help or "" for choice in branch._choices_actions}  # noqa: SLF001
    return [command(parser, summaries[name]) for name, parser in branch.choices.items() if name in summaries]


def _argument(action: argparse.Action) -> Argument:
    metavar = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar or ())
    choices = tuple(str(choice) for choice in action.choices or ())
    takes_value = action.nargs != 0
    return Argument(
        flags=tuple(action.option_strings),
        metavar=(metavar or "|".join(choices) or action.dest.upper()) if takes_value else "",
        help=action.help or "",
        choices=choices,
        required=action.required,
        many=action.nargs in ("*", "+"),
    )


def _usage(
    parser: argparse.ArgumentParser, actions: list[argparse.Action], arguments: dict[int, Argument]
) -> str:
    """Each argument, those that exclude each other at the place of the first; operands stand last.

    argparse does not show that an operand excludes an option.
    """
    words: list[str] = []
    done: set[int] = set()
    for action in sorted(actions, key=lambda action: not action.option_strings):
        group = next(
            (group for group in parser._mutually_exclusive_groups if action in group._group_actions),  # noqa: SLF001
            None,
        )
        members = group._group_actions if group else [action]  # noqa: SLF001
        if id(action) in done or id(action) not in arguments:
            continue
        done |= {id(member) for member in members}
        either = " | ".join(arguments[id(member)].usage for member in members)
        needed = group.required if group else action.required
        words.append((f"({either})" if group else either) if needed else f"[{either}]")
    return " ".join(words)


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n") if paragraph.strip()]
