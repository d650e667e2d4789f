"""Where a packed ring goes on, and whether it was ever used, though its front-end may not say."""

from __future__ import annotations

import pytest

from cvqd.core.address_space import AddressSpace
from cvqd.core.queues.guest_ring import GuestRing
from cvqd.wire.packed_ring import INITIAL_BASE, PackedRing, available_flags, used_flags
from cvqd.wire.ring_format import RingFormat
from cvqd.wire.split_ring import RingAddresses, SplitRing

PACKED = RingFormat(packed=True)
AT = 0x1000


def ring(ring_format: RingFormat, base: int) -> tuple[GuestRing, AddressSpace, SplitRing | PackedRing]:
    memory = AddressSpace()
    memory.add(AT, memoryview(bytearray(4096)))
    guest = GuestRing(0, 8, RingAddresses(AT, AT + 512, AT + 1024), base, -1, -1)
    return guest, memory, guest.open(memory, ring_format)


@pytest.mark.parametrize(
    ("flags", "means"),
    [
        (0, INITIAL_BASE),  # nothing was ever offered
        (available_flags(wrap=True), INITIAL_BASE),  # offered before the device started
        (used_flags(wrap=True), 0),  # given back in the lap before
        (available_flags(wrap=False), 0),  # offered anew after that
    ],
)
def test_base_0_of_a_packed_ring_is_a_new_ring_or_the_beginning_of_its_second_lap(flags, means):
    guest, memory, live = ring(PACKED, 0)
    live.put_flags(0, flags)
    settled = guest.settled(memory, PACKED)
    assert settled.base == means
    assert settled.initial(memory, PACKED) == (means == INITIAL_BASE)


@pytest.mark.parametrize(
    ("flags", "means"),
    [
        (0, INITIAL_BASE),  # DPDK's virtio-user begins
        (available_flags(wrap=True), INITIAL_BASE),
        (available_flags(wrap=False), 0x0000_8000),  # a whole ring was taken and not given back
    ],
)
def test_the_drivers_wrap_counter_alone_is_a_new_ring_or_one_that_is_wholly_in_flight(flags, means):
    guest, memory, live = ring(PACKED, 0x0000_8000)
    live.put_flags(0, flags)
    assert guest.settled(memory, PACKED).base == means


def test_the_lap_before_is_seen_behind_a_buffer_that_reached_into_it():
    guest, memory, live = ring(PACKED, 0)
    assert isinstance(live, PackedRing)
    # two descriptors of a buffer that began in the second lap, then two that were used in the third
    for at, flags in (
        (0, available_flags(wrap=True)),
        (1, used_flags(wrap=True)),
        (4, used_flags(wrap=True)),
    ):
        live.put_flags(at, flags)
    assert guest.settled(memory, PACKED) is guest


@pytest.mark.parametrize("base", [INITIAL_BASE, 0x8003_8003, 0x8000_0000])
def test_any_other_base_is_what_it_says(base):
    guest, memory, _ = ring(PACKED, base)
    assert guest.settled(memory, PACKED) is guest
    assert guest.initial(memory, PACKED) == (base == INITIAL_BASE)


def test_a_split_ring_is_new_if_both_ends_say_so():
    guest, memory, live = ring(RingFormat(), 0)
    assert guest.settled(memory, RingFormat()) is guest
    assert guest.initial(memory, RingFormat())
    live.used_index = 1
    assert not guest.initial(memory, RingFormat())
    assert not ring(RingFormat(), 1)[0].initial(memory, RingFormat())


def test_a_split_ring_goes_on_at_its_used_index_whatever_is_said():
    guest, memory, live = ring(RingFormat(), 64)
    assert guest.resumed(memory, RingFormat()).base == 0
    live.used_index = 9
    assert guest.resumed(memory, RingFormat()).base == 9
    packed, memory, _ = ring(PACKED, 0x8003_8003)
    assert packed.resumed(memory, PACKED) == packed
