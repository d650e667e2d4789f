"""cvqd(8): the command, its verbs, and how it behaves as a daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd import config
from cvqd.manual.command_tree import Argument, Command, command
from cvqd.manual.roff import sentence

if TYPE_CHECKING:
    import argparse

    from cvqd.manual.roff import Page

SUMMARY: Final = "shadow control queue daemon for vhost-vdpa network devices"

#: sysexits.h, and what each means here
EXIT_STATUS: Final = {
    0: "The verb did what it was asked.",
    1: "What was looked at is not as it should be; the verb's own text says more.",
    2: "A move failed and left the guest on the other device.",
    3: "A move failed and left the guest on no device until its next kick.",
    64: "Usage: the command line is wrong.",
    65: "The data of an input file are wrong.",
    66: "An input file cannot be read.",
    69: "There is no such device or no such instance, or the device was removed.",
    70: "A defect of cvqd; a traceback tells where.",
    71: "The operating system or the device refused a call.",
    73: "A socket or an output file cannot be made.",
    75: "Not now: the device is busy, or the instance cannot do this at the moment. Another try may succeed.",
    76: "The other end broke the protocol.",
    77: "No permission, or not enough memory may be locked (`ulimit -l`).",
    78: "The configuration is wrong, or the control queue cannot be isolated and has to be.",
    130: "Interrupted from the keyboard.",
}

SIGNALS: Final = {
    "SIGTERM": "End in order: what the guest asked for is answered, the device is stopped, the sockets go.",
    "SIGINT": "The same.",
    "SIGHUP": "Read the configuration file again; `cvqd.yaml`(5) says what takes effect.",
    "SIGUSR1": "Write the status to the log, as the event `status.reported`.",
    "SIGBUS": "A front-end took back memory that it had lent: `memory.lost` is written, and the signal ends"
    " the daemon.",
}

ENVIRONMENT: Final = {
    ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"): "Sockets that the service manager made, see"
    " `sd_listen_fds`(3). They are named `frontend` and `control` and take the place of the configured ones.",
    ("NOTIFY_SOCKET",): "Where the service manager hears of start, reload and end, see `sd_notify`(3).",
    ("WATCHDOG_USEC", "WATCHDOG_PID"): "How often the service manager wants a sign of life, see"
    " `sd_watchdog_enabled`(3). The task that serves the control queue has to give it.",
    ("JOURNAL_STREAM",): "Where standard error is the journal, lines of the log carry their priority.",
    ("NO_COLOR", "TERM"): "Output to a terminal has colours unless the first is set or the second is `dumb`.",
}


def write(page: Page, parser: argparse.ArgumentParser) -> None:
    """Everything below the name."""
    tree = command(parser)
    page.section("SYNOPSIS")
    for leaf in tree.leaves:
        page.synopsis(leaf.path, leaf.usage)
    for option in tree.options:
        page.synopsis(tree.path, " ".join(filter(None, (option.flags[-1], option.metavar))))
    page.section("DESCRIPTION")
    page.paragraph(
        "cvqd owns one vhost-vdpa network device on behalf of a virtual machine and speaks vhost-user to the"
        " virtual machine monitor, the front-end. The guest's data queues run straight on the device. Its"
        " control virtqueue never does: cvqd takes each command out of guest memory, judges it by the"
        " specification and by the site's policy, relays it to the device over a private queue in an address"
        " space of its own, and remembers what the device acknowledged."
    )
    page.paragraph(
        "There is one process for each device, an instance, and one configuration file for each instance,"
        " see `cvqd.yaml`(5). The file's name is the instance's."
    )
    page.section("OPTIONS")
    for option in tree.options:
        page.item(_term(option), sentence(option.help))
    page.item("`--help`", "Show what a verb takes and does; every verb has it.")
    page.section("VERBS")
    for verb in tree.commands:
        page.subsection(verb.name)
        for leaf in verb.leaves:
            _verb(page, leaf)
    _as_a_daemon(page)
    page.section("EXIT STATUS")
    page.paragraph("The numbers are those of sysexits.h.")
    for code, meaning in EXIT_STATUS.items():
        page.item(f"`{code}`", meaning)
    page.section("FILES")
    page.item("`/etc/cvqd/{instance}.yaml`", "Configuration of an instance, see `cvqd.yaml`(5).")
    for key in ("frontend.socket", "control.socket", "state.directory"):
        entry = config.field(key)
        page.item(
            f"`{entry.shown_default or entry.default}`", sentence(entry.doc) + f" `{key}` puts it elsewhere."
        )
    page.section("EXAMPLES")
    page.paragraph("Look at every vhost-vdpa device of this machine and at where its control queue can live:")
    page.example("cvqd probe")
    page.paragraph("Check a configuration, start its instance under systemd, and see what it does:")
    page.example("cvqd check-config /etc/cvqd/vm0.yaml\nsystemctl enable --now cvqd@vm0\ncvqd status vm0")
    page.paragraph("Serve a simulated device to a front-end, without any hardware or privilege:")
    page.example("cvqd run --config simulator.yaml --socket-path /tmp/vm0.sock")
    page.paragraph("Which instances of this machine have an isolated control queue, for a script:")
    page.example("cvqd status --json | jq -r '.[] | \"\\(.instance) \\(.isolation.verdict)\"'")
    page.section("SEE ALSO")
    page.paragraph("`cvqd.yaml`(5), `cvqd-events`(7), `cvqd-metrics`(7), `vdpa`(8), `systemctl`(1)")


def _verb(page: Page, verb: Command) -> None:
    page.synopsis(verb.path, verb.usage)
    for paragraph in verb.description:
        page.paragraph(sentence(paragraph))
    for argument in verb.arguments:
        page.item(_term(argument), sentence(argument.help))


def _term(argument: Argument) -> str:
    if not argument.flags:
        return f"`<{argument.metavar}>`"
    flags = ", ".join(argument.flags)
    return f"`{flags} {argument.metavar}`" if argument.metavar else f"`{flags}`"


def _as_a_daemon(page: Page) -> None:
    """What is in no table: how a running instance is reached."""
    page.section("SIGNALS")
    page.paragraph("A running instance takes these:")
    for name, meaning in SIGNALS.items():
        page.item(f"`{name}`", meaning)
    page.section("CONTROL SOCKET")
    page.paragraph(
        "Verbs that ask a running instance do so at its control socket, and other programs may too: a line"
        ' with a JSON object each way, at most 2 MiB for a request. `{"request": "status"}` is answered with'
        " what `cvqd status INSTANCE --json` prints. What cannot be done is answered with `error`, the"
        " reason, and `exit_code`."
    )
    page.section("LOG")
    page.paragraph("Events go to standard error, one to a line; `cvqd-events`(7) has all of them.")
    page.section("ENVIRONMENT")
    for names, meaning in ENVIRONMENT.items():
        page.item(", ".join(f"`{name}`" for name in names), meaning)
