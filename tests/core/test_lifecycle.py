"""The order of calls, recorded by a device that only writes them down."""

from __future__ import annotations

from dataclasses import replace
from errno import EIO, ENOTTY, EOPNOTSUPP
from typing import Any

import pytest

from cvqd.core import isolation, lifecycle
from cvqd.core.lifecycle import RingPlan, StartPlan
from cvqd.core.mappings import Mappings
from cvqd.errors import DeviceError
from cvqd.wire.net_config import NetConfig
from cvqd.wire.packed_ring import PackedBase
from cvqd.wire.split_ring import RingAddresses
from cvqd.wire.vhost_vdpa import Access, Backend, BatchMark, IovaRange, Map, Unmap
from cvqd.wire.virtio import Feature, Status, mask_of

FEATURES = mask_of(Feature.VERSION_1, Feature.ACCESS_PLATFORM, Feature.CTRL_VQ, Feature.MQ)
BACKEND = lifecycle.BACKEND_USED
CONFIG = NetConfig(bytes.fromhex("525400000001"), max_virtqueue_pairs=1).encode()
ISOLATED = isolation.judge(backend_features=BACKEND, address_spaces=2, groups=(0, 0, 1), cvq_index=2)
PLAN = StartPlan(
    FEATURES,
    (
        RingPlan(0, 256, RingAddresses(0, 4096, 8192), 3, kick=10, call=11),
        RingPlan(1, 256, RingAddresses(1, 4097, 8193), 0, kick=12, call=13),
    ),
    RingPlan(2, 128, RingAddresses(2, 4098, 8194), 0, kick=14, call=15),
)
ALL_UNBOUND = {(call, index, -1) for call in ("set_vring_kick", "set_vring_call") for index in range(3)}


class Recorder:
    """Answers reads from ``answers``, writes every other call down."""

    def __init__(self, **answers: Any) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.status = 0
        self.refuses_features = False
        self.at_driver_ok = 0
        self.answers: dict[str, Any] = {
            "device_id": 1,
            "get_backend_features": BACKEND | Backend.DESC_ASID.mask,
            "get_features": FEATURES,
            "get_config_size": 24,
            "get_config": CONFIG,
            "get_vring_num": 256,
            "get_vring_size": DeviceError("VHOST_VDPA_GET_VRING_SIZE", EOPNOTSUPP),
            "get_vqs_count": 3,
            "get_group_num": 2,
            "get_as_num": 2,
            "get_iova_range": IovaRange(0, 2**64 - 1),
            "get_vring_base": 7,
            **answers,
        }

    async def get_status(self) -> int:
        return self.status

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **keywords: Any) -> Any:
            if isinstance(answer := self.answers.get(name), DeviceError):
                raise answer
            if name in self.answers:
                return answer
            self.calls.append((name, *arguments, *keywords.values()))
            if name == "set_status":
                self.status = 3 if arguments[0] == 11 and self.refuses_features else arguments[0]
                self.status |= self.at_driver_ok if arguments[0] == 15 else 0
            return None

        return call

    def named(self, *names: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] in names]


async def prepared(device: Recorder, backend: int = BACKEND) -> tuple[lifecycle.DeviceFacts, Mappings]:
    device.answers["get_backend_features"] = backend
    facts = await lifecycle.inspect(device)
    mappings = Mappings(device, facts.backend_used)
    region: Any = object()
    await mappings.change(0, (), [Map(0x1000, 0x1000, region, 0, Access.READ_WRITE)])
    await mappings.change(1, (), [Map(0x2000, 0x1000, region, 0, Access.READ)])
    device.calls.clear()
    return facts, mappings


async def test_inspection_resets_and_takes_the_backend_features_it_uses():
    device = Recorder()
    facts = await lifecycle.inspect(device)
    assert device.calls == [("set_status", 0), ("set_backend_features", BACKEND)]
    assert (facts.vqs, facts.max_pairs, facts.enables_late) == (3, 1, True)


async def test_a_device_of_another_kind_is_refused():
    with pytest.raises(DeviceError, match="virtio device 2 is not a network device"):
        await lifecycle.inspect(Recorder(device_id=2))


@pytest.mark.parametrize(
    ("said", "smallest"),
    [
        ((256, 256, 64), 64),
        ((0, 512, 512), 256),
        ((EOPNOTSUPP, EOPNOTSUPP, EOPNOTSUPP), 256),
        # a kernel before Linux 6.9
        ((ENOTTY, ENOTTY, ENOTTY), 256),
    ],
)
async def test_a_ring_may_be_smaller_than_the_device_says_of_all(said: tuple[int, ...], smallest: int):
    device = Recorder()

    async def size(index: int) -> int:
        if said[index] in {EOPNOTSUPP, ENOTTY}:
            raise DeviceError("VHOST_VDPA_GET_VRING_SIZE", said[index])
        return said[index]

    device.get_vring_size = size
    facts = await lifecycle.inspect(device)
    assert (facts.vring_num, facts.smallest_ring) == (256, smallest)


