"""Contract: identity, features, status and configuration space of a vDPA network device."""

from __future__ import annotations

import errno

import pytest

from cvqd.errors import DeviceError
from cvqd.wire import net_config
from cvqd.wire.vhost_vdpa import Backend
from cvqd.wire.virtio import Feature, Status

NEGOTIATED = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK


def refused(number: int):
    return pytest.raises(DeviceError, check=lambda error: error.errno == number)


async def test_it_is_a_network_device_with_one_pair_and_a_control_queue_in_a_group_of_its_own(device):
    assert await device.device_id() == 1
    assert await device.get_vqs_count() == 3
    assert await device.get_group_num() == 2
    assert await device.get_as_num() == 2
    assert [await device.get_vring_group(index) for index in range(3)] == [0, 0, 1]
    assert await device.get_vring_num() == 256
    with refused(errno.EOPNOTSUPP):
        await device.get_vring_size(2)
    assert (await device.get_iova_range()).last >= 2**48 - 1


async def test_it_offers_what_the_daemon_needs(device, features):
    assert features & ~await device.get_features() == 0
    offered = await device.get_backend_features()
    for bit in (Backend.IOTLB_BATCH, Backend.IOTLB_ASID, Backend.SUSPEND, Backend.RESUME):
        assert offered & bit.mask


async def test_features_are_refused_without_access_platform(device, features):
    await device.set_status(Status.ACKNOWLEDGE | Status.DRIVER)
    with refused(errno.EINVAL):
        await device.set_features(features & ~Feature.ACCESS_PLATFORM.mask)


async def test_features_may_be_set_again_until_features_ok(device, features):
    await device.set_features(features)
    await device.set_features(features & ~Feature.MTU.mask)
    await device.set_status(NEGOTIATED)
    assert await device.get_status() == NEGOTIATED
    with refused(errno.EBUSY):
        await device.set_features(features)


async def test_features_may_be_set_again_after_a_reset(device, features):
    await device.set_features(features)
    await device.set_status(NEGOTIATED)
    await device.set_status(0)
    assert await device.get_status() == 0
    await device.set_features(features)


async def test_status_bits_are_only_cleared_all_at_once(device, features):
    await device.set_features(features)
    await device.set_status(NEGOTIATED)
    with refused(errno.EINVAL):
        await device.set_status(Status.ACKNOWLEDGE)
    assert await device.get_status() == NEGOTIATED


async def test_a_backend_feature_nobody_knows_is_refused(device):
    with refused(errno.EOPNOTSUPP):
        await device.set_backend_features(1 << 9)


async def test_a_backend_feature_that_is_not_offered_is_refused(device):
    with refused(errno.EOPNOTSUPP):
        await device.set_backend_features(Backend.IOTLB_ASID.mask | Backend.DESC_ASID.mask)


async def test_config_space_can_be_read_in_parts(device, features):
    await device.set_features(features)
    assert await device.get_config_size() == net_config.SIZE
    whole = await device.get_config(0, net_config.SIZE)
    assert await device.get_config(net_config.OFFSET_STATUS, 2) == whole[6:8]
    assert net_config.decode(whole).status == net_config.LinkStatus.LINK_UP


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, 25), (24, 1), (23, 2), (400, 1)])
async def test_config_space_ends_where_it_says(device, features, offset, length):
    await device.set_features(features)
    with refused(errno.EINVAL):
        await device.get_config(offset, length)
    with refused(errno.EINVAL):
        await device.set_config(offset, bytes(length))


async def test_closing_twice_is_harmless(device):
    await device.aclose()
    await device.aclose()
