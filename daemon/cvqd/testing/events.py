"""A log that remembers: tests read back what was emitted.

Every event is checked against the catalogue when it is emitted, so a test that
uses the recorder also checks names and fields.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from cvqd.events import CATALOGUE
from cvqd.host.feed import Feed


class Recorded(NamedTuple):
    """One emitted event; ``mono_ns`` is None where the caller gave none."""

    name: str
    fields: dict[str, object]
    mono_ns: int | None = None


class EventRecorder:
    """Satisfies ``events.EventLog``; AssertionError for an event that is not in the catalogue."""

    def __init__(self) -> None:
        self.events: list[Recorded] = []
        #: nobody follows a recorder
        self.feed: Final = Feed()
        #: what lines would name as the device
        self.device = ""

    def emit(self, name: str, /, *, mono_ns: int | None = None, **fields: object) -> None:
        """Remember one event."""
        check_event(name, fields)
        self.events.append(Recorded(name, fields, mono_ns))

    def enabled(self, name: str, /) -> bool:
        """Everything in the catalogue is recorded, debug included."""
        assert name in CATALOGUE, f"{name} is not in the catalogue"
        return True

    #: a recorder leaves nothing out
    limited: Final = 0
    dropped: Final = 0

    @property
    def counts(self) -> Counter[str]:
        """Events by name."""
        return Counter(self.names())

    def set_device(self, device: str) -> None:
        """Remember the device."""
        self.device = device

    def names(self) -> list[str]:
        """Names in order of emission."""
        return [event.name for event in self.events]

    def of(self, name: str) -> list[dict[str, object]]:
        """Fields of every event of this name, in order."""
        assert name in CATALOGUE, f"{name} is not in the catalogue"
        return [event.fields for event in self.events if event.name == name]


def check_event(name: str, fields: dict[str, object]) -> None:
    """AssertionError unless the catalogue has the event and all of these fields."""
    assert name in CATALOGUE, f"{name} is not in the catalogue"
    unknown = sorted(set(fields) - set(CATALOGUE[name].fields))
    assert not unknown, f"{name} has no field {', '.join(unknown)} in the catalogue"
