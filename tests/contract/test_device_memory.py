"""Contract: mappings, address spaces and groups."""

from __future__ import annotations

import errno

import pytest

from cvqd.errors import DeviceError
from cvqd.host import shared_memory
from cvqd.wire.net_control import OK, MacAddrSet
from cvqd.wire.vhost_vdpa import Access, Backend, BatchMark, Map, Unmap

PAGE = 4096
MAC = bytes.fromhex("525411223344")
ALL = Backend.IOTLB_BATCH.mask | Backend.IOTLB_ASID.mask


def refused(number: int):
    return pytest.raises(DeviceError, check=lambda error: error.errno == number)


@pytest.fixture
def region():
    return shared_memory.create("contract", 16 * PAGE)


@pytest.fixture
def at(region):
    def mapping(iova: int, pages: int = 1, offset: int = 0) -> Map:
        return Map(iova, pages * PAGE, region, offset * PAGE, Access.READ_WRITE)

    return mapping


@pytest.fixture
async def mapped(device):
    await device.set_backend_features(ALL)
    return device


async def test_what_overlaps_is_refused_even_if_it_is_the_same(mapped, at):
    await mapped.iotlb(0, [at(4 * PAGE, 4)])
    for start, pages in ((4, 4), (2, 3), (7, 2), (5, 1), (0, 16)):
        with refused(errno.EFAULT):
            await mapped.iotlb(0, [at(start * PAGE, pages)])
    await mapped.iotlb(0, [at(8 * PAGE), at(3 * PAGE)])


async def test_address_spaces_do_not_see_each_other(mapped, at):
    await mapped.iotlb(0, [at(4 * PAGE)])
    await mapped.iotlb(1, [at(4 * PAGE)])


async def test_an_entry_that_is_touched_goes_whole(mapped, at):
    await mapped.iotlb(0, [at(4 * PAGE, 4), at(8 * PAGE)])
    await mapped.iotlb(0, [Unmap(5 * PAGE, PAGE)])
    await mapped.iotlb(0, [at(4 * PAGE, 4)])
    with refused(errno.EFAULT):
        await mapped.iotlb(0, [at(8 * PAGE)])


async def test_invalidating_what_is_not_mapped_succeeds(mapped, at):
    await mapped.iotlb(0, [at(4 * PAGE), Unmap(64 * PAGE, PAGE)])


async def test_an_empty_mapping_is_refused(mapped, region):
    with refused(errno.EINVAL):
        await mapped.iotlb(0, [Map(PAGE, 0, region, 0, Access.READ_WRITE)])


async def test_a_mapping_may_not_wrap(mapped, at):
    with refused(errno.EFAULT):
        await mapped.iotlb(0, [at(2**64 - PAGE, 2)])


async def test_an_address_space_that_does_not_exist_is_refused(mapped, at):
    with refused(errno.EFAULT):
        await mapped.iotlb(2, [at(PAGE)])


async def test_an_address_space_nothing_was_mapped_in_cannot_be_invalidated(mapped):
    with refused(errno.EFAULT):
        await mapped.iotlb(1, [Unmap(PAGE, PAGE)])


async def test_another_address_space_than_0_needs_the_acknowledged_feature(device, at):
    await device.set_backend_features(Backend.IOTLB_BATCH.mask)
    await device.iotlb(0, [at(PAGE)])
    with refused(errno.EFAULT):
        await device.iotlb(1, [at(PAGE)])


async def test_messages_before_the_one_that_fails_stay(mapped, at):
    with refused(errno.EFAULT):
        await mapped.iotlb(0, [at(PAGE), at(PAGE), at(2 * PAGE)])
    with refused(errno.EFAULT):
        await mapped.iotlb(0, [at(PAGE)])
    await mapped.iotlb(0, [at(2 * PAGE)])


