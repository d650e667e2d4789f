"""cvqd.yaml(5): every key of the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cvqd import config
from cvqd.config.fields import DEFAULTS, REQUIRED, Field, ListOf, MapOf, Section, Union
from cvqd.manual.roff import sentence

if TYPE_CHECKING:
    from cvqd.manual.roff import Page

SUMMARY: Final = "configuration of an instance of cvqd"

EXAMPLE: Final = """\
# /etc/cvqd/vm0.yaml
device:
  kind: vhost-vdpa
  vdpa: vdpa0
isolation: require
control_queue:
  deadline: 500ms
policy:
  mac:
    change: [52:54:00:12:34:56, 52:54:00:aa:*]
  promiscuous: refused
  vlans: [5, 100-199]
"""

#: paragraphs about a key
NOTES: Final = {
    "targets": """\
`cvqd rehearse INSTANCE --to NAME` moves a running guest to one of these devices, and back. A target
is opened when a guest is to be moved to it; it has to offer what the guest negotiated and to hold
what the guest has set.""",
    "isolation": """\
With `prefer` an instance also runs where the control queue shares the guest's address space: the
guest can then have the device read and write the memory of the shadow queue. `isolation.shared` in
the log says so, and `cvqd status`.""",
    "control_queue": """\
A command that the device has not answered by the deadline is answered with an error. If the device
answers later, that still counts for the tracked state.""",
    "policy": """\
A command is judged by the specification, then by these rules, then relayed. What a rule refuses is
answered with an error at once, and `cvq.command.refused` in the log has the name of the rule. What
a guest gives up is never refused.""",
    "state": """\
What the device acknowledged is in `state.log` in this directory before the guest hears of it: a
daemon that is killed and started again puts the device back as the guest had it. The file survives
the process and not the host. One that cannot be used is put aside as `state.log.refused`.

A directory is one instance's. It is made if need be, and belongs on tmpfs or on a file system that
does not copy on write. One that is configured has to be usable; where none is and the default
cannot be used, the instance runs without, and `state.not_kept` in the log says why.""",
}


def write(page: Page) -> None:
    """Everything below the name."""
    page.section("SYNOPSIS")
    page.paragraph("`/etc/cvqd/``<INSTANCE>``.yaml`")
    page.section("DESCRIPTION")
    page.paragraph(
        "One file describes one device; the name of the file, without `.yaml`, is the instance's: letters,"
        " digits and `_` `.` `:` `-`, at most 48. The file is YAML of at most 256 KiB. Only `device` has"
        " to be there. A key that is not known, or is there twice, is a mistake."
    )
    page.paragraph(
        "`cvqd check-config FILE` reports every mistake of a file with its line and column and opens"
        " nothing. Editors that know JSON Schema can say most of it while one writes: see `FILES`."
    )
    page.paragraph(
        "Keys are written here with dots: `log.level` is `level` in the mapping `log`. `{instance}` in a"
        " default is the instance's name."
    )
    page.section("VALUES")
    page.item("duration", "A number with `s` or `ms`; without a unit it is seconds: `1s`, `250ms`, `0.5`.")
    page.item("bytes", "A whole number with `B`, `KiB` or `MiB`, or without a unit: `64KiB`, `4096`.")
    page.item("path", "An absolute path. That of a socket has at most 107 bytes.")
    page.item("octal mode", "Three octal digits, with or without a 0 before them and quotes around: `0660`.")
    page.item("MAC address", "Six bytes in hexadecimal with colons, of one station: unicast and not zero.")
    page.section("KEYS")
    for entry in config.FILE.fields:
        page.subsection(entry.key)
        if entry.default is DEFAULTS and isinstance(entry.type, Section):
            if entry.doc:
                page.paragraph(sentence(entry.doc))
            _keys(page, entry.type, f"{entry.key}.")
        else:
            _key(page, entry, "")
        for note in NOTES.get(entry.key, "").split("\n\n"):
            if note:
                page.paragraph(note)
    page.section("RELOADING")
    page.paragraph(
        "On SIGHUP the daemon reads the file again. "
        + ", ".join(f"`{key}`" for key in config.LIVE)
        + " and what is below them take effect with the guest's next command. Other keys that changed are"
        " named in the log by `service.reload_refused` and wait for a restart; a file with a mistake"
        " changes nothing."
    )
    page.section("FILES")
    page.item("`/etc/cvqd/{instance}.yaml`", "Where the unit `cvqd@.service` looks.")
    page.item(
        "`share/cvqd/cvqd.schema.json`",
        "JSON Schema (draft 2020-12) of the file, below the directory where cvqd is installed. A first line"
        " of `# yaml-language-server: $schema=PATH` makes editors use it.",
    )
    page.section("EXAMPLES")
    page.paragraph("A device by the name that `vdpa`(8) shows, for a guest that may do less than it could:")
    page.example(EXAMPLE)
    page.section("SEE ALSO")
    page.paragraph("`cvqd`(8), `cvqd-events`(7), `vdpa`(8)")


def _keys(page: Page, section: Section, prefix: str) -> None:
    for entry in section.fields:
        if entry.default is DEFAULTS and isinstance(entry.type, Section):
            _keys(page, entry.type, f"{prefix}{entry.key}.")
        else:
            _key(page, entry, prefix, alternative=entry.key in section.exactly_one)


def _key(page: Page, entry: Field, prefix: str, *, alternative: bool = False) -> None:
    default = (
        "Required." if entry.default is REQUIRED else f"Default: {entry.shown_default or entry.default}."
    )
    text = sentence(entry.doc) if alternative else f"{sentence(entry.doc)} {default}"
    page.item(f"`{prefix}{entry.key}`  {entry.type.shown}", text)
    inner = entry.type
    if isinstance(inner, Union):
        page.indent()
        for kind, variant in inner.variants.items():
            page.item(f"`kind: {kind}`", sentence(variant.shown))
            _below(page, variant, f"{prefix}{entry.key}.")
        page.dedent()
    elif isinstance(inner, ListOf | MapOf) and isinstance(inner.item, Section):
        _below(page, inner.item, f"{prefix}{entry.key}[].")


def _below(page: Page, section: Section, prefix: str) -> None:
    if section.fields:
        page.indent()
        _keys(page, section, prefix)
        page.dedent()