async def test_bring_up_follows_the_order_that_every_kernel_accepts():
    device = Recorder()
    facts, mappings = await prepared(device)
    await lifecycle.bring_up(device, facts, mappings, ISOLATED, PLAN)
    assert device.calls[:6] == [
        ("set_status", 0),
        ("set_status", 1),
        ("set_status", 3),
        ("set_features", FEATURES),
        ("set_status", 11),
        ("set_group_asid", 1, 1),
    ]
    assert device.calls[6:11] == [
        ("set_vring_num", 0, 256),
        ("set_vring_addr", 0, RingAddresses(0, 4096, 8192)),
        ("set_vring_base", 0, 3),
        ("set_vring_call", 0, 11),
        ("set_vring_kick", 0, 10),
    ]
    assert device.calls[-2:] == [("set_vring_enable", 2, True), ("set_status", 15)]
    assert len(device.named("set_vring_enable")) == 1, "data queues wait for the state"
    device.calls.clear()
    await lifecycle.enable_data(device, facts, PLAN)
    assert device.calls == [("set_vring_enable", 0, True), ("set_vring_enable", 1, True)]


async def test_a_device_that_forgets_its_mappings_is_told_them_when_every_group_is_where_it_belongs():
    device = Recorder()
    facts, mappings = await prepared(device, BACKEND & ~Backend.IOTLB_PERSIST.mask)
    await lifecycle.bring_up(device, facts, mappings, ISOLATED, PLAN)
    told = [call[:2] for call in device.named("set_features", "set_group_asid", "iotlb", "set_vring_num")]
    assert told[:4] == [("set_features", FEATURES), ("set_group_asid", 1), ("iotlb", 0), ("iotlb", 1)]


async def test_a_device_that_cannot_enable_late_has_all_rings_enabled_before_driver_ok():
    device = Recorder()
    facts, mappings = await prepared(device, BACKEND & ~Backend.ENABLE_AFTER_DRIVER_OK.mask)
    await lifecycle.bring_up(device, facts, mappings, ISOLATED, PLAN)
    assert [call[1] for call in device.named("set_vring_enable")] == [0, 1, 2]
    assert device.calls[-1] == ("set_status", 15)
    device.calls.clear()
    await lifecycle.enable_data(device, facts, PLAN)
    assert device.calls == []


async def test_a_device_that_drops_features_ok_is_refused():
    device = Recorder()
    facts, mappings = await prepared(device)
    device.refuses_features = True
    with pytest.raises(DeviceError, match="FEATURES_OK does not hold"):
        await lifecycle.bring_up(device, facts, mappings, ISOLATED, PLAN)
    assert ("set_status", 15) not in device.calls


@pytest.mark.parametrize("sign", [Status.NEEDS_RESET, Status.FAILED])
async def test_a_device_that_fails_at_driver_ok_is_not_taken_for_a_running_one(sign: Status):
    device = Recorder()
    facts, mappings = await prepared(device)
    device.at_driver_ok = sign
    with pytest.raises(DeviceError, match="failed at DRIVER_OK"):
        await lifecycle.bring_up(device, facts, mappings, ISOLATED, PLAN)


async def test_driver_ok_is_never_set_over_an_address_space_in_which_nothing_is_mapped():
    device = Recorder()
    facts, mappings = await prepared(device)
    await mappings.change(1, [0x2000], ())
    with pytest.raises(DeviceError, match="nothing is mapped in address space 1"):
        await lifecycle.bring_up(device, facts, mappings, ISOLATED, PLAN)
    assert ("set_status", 15) not in device.calls


async def test_stop_keeps_the_indices_resets_and_takes_every_descriptor_back():
    device = Recorder()
    facts, _ = await prepared(device)
    assert await lifecycle.stop(device, facts, PLAN) == {0: 7, 1: 7}
    assert device.calls[:2] == [("suspend",), ("set_status", 0)]
    assert set(device.calls[2:]) == ALL_UNBOUND


async def test_a_device_that_cannot_suspend_is_reset_and_has_no_indices():
    device = Recorder()
    facts, _ = await prepared(device, BACKEND & ~Backend.SUSPEND.mask)
    assert await lifecycle.stop(device, facts, PLAN) is None
    assert device.calls[0] == ("set_status", 0)


async def test_a_device_without_ring_indices_is_told_only_those_it_would_not_assume():
    device = Recorder(get_vring_base=DeviceError("VHOST_GET_VRING_BASE", EOPNOTSUPP, "not there"))
    facts, mappings = await prepared(device)
    assert not facts.keeps_indices
    await lifecycle.bring_up(device, facts, mappings, ISOLATED, PLAN)
    # ring 0 goes on at 3: the device has to say itself that it cannot
    assert device.named("set_vring_base") == [("set_vring_base", 0, 3)]
    assert await lifecycle.stop(device, facts, PLAN) is None
    assert device.named("suspend") == [], "stopping it would lose where its rings stood"


