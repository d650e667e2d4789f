"""Barriers of both ends of a ring: what the other end does while one is passed is seen behind it, or not yet.

A fence that is asked for at the wrong place, or not at all, shows on no
strongly ordered machine.  Here it is a call, and the other end acts in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cvqd.core.address_space import AddressSpace
from cvqd.core.queues.driver_ring import driver_ring
from cvqd.core.queues.guest_queue import GuestQueue
from cvqd.wire.packed_ring import EVENT_DISABLE, EVENT_ENABLE, PackedRing
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.split_ring import DESC_WRITE, NO_NOTIFICATION

if TYPE_CHECKING:
    from collections.abc import Callable

BASE = 0x10_0000
BUFFER = BASE + 0x1000
#: id or length that nobody gave
WRONG = 5
every_format = pytest.mark.parametrize(
    "ring_format", [RingFormat(), RingFormat(packed=True)], ids=["split", "packed"]
)


class Fence:
    """Does ``meanwhile`` the next time it is passed."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], object] | None = None

    def __call__(self) -> None:
        act, self.meanwhile = self.meanwhile, None
        if act is not None:
            act()


class Ends:
    """A driver, a device, the ring between them."""

    def __init__(self, ring_format: RingFormat) -> None:
        memory = memoryview(bytearray(0x2000))
        space = AddressSpace()
        space.add(BASE, memory)
        starts = (0x000, 0x200, 0x400)
        sizes = ring_format.sizes(8)
        windows = [memory[start : start + size] for start, size in zip(starts, sizes, strict=True)]
        self.ring = ring_format.open(8, windows)
        self.at_driver, self.at_device = Fence(), Fence()
        event_index = ring_format.event_index
        self.driver = driver_ring(self.ring, self.at_driver, event_index=event_index)
        self.device = GuestQueue(self.ring, space, self.at_device, event_index=event_index)

    def send(self) -> int:
        """A buffer, published; its id."""
        id_ = self.driver.offer([(BUFFER, 8, DESC_WRITE)])
        self.driver.publish()
        return id_

    def answer(self) -> None:
        """Whatever was sent, given back and published."""
        chain = self.device.pop()
        assert chain is not None
        self.device.push(chain, 3)
        self.device.publish()

    def show_sent(self, id_: int) -> None:
        """Store what the driver publishes, but for that which publishes it."""
        if isinstance(self.ring, PackedRing):
            self.ring.put_body(0, BUFFER, 8, id_)
        else:
            self.ring.put_available(0, id_)

    def show_answer(self, id_: int) -> None:
        """The same for the device."""
        self.ring.put_used(0, id_, 3)

    def answer_in_place(self) -> tuple[int, int]:
        """Id and length that an answer has in the ring, published or not."""
        if isinstance(self.ring, PackedRing):
            found = self.ring.descriptor(0)
            return found.id, found.length
        return self.ring.used_element(0)


@every_format
def test_a_buffer_is_read_behind_the_sign_that_it_is_there(ring_format: RingFormat):
    ends = Ends(ring_format)
    id_ = ends.send()
    ends.show_sent(WRONG)
    ends.at_device.meanwhile = lambda: ends.show_sent(id_)
    chain = ends.device.pop()
    assert chain is not None
    assert chain.head == id_
    assert chain.writable_length == 8


@every_format
def test_an_answer_is_read_behind_the_sign_that_it_is_there(ring_format: RingFormat):
    ends = Ends(ring_format)
    id_ = ends.send()
    ends.answer()
    ends.show_answer(WRONG)
    ends.at_driver.meanwhile = lambda: ends.show_answer(id_)
    assert ends.driver.take() == (id_, 3)


@every_format
def test_a_buffer_is_shown_behind_what_is_in_it(ring_format: RingFormat):
    ends = Ends(ring_format)
    seen = []
    ends.at_driver.meanwhile = lambda: seen.append(ends.device.pop())
    ends.send()
    assert seen == [None]
    assert ends.device.pop() is not None


@every_format
def test_an_answer_is_shown_behind_what_is_in_it(ring_format: RingFormat):
    ends = Ends(ring_format)
    id_ = ends.send()
    chain = ends.device.pop()
    assert chain is not None
    ends.device.push(chain, 3)
    seen = []
    ends.at_device.meanwhile = lambda: seen.append((ends.answer_in_place(), ends.driver.take()))
    ends.device.publish()
    assert seen == [((id_, 3), None)]
    assert ends.driver.take() == (id_, 3)


def test_a_device_looks_once_more_when_it_has_asked_for_a_kick():
    ends = Ends(RingFormat(event_index=True))
    ends.at_device.meanwhile = ends.send
    assert ends.device.pop() is not None


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_a_driver_looks_once_more_when_it_has_asked_for_a_call(*, packed: bool):
    ends = Ends(RingFormat(packed=packed, event_index=True))
    id_ = ends.send()
    ends.at_driver.meanwhile = ends.answer
    assert ends.driver.take() == (id_, 3)


@every_format
def test_whether_to_notify_is_looked_up_behind_what_was_published(ring_format: RingFormat):
    ends = Ends(ring_format)
    ring = ends.ring

    def want(flags: int, event: int) -> None:
        if isinstance(ring, PackedRing):
            ring.driver_event = ring.device_event = (0, event)
        else:
            ring.driver_flags = ring.device_flags = flags

    for fence, wanted in (
        (ends.at_driver, ends.driver.kick_wanted),
        (ends.at_device, ends.device.call_wanted),
    ):
        want(NO_NOTIFICATION, EVENT_DISABLE)
        assert not wanted()
        fence.meanwhile = lambda: want(0, EVENT_ENABLE)
        assert wanted()
