from __future__ import annotations

from cvqd.core import features
from cvqd.core.config_space import overlay
from cvqd.core.tracked import TrackedState
from cvqd.wire.net_config import LinkStatus, NetConfig, decode
from cvqd.wire.virtio import Feature, mask_of

MAC = bytes.fromhex("525400000001")
OTHER = bytes.fromhex("525400000002")
DEVICE = NetConfig(MAC, status=0, max_virtqueue_pairs=4, mtu=9000)
WORD = mask_of(
    Feature.VERSION_1, Feature.ACCESS_PLATFORM, Feature.MAC, Feature.CTRL_VQ, Feature.MQ, Feature.STATUS
)


def seen(word: int = WORD, vqs: int = 9, device: bytes = DEVICE.encode(), **state: object) -> NetConfig:
    offer = features.offer(word, max_pairs=4, vqs=vqs)
    made = overlay(device, offer, TrackedState(OTHER)._replace(**state))
    assert len(made) == len(device)
    return decode(made)


def test_the_address_is_the_tracked_one_and_the_rest_the_devices():
    assert seen() == DEVICE._replace(mac=OTHER)


def test_pairs_that_are_masked_are_not_shown():
    assert seen(vqs=3).max_virtqueue_pairs == 1


def test_a_device_without_status_has_its_link_up():
    assert seen(WORD & ~Feature.STATUS.mask).status == LinkStatus.LINK_UP


def test_a_pending_announcement_shows():
    assert seen(announce=True).status == LinkStatus.ANNOUNCE


def test_longer_and_shorter_spaces_keep_their_length():
    assert seen(device=DEVICE.encode() + b"tail") == DEVICE._replace(mac=OTHER)
    assert seen(device=DEVICE.encode()[:12]).mac == OTHER
