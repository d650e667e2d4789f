"""Catalogue of log events: stable names, their level, their fields.

A name is ``noun.verb`` in lower case.  ``guest`` marks an event that others
can cause at will, so that the logger can limit its rate: a guest by a command,
by restarting its driver or through its front-end, or any client of the control
socket.  A test walks the source and checks every log call against this list;
the README's table is generated from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Event:
    """One entry: what happened, its level, and the fields that come with it."""

    name: str
    level: str
    meaning: str
    fields: tuple[str, ...] = ()
    guest: bool = False


class EventLog(Protocol):
    """Where events go; ``host.logging`` writes them, ``testing.events`` records them."""

    def emit(self, name: str, /, *, mono_ns: int | None = None, **fields: object) -> None:
        """Report one event of the catalogue, at the level that the catalogue gives it.

        ``mono_ns`` is ``time.monotonic_ns()`` at the step itself, for steps that
        are reported after the fact; without it, the moment of the call is used.
        Never blocks, and never raises because of what the log's reader does.
        """

    def enabled(self, name: str, /) -> bool:
        """Whether ``emit`` would write this event: lets a busy path skip building fields."""


class CountingLog(EventLog, Protocol):
    """A log that also counts; its numbers never decrease."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Events by name, including those that were not written."""

    @property
    def limited(self) -> int:
        """Lines left out because a guest caused too many."""

    @property
    def dropped(self) -> int:
        """Lines lost because standard error did not take them in time."""


