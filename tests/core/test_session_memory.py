"""A session's memory: tables and single regions, what is mapped for them, whose descriptors are closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cvqd.core.session import effects
from cvqd.errors import FrontendError
from cvqd.wire import vhost_user_payloads as payloads
from kit.session_messages import FILE, FakeFd, R, message, negotiated, region, say, table

if TYPE_CHECKING:
    from cvqd.core.session.session import Session
    from cvqd.wire.vhost_user import Message


def test_a_table_is_mapped_and_the_same_table_again_is_not():
    session = negotiated()
    first, again = FakeFd(FILE), FakeFd(FILE)
    again.inode = first.inode
    effect = session.receive(table((region(), first)))
    assert isinstance(effect, effects.MemoryChanged)
    assert [found.descriptor for found in effect.added] == [first]
    assert session.receive(table((region(user=0x5000_0000), again))) == effects.MemoryChanged((), ())
    assert not first.closed
    assert again.closed
    assert session.guest_address(0x5000_0010, 16) == 0x1000_0010


@pytest.mark.parametrize("change", [{"guest": 0x2000_0000}, {"size": 0x20_0000}, {"offset": 0x1000}, {}])
def test_a_region_that_differs_is_removed_and_added(change: dict[str, int]):
    session = negotiated()
    first, second = FakeFd(FILE), FakeFd(FILE)
    if change:
        second.inode = first.inode
    say(session, table((region(), first)))
    said = table((region(**change), second))
    effect = session.receive(said)
    assert isinstance(effect, effects.MemoryChanged)
    assert [found.descriptor for found in effect.removed] == [first]
    assert [found.descriptor for found in effect.added] == [second]
    assert not first.closed, "the device may still use it"
    session.reply(said)
    assert first.closed
    assert not second.closed


@pytest.mark.parametrize(
    ("regions", "reason"),
    [
        ([region(size=0)], "has no bytes"),
        ([region(guest=(1 << 64) - 0x1000)], "guest addresses .* wrap"),
        ([region(user=(1 << 64) - 0x1000)], "user addresses .* wrap"),
        ([region(offset=(1 << 64) - 0x1000)], "file offsets .* wrap"),
        ([region(size=(1 << 64) - 1)], "wrap"),
        ([region(), region(user=0x6000_0000)], "guest addresses .* overlap"),
        ([region(), region(guest=0x1000_0000 + 0xF_FFFF, user=0x6000_0000)], "guest addresses .* overlap"),
        ([region(), region(guest=0x9000_0000)], "user addresses .* overlap"),
        ([region(guest=at << 32, user=at << 32) for at in range(33)], "33 regions, at most 32"),
    ],
)
def test_an_impossible_table_is_refused_and_its_descriptors_closed(
    regions: list[payloads.RegionDescription], reason: str
):
    session, kept = negotiated(), FakeFd(FILE)
    say(session, table((region(guest=0xF000_0000), kept)))
    fds = [FakeFd(FILE) for _ in regions]
    with pytest.raises(FrontendError, match=reason):
        session.receive(table(*zip(regions, fds, strict=True)))
    assert all(fd.closed for fd in fds)
    assert not kept.closed
    session.close()
    assert kept.closed


def test_neighbouring_regions_do_not_overlap():
    session = negotiated()
    above = region(guest=0x1000_0000 + 0x10_0000, user=0x7000_0000_0000 + 0x10_0000)
    say(session, table((above, FakeFd(FILE)), (region(), FakeFd(FILE))))
    assert len(session.memory) == 2


def test_without_memory_slots_a_table_has_at_most_eight_regions():
    regions = [(region(guest=at << 32, user=at << 32), FakeFd(FILE)) for at in range(9)]
    session = negotiated(0)
    say(session, table(*regions[:8]))
    with pytest.raises(FrontendError, match="9 regions, at most 8"):
        session.receive(table(*regions))


@pytest.mark.parametrize("count", [0, 2])
def test_a_table_has_one_descriptor_per_region(count: int):
    fds = [FakeFd(FILE) for _ in range(count)]
    with pytest.raises(FrontendError, match=f"{count} descriptors for 1 regions"):
        negotiated().receive(message(R.SET_MEM_TABLE, payloads.encode_memory_table((region(),)), *fds))
    assert all(fd.closed for fd in fds)


def test_regions_come_and_go_one_by_one():
    session = negotiated()
    low, high = FakeFd(FILE), FakeFd(FILE)
    upper = region(guest=0x9000_0000, user=0x6000_0000)
    say(session, message(R.ADD_MEM_REG, region().encode_single(), low))
    effect = session.receive(message(R.ADD_MEM_REG, upper.encode_single(), high))
    assert isinstance(effect, effects.MemoryChanged)
    assert [found.descriptor for found in effect.added] == [high]
    removal = message(R.REM_MEM_REG, region(offset=0x5000).encode_single(), extra := FakeFd(FILE))
    effect = session.receive(removal)
    assert extra.closed
    assert isinstance(effect, effects.MemoryChanged)
    assert [found.descriptor for found in effect.removed] == [low]
    session.reply(removal)
    assert low.closed
    assert [found.guest_address for found in session.memory] == [0x9000_0000]


def taken(session: Session, said: Message) -> effects.MemoryChanged:
    """Say it; what it changed."""
    effect = session.receive(said)
    assert isinstance(effect, effects.MemoryChanged)
    session.reply(said)
    return effect


def test_a_region_that_was_added_twice_is_there_until_it_was_removed_twice():
    session = negotiated()
    first, again, other = FakeFd(FILE, 5000), FakeFd(FILE, 5000), FakeFd(FILE)
    nothing = effects.MemoryChanged((), ())
    taken(session, message(R.ADD_MEM_REG, region().encode_single(), first))
    assert taken(session, message(R.ADD_MEM_REG, region().encode_single(), again)) == nothing
    assert again.closed
    assert not first.closed
    assert len(session.memory) == 1
    with pytest.raises(FrontendError, match="overlap"):
        session.receive(message(R.ADD_MEM_REG, region().encode_single(), other))
    assert taken(session, message(R.REM_MEM_REG, region().encode_single())) == nothing
    assert not first.closed
    removed = taken(session, message(R.REM_MEM_REG, region().encode_single()))
    assert [found.descriptor for found in removed.removed] == [first]
    assert first.closed
    with pytest.raises(FrontendError, match="there is no such region"):
        session.receive(message(R.REM_MEM_REG, region().encode_single()))


def test_a_new_table_forgets_how_often_a_region_was_added():
    session = negotiated()
    for _ in range(3):
        taken(session, message(R.ADD_MEM_REG, region().encode_single(), FakeFd(FILE, 5000)))
    taken(session, message(R.SET_MEM_TABLE, payloads.encode_memory_table((region(),)), FakeFd(FILE, 5000)))
    assert len(taken(session, message(R.REM_MEM_REG, region().encode_single())).removed) == 1


def test_a_region_that_is_not_there_cannot_be_removed_nor_a_33rd_added():
    session = negotiated()
    with pytest.raises(FrontendError, match="REM_MEM_REG: there is no such region"):
        session.receive(message(R.REM_MEM_REG, region().encode_single()))
    for at in range(32):
        entry = region(guest=at << 32, user=at << 32)
        say(session, message(R.ADD_MEM_REG, entry.encode_single(), FakeFd(FILE)))
    with pytest.raises(FrontendError, match="all 32 memory slots"):
        session.receive(message(R.ADD_MEM_REG, region(guest=99 << 32).encode_single(), FakeFd(FILE)))


@pytest.mark.parametrize("count", [0, 2])
def test_add_mem_reg_takes_exactly_one_descriptor(count: int):
    fds = [FakeFd(FILE) for _ in range(count)]
    with pytest.raises(FrontendError, match="ADD_MEM_REG: "):
        negotiated().receive(message(R.ADD_MEM_REG, region().encode_single(), *fds))
    assert all(fd.closed for fd in fds)
