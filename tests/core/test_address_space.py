from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvqd.core.address_space import AddressSpace
from cvqd.errors import GuestError
from cvqd.wire.vhost_vdpa import Access


def space(*extents: tuple[int, bytes, Access]) -> AddressSpace:
    made = AddressSpace()
    for start, data, access in extents:
        made.add(start, memoryview(bytearray(data)), access)
    return made


def test_a_range_may_span_neighbouring_extents():
    found = space((10, b"abc", Access.READ), (13, b"defg", Access.READ)).slices(11, 4, Access.READ)
    assert b"".join(found) == b"bcde"


@pytest.mark.parametrize(("start", "length"), [(9, 1), (9, 2), (12, 2), (14, 1), (0, 1 << 64)])
def test_a_byte_that_is_not_mapped_is_refused(start, length):
    with pytest.raises(GuestError, match=r"memory\.unmapped"):
        space((10, b"abc", Access.READ_WRITE)).slices(start, length, Access.READ)


def test_a_gap_inside_a_range_is_refused():
    with pytest.raises(GuestError, match="0xd"):
        space((10, b"abc", Access.READ), (14, b"x", Access.READ)).slices(10, 5, Access.READ)


def test_permissions_hold_for_every_extent_of_a_range():
    mixed = space((0, b"ab", Access.READ_WRITE), (2, b"cd", Access.READ))
    assert mixed.slices(0, 4, Access.READ)
    with pytest.raises(GuestError, match=r"memory\.permission"):
        mixed.slices(0, 4, Access.WRITE)


def test_views_write_through():
    made = space((0, b"....", Access.READ_WRITE))
    made.contiguous(1, 2, Access.WRITE)[:] = b"ok"
    assert bytes(made.extents[0].view) == b".ok."


def test_contiguous_refuses_a_seam():
    with pytest.raises(GuestError, match=r"memory\.split"):
        space((0, b"ab", Access.READ), (2, b"cd", Access.READ)).contiguous(1, 2, Access.READ)


@pytest.mark.parametrize("start", [8, 9, 10, 11, 12])
def test_overlapping_extents_are_refused(start):
    made = space((10, b"abc", Access.READ))
    with pytest.raises(ValueError, match="overlaps"):
        made.add(start, memoryview(bytearray(3)))


def test_empty_extents_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        AddressSpace().add(0, memoryview(b""))


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 8)), max_size=12),
    st.integers(0, 64),
    st.integers(1, 16),
)
def test_lookup_and_removal_agree_with_a_table_of_bytes(extents, start, size):
    made, table = AddressSpace(), {}
    for place, length in extents:
        if any(address in table for address in range(place, place + length)):
            with pytest.raises(ValueError, match="overlaps"):
                made.add(place, memoryview(bytearray(length)))
        else:
            made.add(place, memoryview(bytearray(length)))
            table.update(dict.fromkeys(range(place, place + length), (place, length)))
    if all(address in table for address in range(start, start + size)):
        assert sum(map(len, made.slices(start, size, Access.READ))) == size
    else:
        with pytest.raises(GuestError):
            made.slices(start, size, Access.READ)
    touched = {table[address] for address in range(start, start + size) if address in table}
    assert made.remove(start, size) == len(touched)
    assert {(extent.start, len(extent.view)) for extent in made.extents} == set(table.values()) - touched