_ALL: Final = (
    Event("service.started", "info", "the daemon is ready for a front-end", ("version", "socket", "control")),
    Event("service.stopping", "info", "a signal asked the daemon to end", ("signal",)),
    Event(
        "service.reloaded", "info", "the configuration was read again; these keys took effect", ("changed",)
    ),
    Event(
        "service.reload_refused",
        "warning",
        "these keys changed in the file but cannot change while the daemon runs",
        ("keys", "reason"),
    ),
    Event(
        "service.reload_failed",
        "error",
        "the configuration file is wrong; everything stays as it was",
        ("problems",),
    ),
    Event("service.stopped", "info", "everything is closed", ()),
    Event("status.reported", "info", "SIGUSR1 asked for the status", ("status",)),
    Event("notify.failed", "warning", "the service manager did not take a message", ("message", "reason")),
    Event(
        "watchdog.withheld",
        "error",
        "the relay took no turn in time; until it does the service manager gets no sign of life",
        ("seconds",),
    ),
    Event("service.failed", "error", "the daemon ends because of this", ("blame", "reason", "exit_code")),
    Event("device.opened", "info", "the device is ours", ("kind", "path", "features", "masked", "backend")),
    Event(
        "device.started",
        "info",
        "DRIVER_OK is set, the rings run",
        ("features", "pairs", "rings", "elapsed_us"),
        guest=True,
    ),
    Event("device.stopped", "info", "no ring runs any more", ("how", "reason"), guest=True),
    Event("device.suspended", "info", "no ring moves any more, all are kept", ("path", "elapsed_us")),
    Event("device.resumed", "info", "the rings of a suspended device run again", ("path", "elapsed_us")),
    Event("device.removed", "error", "the node of the device is gone; the daemon lets go of it", ("path",)),
    Event("device.unwatched", "warning", "a removal of the device would go unnoticed", ("path", "reason")),
    Event("device.needs_reset", "error", "the device failed while its guest ran and is reset", ("reason",)),
    Event("device.recovered", "info", "it runs again, with its state put back", ("elapsed_us",)),
    Event(
        "device.failed",
        "error",
        "the device or the kernel refused a call",
        ("call", "errno", "reason"),
        guest=True,
    ),
    Event(
        "device.fault",
        "warning",
        "the device broke the virtqueue protocol on the shadow queue",
        ("reason", "detail"),
    ),
    Event(
        "device.config_changed",
        "info",
        "the device announced a configuration change",
        ("status",),
        guest=True,
    ),
    Event("isolation.verdict", "info", "where each queue's memory lives", ("verdict", "queues", "reason")),
    Event(
        "isolation.shared",
        "warning",
        "the control queue shares the guest's address space",
        ("queue", "reason"),
    ),
    Event(
        "isolation.refused",
        "error",
        "policy is require and the queue cannot be isolated",
        ("queue", "reason"),
    ),
    Event("frontend.connected", "info", "a front-end opened a session", (), guest=True),
    Event("frontend.disconnected", "info", "the session is over", ("reason",), guest=True),
    Event(
        "frontend.refused", "warning", "the front-end broke the protocol", ("request", "reason"), guest=True
    ),
    Event(
        "frontend.denied",
        "warning",
        "a request was answered with an error",
        ("request", "reason"),
        guest=True,
    ),
    Event(
        "frontend.failed",
        "error",
        "the system refused what a front-end needs, such as descriptors; it may come again",
        ("reason",),
        guest=True,
    ),
    Event("frontend.negotiated", "info", "features as the guest took them", ("features",), guest=True),
    Event(
        "memory.mapped",
        "info",
        "guest memory is in address space 0",
        ("regions", "bytes", "added", "removed", "elapsed_us"),
        guest=True,
    ),
    Event(
        "memory.lost",
        "error",
        "a front-end took back memory that it had lent; the daemon dies of SIGBUS",
        ("where",),
    ),
    Event(
        "cvq.driven",
        "info",
        "the front-end keeps the guest's control queue; cvqd drives the device's",
        ("pairs", "promiscuous"),
        guest=True,
    ),
    Event(
        "cvq.not_promiscuous",
        "warning",
        "the guest's filters do not arrive and the device receives for its own address and groups only",
        ("reason",),
        guest=True,
    ),
    Event(
        "cvq.resumed",
        "info",
        "the control queue goes on where its last answer stands, not where the front-end says",
        ("base", "said"),
        guest=True,
    ),
    Event("announce.raised", "info", "the guest is asked to announce itself", ("digest",)),
    Event(
        "cvq.command.received",
        "debug",
        "a command was popped and decoded",
        ("command_id", "command", "bytes"),
        guest=True,
    ),
    Event(
        "cvq.command.refused",
        "warning",
        "answered ERR without asking the device",
        ("command_id", "command", "reason", "detail"),
        guest=True,
    ),
    Event(
        "cvq.command.forwarded",
        "debug",
        "submitted to the shadow queue",
        ("command_id", "command"),
        guest=True,
    ),
    Event(
        "cvq.command.acked",
        "info",
        "the device answered and the guest has it",
        ("command_id", "command", "ack", "elapsed_us"),
        guest=True,
    ),
    Event(
        "cvq.command.expired",
        "error",
        "no answer within the deadline; the guest got ERR",
        ("command_id", "command", "elapsed_us"),
        guest=True,
    ),
    Event(
        "cvq.command.late",
        "warning",
        "an expired command's answer arrived",
        ("command_id", "command", "ack", "elapsed_us"),
        guest=True,
    ),
    Event(
        "cvq.table.widened",
        "warning",
        "the device does not take these address tables and receives everything instead",
        ("command_id", "unicast", "multicast"),
        guest=True,
    ),
    Event(
        "cvq.table.narrowed",
        "info",
        "the device takes the address tables again",
        ("command_id", "unicast", "multicast"),
        guest=True,
    ),
    Event(
        "cvq.chain.malformed",
        "warning",
        "a descriptor chain breaks virtio's rules",
        ("command_id", "reason", "detail"),
        guest=True,
    ),
    Event(
        "cvq.broken",
        "error",
        "the guest's control queue cannot be followed any more",
        ("reason", "detail"),
        guest=True,
    ),
    Event(
        "state.changed",
        "info",
        "tracked state moved with the device",
        ("command", "command_id", "digest", "late"),
        guest=True,
    ),
    Event(
        "policy.not_enforced",
        "warning",
        "the device lacks the feature that a rule of the site's policy needs and may let everything in",
        ("rule", "feature"),
    ),
    Event(
        "policy.exceeded",
        "warning",
        "what the guest set before breaks these rules; it stays until the guest changes it or starts anew",
        ("rules", "digest"),
    ),
    Event(
        "state.kept",
        "info",
        "what the guest is told from now on will be known to a restart",
        ("path", "bytes"),
    ),
    Event(
        "state.not_kept",
        "warning",
        "nothing will be known to a restart: no directory is configured and the default cannot be used",
        ("path", "reason"),
    ),
    Event(
        "state.loaded",
        "info",
        "another process kept this state; a guest that goes on will find it",
        ("path", "commands", "digest"),
    ),
    Event("state.outdated", "info", "kept state is of no use any more", ("path", "reason")),
    Event(
        "state.refused",
        "warning",
        "kept state cannot be used and was put aside",
        ("path", "reason", "kept_as"),
    ),
    Event(
        "state.damaged",
        "warning",
        "kept state is whole only up to here; what a guest set later is lost",
        ("path", "commands", "lost_bytes"),
    ),
    Event(
        "state.unknown",
        "warning",
        "the guest's rings were in use before and nothing is known of what it had set",
        guest=True,
    ),
    Event("state.reset", "info", "a new driver's life begins", ("reason", "digest"), guest=True),
    Event(
        "state.replayed",
        "info",
        "tracked state was put back into the device",
        ("commands", "digest", "elapsed_us"),
        guest=True,
    ),
    Event(
        "snapshot.saved",
        "info",
        "the state was given out, to an operator or to a front-end that moves its guest",
        ("digest", "bytes", "how"),
        guest=True,
    ),
    Event(
        "snapshot.loaded",
        "info",
        "state was taken in and waits for a driver to go on from it",
        ("digest", "bytes", "how"),
        guest=True,
    ),
    Event(
        "snapshot.refused",
        "warning",
        "state could not be given out or taken in",
        ("reason", "how"),
        guest=True,
    ),
    Event(
        "snapshot.unused", "warning", "state that was loaded was given up", ("digest", "reason"), guest=True
    ),
    Event(
        "rehearsal.started",
        "info",
        "an operator has the guest moved, to learn how that goes",
        ("rehearsal", "to", "times", "back", "dry"),
    ),
    Event(
        "rehearsal.finished",
        "info",
        "all its moves are over, or one failed; the longest blackout",
        ("rehearsal", "moves", "failed", "blackout_us", "verdict"),
    ),
    Event(
        "switchover.started",
        "info",
        "a guest is about to be moved, or to be asked whether it could be",
        ("move", "kind", "source", "target", "digest"),
    ),
    Event("switchover.phase", "info", "a phase of a move is over", ("move", "phase", "elapsed_us")),
    Event(
        "switchover.failed",
        "error",
        "a move failed in this phase; where that leaves the guest",
        ("move", "phase", "reason", "guest_on"),
    ),
    Event(
        "switchover.finished",
        "info",
        "the guest runs on the target, or on where it was after a dry move",
        (
            "move",
            "kind",
            "source",
            "target",
            "blackout_us",
            "commands",
            "digest_before",
            "digest_after",
        ),
    ),
    Event(
        "ring.bridged",
        "info",
        "a ring's calls are no eventfd; cvqd passes its signals on",
        ("queue",),
        guest=True,
    ),
    Event(
        "ring.resumed",
        "info",
        "a data ring goes on where its used index stands, not where the front-end says",
        ("queue", "base", "said"),
        guest=True,
    ),
    Event(
        "simulator.access.refused",
        "warning",
        "a ring of the simulator pointed at memory its address space does not give it",
        ("queue", "reason", "detail"),
        guest=True,
    ),
    Event(
        "simulator.chain.malformed",
        "warning",
        "a descriptor chain in a ring of the simulator breaks virtio's rules",
        ("queue", "reason", "detail"),
        guest=True,
    ),
    Event(
        "simulator.ring.broken",
        "warning",
        "a ring of the simulator cannot be followed any more",
        ("queue", "reason", "detail"),
        guest=True,
    ),
    Event(
        "simulator.fault.injected",
        "info",
        "the simulator misbehaves as configured",
        ("command", "action"),
        guest=True,
    ),
    Event("simulator.call.failed", "info", "a call of the simulator fails as configured", ("call",)),
    Event(
        "clock.stepped",
        "warning",
        "the wall clock was set, or the host slept, since the line before; mono_ns went on as ever",
        ("seconds",),
    ),
    Event("control.failed", "warning", "a control request could not be served", ("reason",), guest=True),
    Event("log.limited", "warning", "more of an event was caused than is written", ("of", "lines")),
    Event("log.dropped", "warning", "standard error did not take these lines in time", ("lines",)),
)

CATALOGUE: Final[dict[str, Event]] = {event.name: event for event in _ALL}
