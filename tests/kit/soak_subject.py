"""One instance of a soak: what was done to it, what it cost, and what of that is a finding."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

if TYPE_CHECKING:
    from cvqd.testing.daemon import DaemonProcess

#: without these a soak has shown nothing
HAPPENS: Final = {
    "steady": ("rehearsed", "reconnected", "driver restarted"),
    "killed": ("killed",),
    "linux": ("rehearsed", "driver reloaded"),
}


class Sample(NamedTuple):
    """Of one instance's daemon at one moment: seconds, MB resident, descriptors, commands answered so far."""

    at: float
    memory: float
    descriptors: int
    commands: int


class Happening(NamedTuple):
    """Something that was done to an instance."""

    at: float
    what: str


class LostError(AssertionError):
    """The soak's finding."""


class Subject:
    """One instance, what was asked of it, and what it cost."""

    def __init__(self, name: str, begun: float) -> None:
        self.name = name
        self.daemon: DaemonProcess | None = None
        self.commands = 0
        self.acks: Counter[int] = Counter()
        self.samples: list[Sample] = []
        self.happenings: list[Happening] = []
        self._begun = begun

    def happened(self, what: str) -> None:
        """Remember it for the picture."""
        self.happenings.append(Happening(trio.current_time() - self._begun, what))

    async def watch(self) -> None:
        """A sample each second, while there is a daemon."""
        while True:
            await trio.sleep(1)
            if self.daemon is None:
                continue
            process = Path(f"/proc/{self.daemon.pid}")
            try:
                pages = int((process / "statm").read_text().split()[1])
                descriptors = len(list((process / "fd").iterdir()))
            except OSError:
                # killed this moment
                continue
            memory = pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
            self.samples.append(Sample(trio.current_time() - self._begun, memory, descriptors, self.commands))
            # what is in the log is in the way after an hour
            del self.daemon.events[:-1000]


def missing(subject: Subject) -> list[str]:
    """What should have happened and did not."""
    happened = {happening.what for happening in subject.happenings}
    found = [f"{subject.name}: never {what}" for what in HAPPENS[subject.name] if what not in happened]
    if not subject.commands:
        found.append(f"{subject.name}: no command")
    return found


def grown(subject: Subject) -> list[str]:
    """What grew, from the first half to the second."""
    samples = subject.samples[len(subject.samples) // 10 :]
    half = len(samples) // 2
    if half < 10:
        return []
    early, late = samples[:half], samples[half:]
    found: list[str] = []
    memory = [statistics.median(sample.memory for sample in part) for part in (early, late)]
    if memory[1] > 1.05 * memory[0] + 1:
        found.append(f"{subject.name}: {memory[0]:.1f} MB became {memory[1]:.1f}")
    # a rehearsal has two devices open for a moment; what it leaves would be there for good
    descriptors = [statistics.median(sample.descriptors for sample in part) for part in (early, late)]
    if descriptors[1] > descriptors[0] + 2:
        found.append(f"{subject.name}: {descriptors[0]:g} descriptors became {descriptors[1]:g}")
    return found


def told(subject: Subject) -> str:
    """One line."""
    happenings = Counter(happening.what for happening in subject.happenings)
    last = subject.samples[-1]
    return (
        f"{subject.name}: {subject.commands} commands ({dict(subject.acks)}), {dict(happenings)},"
        f" {last.memory:.1f} MB and {last.descriptors} descriptors in the end"
    )
