"""Address spaces of the device, without rings."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvqd.errors import DeviceError, GuestError
from cvqd.simulator.iotlb import Iotlb
from cvqd.simulator.spec import WHOLE_RANGE
from cvqd.wire.vhost_vdpa import Access, BatchMark, IovaRange, Map, Unmap

PAGE = 4096


class Bytes:
    def __init__(self, size: int) -> None:
        self.view = memoryview(bytearray(size))
        self.address = 0


REGION = Bytes(16 * PAGE)


def refused(number: int = errno.EFAULT):
    return pytest.raises(DeviceError, check=lambda error: error.errno == number)


def at(iova: int, size: int = PAGE, offset: int = 0, access: Access = Access.READ_WRITE) -> Map:
    return Map(iova, size, REGION, offset, access)


class Space:
    """An Iotlb and what it said had changed."""

    def __init__(self, spaces: int = 2, iova_range: IovaRange = WHOLE_RANGE) -> None:
        self.changed: list[int] = []
        self.iotlb = Iotlb(spaces, iova_range, self.changed.append)

    def apply(self, *messages, asid: int = 0) -> None:
        self.iotlb.apply(asid, messages, asid_acknowledged=True)

    def seen(self, asid: int = 0) -> list[tuple[int, int]]:
        return [(extent.start, len(extent.view)) for extent in self.iotlb.table(asid).extents]


@pytest.fixture
def space() -> Space:
    return Space()


def test_an_empty_address_space_translates_nothing(space):
    for address in (0, PAGE, 0x7F00_0000_0000):
        with pytest.raises(GuestError, match="unmapped"):
            space.iotlb.table(0).slices(address, 1, Access.READ)


def test_a_mapping_shows_its_part_of_the_region(space):
    REGION.view[2 * PAGE] = 0xAB
    space.apply(at(PAGE, offset=2 * PAGE))
    assert space.iotlb.table(0).contiguous(PAGE, 1, Access.READ)[0] == 0xAB
    with pytest.raises(GuestError, match="unmapped"):
        space.iotlb.table(0).slices(2 * PAGE, 1, Access.READ)
    with pytest.raises(GuestError, match="unmapped"):
        space.iotlb.table(1).slices(PAGE, 1, Access.READ)


@pytest.mark.parametrize(
    ("granted", "wanted", "allowed"),
    [
        (Access.READ, Access.READ, True),
        (Access.READ, Access.WRITE, False),
        (Access.WRITE, Access.READ, False),
        (Access.WRITE, Access.WRITE, True),
        (Access.READ_WRITE, Access.WRITE, True),
    ],
)
def test_permissions_are_enforced(space, granted, wanted, allowed):
    space.apply(at(PAGE, access=granted))
    if allowed:
        space.iotlb.table(0).slices(PAGE, PAGE, wanted)
    else:
        with pytest.raises(GuestError, match="permission"):
            space.iotlb.table(0).slices(PAGE, PAGE, wanted)


@pytest.mark.parametrize("message", [at(PAGE, 0), Unmap(PAGE, 0), at(PAGE, -PAGE)])
def test_an_empty_range_is_refused(space, message):
    space.apply(at(8 * PAGE))
    with refused(errno.EINVAL):
        space.apply(message)


@pytest.mark.parametrize(
    "message",
    [
        at(0, 16 * PAGE, offset=PAGE),
        at(0, PAGE, offset=-PAGE),
        at(0, access=Access(0)),
        at(0, access=4),
        at(2**64 - PAGE, 2 * PAGE),
        at(-PAGE),
    ],
)
def test_what_cannot_be_shown_is_refused(space, message):
    with refused():
        space.apply(message)
    assert space.seen() == []


@pytest.mark.parametrize("iova", [0, PAGE - 1, 8 * PAGE, 7 * PAGE + 1])
def test_the_range_of_addresses_is_enforced(iova):
    space = Space(iova_range=IovaRange(PAGE, 8 * PAGE - 1))
    with refused():
        space.apply(at(iova))
    space.apply(at(PAGE), at(7 * PAGE))


def test_the_last_page_of_the_address_space_can_be_mapped(space):
    space.apply(at(2**64 - PAGE))
    assert space.seen() == [(2**64 - PAGE, PAGE)]


def test_a_batch_shows_at_its_end(space):
    space.apply(at(PAGE))
    space.apply(BatchMark.BEGIN, Unmap(PAGE, PAGE), at(2 * PAGE))
    assert space.seen() == [(PAGE, PAGE)]
    space.apply(BatchMark.END)
    assert space.seen() == [(2 * PAGE, PAGE)]
    assert space.changed == [0, 0]


def test_a_batch_without_a_change_is_no_change(space):
    space.apply(at(PAGE), BatchMark.BEGIN, Unmap(64 * PAGE, PAGE), BatchMark.END)
    assert space.changed == [0]


def test_within_a_batch_the_rules_are_those_of_the_record(space):
    space.apply(BatchMark.BEGIN, at(PAGE))
    with refused():
        space.apply(at(PAGE))
    space.apply(Unmap(PAGE, PAGE), at(PAGE, 2 * PAGE), BatchMark.END)
    assert space.seen() == [(PAGE, 2 * PAGE)]


def test_another_address_space_is_kept_out_of_a_batch(space):
    space.apply(at(PAGE), asid=1)
    space.apply(BatchMark.BEGIN)
    for message in (at(2 * PAGE), Unmap(PAGE, PAGE), BatchMark.BEGIN, BatchMark.END):
        with refused():
            space.apply(message, asid=1)
    assert space.seen(1) == [(PAGE, PAGE)]


def test_what_a_reset_lost_comes_back_with_the_next_change(space):
    space.apply(at(PAGE), at(4 * PAGE))
    space.iotlb.forget_effective()
    assert space.seen() == []
    with refused():
        space.apply(at(PAGE))
    space.apply(Unmap(PAGE, PAGE))
    assert space.seen() == [(4 * PAGE, PAGE)]


def test_closing_forgets_mappings_and_an_open_batch(space):
    space.apply(at(PAGE))
    space.apply(at(PAGE), BatchMark.BEGIN, asid=1)
    space.iotlb.clear()
    space.apply(at(PAGE))
    with refused():
        space.apply(Unmap(PAGE, PAGE), asid=1)


def test_nothing_of_a_region_is_held_after_it_was_unmapped(space):
    memory = bytearray(PAGE)
    region = Bytes(0)
    region.view = memoryview(memory)
    space.apply(Map(PAGE, PAGE, region, 0, Access.READ_WRITE))
    with pytest.raises(BufferError):
        memory.append(0)
    space.apply(Unmap(PAGE, 1))
    region.view.release()
    memory.append(0)


MESSAGES = st.one_of(
    st.builds(
        at, st.integers(0, 15).map(lambda page: page * PAGE), st.integers(1, 4).map(lambda n: n * PAGE)
    ),
    st.builds(
        Unmap, st.integers(0, 15).map(lambda page: page * PAGE), st.integers(1, 4).map(lambda n: n * PAGE)
    ),
    st.sampled_from(BatchMark),
)


@given(st.lists(MESSAGES, max_size=40))
def test_the_two_tables_agree_whenever_no_batch_is_open(messages):
    space = Space(1)
    model: dict[int, int] = {}
    open_batch = False
    for message in messages:
        try:
            space.apply(message)
        except DeviceError:
            assert not isinstance(message, BatchMark) or not model
            continue
        match message:
            case Map(iova, size):
                assert all(iova >= start + length or start >= iova + size for start, length in model.items())
                model[iova] = size
            case Unmap(iova, size):
                model = {
                    start: length
                    for start, length in model.items()
                    if start >= iova + size or iova >= start + length
                }
            case BatchMark():
                open_batch = message is BatchMark.BEGIN
        if not open_batch:
            assert space.seen() == sorted(model.items())
