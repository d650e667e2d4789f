from __future__ import annotations

import pytest

from cvqd.core import features
from cvqd.core.session.offer import Offer
from cvqd.errors import DeviceError
from cvqd.wire.net_control import COMMANDS
from cvqd.wire.virtio import Feature, feature_names, mask_of

BASIC = mask_of(Feature.VERSION_1, Feature.ACCESS_PLATFORM, Feature.MAC, Feature.MTU)
CONTROL = BASIC | mask_of(Feature.CTRL_VQ, Feature.CTRL_RX, Feature.CTRL_MAC_ADDR, Feature.STATUS, Feature.MQ)
#: vdpa_sim_net of Linux 6.12
KERNEL_SIMULATOR = 0x308830028
#: QEMU 10's virtio-net-pci behind vp_vdpa
VP_VDPA = 0x1C0010330FFFFA7


def masked(offer: features.FeatureOffer) -> dict[str, str]:
    return dict(offer.masked)


def test_the_guest_is_never_offered_access_platform_and_the_device_always_told_it():
    offer = features.offer(CONTROL, max_pairs=2, vqs=5)
    assert not offer.features & Feature.ACCESS_PLATFORM.mask
    assert offer.features & Feature.PROTOCOL_FEATURES.mask
    word = offer.device_word(Feature.VERSION_1.mask | Feature.CTRL_VQ.mask, CONTROL)
    assert feature_names(word) == ["CTRL_VQ", "MQ", "VERSION_1", "ACCESS_PLATFORM"]


def test_what_only_commands_make_use_of_means_nothing_without_the_queue_for_them():
    everything = (1 << 64) - 1
    assert features.meant(everything) == everything
    lost = feature_names(
        everything & ~Feature.CTRL_VQ.mask & ~features.meant(everything & ~Feature.CTRL_VQ.mask)
    )
    assert lost == [
        "CTRL_GUEST_OFFLOADS",
        "CTRL_RX",
        "CTRL_VLAN",
        "CTRL_RX_EXTRA",
        "GUEST_ANNOUNCE",
        "CTRL_MAC_ADDR",
        "DEVICE_STATS",
        "VQ_NOTF_COAL",
        "NOTF_COAL",
        "RSS",
    ]


def test_cvqd_can_tell_the_device_what_to_receive_for_a_guest_that_cannot():
    offer = features.offer(CONTROL, max_pairs=2, vqs=5)
    assert offer.device_word(Feature.VERSION_1.mask, CONTROL) & Feature.CTRL_RX.mask
    without = CONTROL & ~mask_of(Feature.CTRL_RX, Feature.CTRL_RX_EXTRA)
    offer = features.offer(without, max_pairs=2, vqs=5)
    assert not offer.device_word(Feature.VERSION_1.mask, without) & Feature.CTRL_RX.mask


def test_the_device_keeps_its_control_queue_in_place_for_a_guest_that_declines_mq():
    offer = features.offer(CONTROL, max_pairs=4, vqs=9)
    assert offer.device_cvq_index == 8
    assert offer.device_word(offer.features & ~Feature.MQ.mask, CONTROL) & Feature.MQ.mask


@pytest.mark.parametrize(("most", "shown"), [(None, 127), (200, 127), (4, 4)])
def test_a_guest_is_shown_no_more_pairs_than_a_front_end_can_name(most, shown):
    offer = features.offer(CONTROL, max_pairs=1000, vqs=2001, most_pairs=most)
    assert (offer.max_pairs, offer.device_cvq_index) == (shown, 2000)
    assert Offer(offer.features, rings=2 * offer.max_pairs + 1, ring_size=256)


def test_multiqueue_without_the_rings_for_it_is_masked_by_name():
    offer = features.offer(VP_VDPA, max_pairs=4, vqs=3)
    assert masked(offer)["MQ"] == "4 pairs need 9 rings and the device has 3"
    assert (offer.max_pairs, offer.device_cvq_index) == (1, 2)
    assert not offer.device_word(offer.features, VP_VDPA) & Feature.MQ.mask