async def test_a_batch_keeps_other_address_spaces_out_until_its_end(mapped, at):
    await mapped.iotlb(1, [at(PAGE)])
    await mapped.iotlb(0, [BatchMark.BEGIN, at(PAGE)])
    with refused(errno.EFAULT):
        await mapped.iotlb(1, [at(2 * PAGE)])
    await mapped.iotlb(0, [BatchMark.END])
    await mapped.iotlb(1, [at(2 * PAGE)])


async def test_a_reset_does_not_end_a_batch(mapped, at):
    await mapped.iotlb(0, [BatchMark.BEGIN, at(PAGE)])
    await mapped.set_status(0)
    with refused(errno.EFAULT):
        await mapped.iotlb(1, [at(PAGE)])
    await mapped.iotlb(0, [BatchMark.END])
    await mapped.iotlb(1, [at(PAGE)])


async def test_an_end_without_a_begin_is_harmless(mapped, at):
    await mapped.iotlb(0, [at(PAGE), BatchMark.END])
    await mapped.iotlb(0, [at(2 * PAGE)])


async def test_an_address_space_has_room_for_2048_entries(mapped, at):
    entries = [at(2 * PAGE * place) for place in range(1, 2049)]
    await mapped.iotlb(0, [BatchMark.BEGIN, *entries, BatchMark.END])
    with refused(errno.EFAULT):
        await mapped.iotlb(0, [at(2 * PAGE * 4096)])


async def test_groups_and_address_spaces_have_bounds(device):
    with refused(errno.ENOBUFS):
        await device.set_group_asid(3, 0)
    with refused(errno.EINVAL):
        await device.set_group_asid(2, 0)
    with refused(errno.EINVAL):
        await device.set_group_asid(1, 2)
    await device.set_group_asid(1, 1)


async def test_the_control_queue_works_in_an_address_space_of_its_own(driver, features):
    await driver.start(features)
    assert await driver.command(MacAddrSet(MAC).encode()) == OK


async def test_a_reset_returns_every_group_to_address_space_0(driver, device, features):
    await driver.start(features)
    await device.set_status(0)
    await driver.negotiate(features)
    # nobody said that the control ring is in address space 1: this makes it reachable in 0 and only there
    await device.iotlb(1, [Unmap(driver.control.iova, driver.control.size)])
    await device.iotlb(0, [driver.control.mapping()])
    for ring in driver.rings:
        ring.close()
    driver.build_rings()
    await driver.bind()
    await driver.enable()
    assert await driver.command(MacAddrSet(MAC).encode()) == OK


async def test_changes_in_a_batch_take_effect_at_its_end(driver, device, features, settle):
    await driver.negotiate(features)
    driver.build_rings()
    await driver.bind()
    # something must be mapped, or the kernel's simulator would let everything through
    await device.iotlb(0, [driver.data.mapping(), BatchMark.BEGIN, driver.control.mapping()])
    await driver.enable()
    driver.submit(MacAddrSet(MAC).encode())
    await settle()
    assert driver.commands.poll() is None
    await device.iotlb(0, [BatchMark.END])
    driver.commands.kick()
    assert (await driver.commands.wait())[1] == 1


async def test_acknowledged_mappings_survive_a_reset(driver, device, features):
    if not await device.get_backend_features() & Backend.IOTLB_PERSIST.mask:
        pytest.skip("IOTLB_PERSIST is not offered")
    await driver.start(features)
    await device.set_status(0)
    await driver.negotiate(features)
    await device.set_group_asid(1, 1)
    for ring in driver.rings:
        ring.close()
    driver.build_rings()
    await driver.bind()
    await driver.enable()
    assert await driver.command(MacAddrSet(MAC).encode()) == OK


async def test_without_persistence_a_reset_needs_unmapping_and_mapping_again(driver, device, features):
    await driver.start(features, backend=ALL)
    await device.set_status(0)
    with refused(errno.EFAULT):
        await device.iotlb(1, [driver.control.mapping()])
    await driver.stop()
    await driver.start(features, backend=ALL)
    assert await driver.command(MacAddrSet(MAC).encode()) == OK