async def test_inspection_does_not_take_a_broken_device_for_one_without_ring_indices():
    device = Recorder(get_vring_base=DeviceError("VHOST_GET_VRING_BASE", EIO, "broken"))
    with pytest.raises(DeviceError, match="broken"):
        await lifecycle.inspect(device)


async def test_a_failed_device_is_not_asked_where_its_split_rings_stand():
    device = Recorder()
    facts, _ = await prepared(device)
    assert await lifecycle.stop(device, facts, PLAN, failed=True) is None
    assert device.calls[0] == ("set_status", 0)


async def test_packed_rings_of_a_failed_device_go_on_behind_what_it_gave_back():
    available = PackedBase(available=9, available_wrap=False, used=250, used_wrap=True)
    device = Recorder(get_vring_base=available.encode())
    facts, _ = await prepared(device)
    packed = replace(PLAN, features=FEATURES | Feature.RING_PACKED.mask)
    taken_again = PackedBase(available=250, available_wrap=True, used=250, used_wrap=True).encode()
    assert await lifecycle.stop(device, facts, packed, failed=True) == {0: taken_again, 1: taken_again}
    assert await lifecycle.stop(device, facts, packed) == {0: available.encode(), 1: available.encode()}


async def test_a_device_that_cannot_be_suspended_is_reset_and_gives_every_descriptor_back():
    device = Recorder()
    facts, _ = await prepared(device)

    async def refuse() -> None:
        raise DeviceError("VHOST_VDPA_SUSPEND", 5)

    device.suspend = refuse
    with pytest.raises(DeviceError, match="SUSPEND"):
        await lifecycle.stop(device, facts, PLAN)
    assert device.calls[0] == ("set_status", 0)
    assert set(device.calls[1:]) == ALL_UNBOUND


async def test_a_device_that_cannot_be_reset_gives_every_descriptor_back():
    device = Recorder()
    facts, _ = await prepared(device)

    async def refuse(_: int) -> None:
        raise DeviceError("VHOST_VDPA_SET_STATUS", 5)

    device.set_status = refuse
    with pytest.raises(DeviceError, match="SET_STATUS"):
        await lifecycle.stop(device, facts, PLAN)
    unbound = device.named("set_vring_kick", "set_vring_call")
    assert {call[1:] for call in unbound} == {(index, -1) for index in range(3)}


async def test_groups_that_the_device_does_not_know_are_none():
    device = Recorder()
    facts, _ = await prepared(device)

    async def refuse(_: int) -> int:
        raise DeviceError("VHOST_VDPA_GET_VRING_GROUP", 95)

    device.get_vring_group = refuse
    found = await lifecycle.judge_isolation(device, facts, 2)
    assert found.reason == "the device does not report virtqueue groups"


class TestMappings:
    region: Any = object()

    def entry(self, iova: int) -> Map:
        return Map(iova, 0x1000, self.region, 0, Access.READ_WRITE)

    def sent(self, device: Recorder) -> list[Any]:
        return [call[1:] for call in device.named("iotlb")]

    async def test_a_change_is_one_batch_removals_first(self):
        device = Recorder()
        mappings = Mappings(device, BACKEND)
        await mappings.change(0, (), [self.entry(0), self.entry(0x1000)])
        await mappings.change(0, [0x1000], [self.entry(0x5000)])
        assert self.sent(device)[1] == (
            0,
            [BatchMark.BEGIN, Unmap(0x1000, 0x1000), self.entry(0x5000), BatchMark.END],
        )
        assert [entry.iova for entry in mappings.mapped(0)] == [0, 0x5000]

    async def test_no_change_sends_nothing(self):
        device = Recorder()
        await Mappings(device, BACKEND).change(0, (), ())
        assert not device.calls

    async def test_without_batches_no_marks_are_sent(self):
        device = Recorder()
        await Mappings(device, 0).change(0, (), [self.entry(0)])
        assert self.sent(device) == [(0, [self.entry(0)])]

    async def test_a_device_that_forgets_is_told_again_after_a_reset(self):
        device = Recorder()
        mappings = Mappings(device, BACKEND & ~Backend.IOTLB_PERSIST.mask)
        await mappings.change(1, (), [self.entry(0x1000)])
        device.calls.clear()
        await mappings.restore()
        assert self.sent(device) == [
            (1, [BatchMark.BEGIN, Unmap(0x1000, 0x1000), self.entry(0x1000), BatchMark.END])
        ]

    async def test_a_device_that_remembers_is_not_told_twice(self):
        device = Recorder()
        mappings = Mappings(device, BACKEND)
        await mappings.change(1, (), [self.entry(0x1000)])
        device.calls.clear()
        await mappings.restore()
        assert not device.calls