def test_what_the_kernels_simulator_offers_reaches_the_guest_but_for_the_platform_bit():
    offer = features.offer(KERNEL_SIMULATOR, max_pairs=1, vqs=3)
    assert masked(offer).keys() == {"ACCESS_PLATFORM"}
    assert feature_names(offer.emulated) == ["GUEST_ANNOUNCE"]


@pytest.mark.parametrize("missing", [Feature.VERSION_1, Feature.ACCESS_PLATFORM])
def test_a_device_that_cannot_be_served_is_refused_by_name(missing):
    with pytest.raises(DeviceError, match=missing.name):
        features.offer(CONTROL & ~missing.mask, max_pairs=2, vqs=5)


def test_every_held_back_bit_has_a_reason():
    offer = features.offer((1 << 64) - 1, max_pairs=2, vqs=5)
    # the device's bit 30 is held back too: the guest's is vhost-user's
    held = ((1 << 64) - 1) & ~offer.features | Feature.PROTOCOL_FEATURES.mask
    assert masked(offer).keys() == set(feature_names(held))
    assert all(masked(offer).values())


def test_a_feature_goes_with_the_one_it_needs():
    offer = features.offer(BASIC | mask_of(Feature.CTRL_RX, Feature.GUEST_TSO4), max_pairs=1, vqs=2)
    assert masked(offer)["CTRL_RX"] == "needs CTRL_VQ"
    assert masked(offer)["GUEST_TSO4"] == "needs GUEST_CSUM"


def test_a_control_queue_without_a_ring_is_masked_with_all_that_needs_it():
    offer = features.offer(CONTROL, max_pairs=1, vqs=2)
    assert {"CTRL_VQ", "CTRL_RX", "MQ"} <= masked(offer).keys()
    assert not offer.emulated


def test_what_the_daemon_emulates_is_not_asked_of_the_device():
    offer = features.offer(CONTROL & ~Feature.STATUS.mask, max_pairs=2, vqs=5)
    assert feature_names(offer.emulated) == ["STATUS", "GUEST_ANNOUNCE"]
    assert offer.features & Feature.STATUS.mask
    assert not offer.device_word(offer.features, CONTROL) & offer.emulated


def test_every_feature_of_a_control_command_is_served():
    offer = features.offer((1 << 64) - 1, max_pairs=2, vqs=5)
    needed = {command.feature for command in COMMANDS}
    assert all(offer.features & feature.mask for feature in needed)


def test_rss_alone_makes_a_device_multiqueue_as_mq_does():
    device = CONTROL & ~Feature.MQ.mask | Feature.RSS.mask
    offer = features.offer(device, max_pairs=4, vqs=9)
    assert (offer.max_pairs, offer.device_cvq_index) == (4, 8)
    word = offer.device_word(Feature.VERSION_1.mask, device)
    assert word & Feature.RSS.mask
    assert not word & Feature.MQ.mask
    few = features.offer(device, max_pairs=4, vqs=3)
    assert masked(few)["RSS"] == "4 pairs need 9 rings and the device has 3"
    assert few.device_cvq_index == 2


RINGS = mask_of(Feature.RING_PACKED, Feature.INDIRECT_DESC, Feature.EVENT_IDX)


def test_the_features_of_all_rings_are_acknowledged_as_the_guest_took_them():
    offer = features.offer(CONTROL | RINGS, max_pairs=2, vqs=5)
    assert offer.features & RINGS == RINGS
    for taken in (0, Feature.RING_PACKED.mask, Feature.EVENT_IDX.mask, RINGS):
        assert offer.device_word(Feature.VERSION_1.mask | taken, CONTROL | RINGS) & RINGS == taken


def test_packed_rings_are_held_back_where_nobody_could_tell_where_they_stopped():
    offer = features.offer(CONTROL | RINGS, max_pairs=2, vqs=5, suspends=False)
    assert offer.features & RINGS == RINGS & ~Feature.RING_PACKED.mask
    assert "suspend" in masked(offer)["RING_PACKED"]


def test_in_order_use_is_held_back_by_name():
    word = CONTROL | Feature.IN_ORDER.mask
    assert "late" in masked(features.offer(word, max_pairs=2, vqs=5))["IN_ORDER"]
