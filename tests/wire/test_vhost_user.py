"""Headers and payloads of vhost-user: sizes from QEMU's document, round trips, and no input but one error."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvqd.errors import FrontendError
from cvqd.wire import vhost_user as vu
from cvqd.wire import vhost_user_payloads as payloads
from cvqd.wire.split_ring import RingAddresses

if TYPE_CHECKING:
    from collections.abc import Callable

U8 = st.integers(0, 0xFF)
U32 = st.integers(0, 0xFFFF_FFFF)
U64 = st.integers(0, 0xFFFF_FFFF_FFFF_FFFF)
REGION = st.builds(payloads.RegionDescription, U64, U64, U64, U64)


def test_a_header_is_twelve_bytes_in_host_order():
    assert vu.encode_request(vu.FrontRequest.SET_FEATURES, b"12345678") == (
        (2).to_bytes(4, "little") + (1).to_bytes(4, "little") + (8).to_bytes(4, "little") + b"12345678"
    )


def test_a_reply_has_flags_five_and_nothing_else():
    assert vu.encode_reply(15, b"")[4:8] == (5).to_bytes(4, "little")


@pytest.mark.parametrize("need_reply", [False, True])
def test_a_request_header_comes_back(*, need_reply: bool):
    data = vu.encode_request(5, bytes(40), need_reply=need_reply)
    header = vu.decode_header(data[:12])
    assert (header.request, header.size) == (5, 40)
    assert vu.Message(header.request, header.flags).need_reply is need_reply


@pytest.mark.parametrize("flags", [0, 2, 3, 4, 5, 0xD, 0x11, 0x8000_0001, 0xFFFF_FFFF])
def test_flags_of_another_version_or_of_a_reply_are_refused(flags: int):
    with pytest.raises(FrontendError, match="GET_FEATURES: flags"):
        vu.decode_header(vu.HEADER.pack(1, flags, 0))


@pytest.mark.parametrize("size", [vu.MAX_PAYLOAD + 1, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_an_oversize_payload_is_refused_by_the_header_alone(size: int):
    with pytest.raises(FrontendError, match="above the limit of 4096"):
        vu.decode_header(vu.HEADER.pack(5, 1, size))


def test_the_largest_payload_is_taken():
    assert vu.decode_header(vu.HEADER.pack(5, 1, vu.MAX_PAYLOAD)).size == vu.MAX_PAYLOAD


@given(st.binary(max_size=16))
def test_any_bytes_are_a_header_or_a_front_ends_error(data: bytes):
    try:
        header = vu.decode_header(data)
    except FrontendError:
        return
    assert header.encode() == data


def test_every_number_from_1_to_44_has_a_name_and_others_are_still_named():
    assert [request.value for request in vu.FrontRequest] == list(range(1, 45))
    assert [request.value for request in vu.BackRequest] == list(range(1, 11))
    assert [bit.value for bit in vu.ProtocolFeature] == list(range(23))
    assert vu.request_name(37) == "ADD_MEM_REG"
    assert vu.request_name(4711) == "REQUEST_4711"


def test_protocol_features_are_named_lowest_first():
    assert vu.protocol_feature_names(1 << 3 | 1 << 16 | 1 << 40) == ["REPLY_ACK", "STATUS", "bit_40"]


@given(U64)
def test_a_number_comes_back(value: int):
    data = payloads.encode_u64(value)
    assert len(data) == 8
    assert payloads.decode_u64("X", data) == value


@given(U32, U32)
def test_a_vring_state_comes_back(index: int, num: int):
    state = payloads.VringState(index, num)
    assert len(state.encode()) == 8
    assert payloads.decode_vring_state("X", state.encode()) == state


@given(U32, U32, U64, U64, U64, U64)
def test_a_vring_address_comes_back(index: int, flags: int, desc: int, avail: int, used: int, log: int):
    address = payloads.VringAddress(index, flags, RingAddresses(desc, avail, used), log)
    assert len(address.encode()) == 40
    assert payloads.decode_vring_address("X", address.encode()) == address


def test_the_used_ring_stands_before_the_available_ring():
    data = payloads.VringAddress(1, 0, RingAddresses(descriptors=10, available=20, used=30), 40).encode()
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(8, 40, 8)]
    assert words == [10, 30, 20, 40]


@given(index=U8, present=st.booleans())
def test_a_vring_descriptor_comes_back(*, index: int, present: bool):
    target = payloads.VringDescriptor(index, present)
    assert payloads.decode_vring_descriptor("X", target.encode()) == target


def test_bit_8_says_that_there_is_no_descriptor():
    assert payloads.VringDescriptor(3, present=False).encode() == (0x103).to_bytes(8, "little")


@given(st.lists(REGION, max_size=8).map(tuple), st.binary(max_size=40))
def test_a_memory_table_comes_back_whatever_stands_behind_it(
    regions: tuple[payloads.RegionDescription, ...], behind: bytes
):
    data = payloads.encode_memory_table(regions)
    assert len(data) == 8 + 32 * len(regions)
    assert payloads.decode_memory_table("X", data + behind) == regions


def test_a_memory_table_that_claims_more_regions_than_it_has_is_refused():
    for count in (2, 65, 0xFFFF_FFFF):
        data = count.to_bytes(4, "little") + bytes(4 + 32)
        with pytest.raises(FrontendError, match="SET_MEM_TABLE"):
            payloads.decode_memory_table("SET_MEM_TABLE", data)


@given(REGION)
def test_a_single_region_comes_back(region: payloads.RegionDescription):
    data = region.encode_single()
    assert len(data) == 40
    assert payloads.decode_single_region("X", data) == region


@given(U32, U32, st.binary(min_size=1, max_size=256))
def test_a_config_access_comes_back(offset: int, flags: int, data: bytes):
    access = payloads.ConfigAccess(offset, flags, data)
    assert payloads.decode_config("X", access.encode()) == access


@pytest.mark.parametrize("size", [0, 257, 0xFFFF_FFFF])
def test_config_of_no_bytes_or_more_than_256_is_refused(size: int):
    data = (0).to_bytes(4, "little") + size.to_bytes(4, "little") + bytes(4) + bytes(min(size, 300))
    with pytest.raises(FrontendError, match="1 to 256"):
        payloads.decode_config("GET_CONFIG", data)


def test_config_whose_payload_is_not_its_size_is_refused():
    data = payloads.ConfigAccess(0, 0, bytes(6)).encode()
    for wrong in (data[:-1], data + b"\0"):
        with pytest.raises(FrontendError, match="18 are needed"):
            payloads.decode_config("GET_CONFIG", wrong)


DECODERS: dict[Callable[[str, bytes], object], int] = {
    payloads.decode_u64: 8,
    payloads.decode_vring_state: 8,
    payloads.decode_vring_address: 40,
    payloads.decode_vring_descriptor: 8,
    payloads.decode_memory_table: 8,
    payloads.decode_single_region: 40,
    payloads.decode_config: 12,
}


@pytest.mark.parametrize(
    ("decode", "least"), DECODERS.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_a_short_payload_is_refused_in_the_name_of_its_request(
    decode: Callable[[str, bytes], object], least: int
):
    for length in range(least):
        with pytest.raises(FrontendError, match="SET_THING: payload of"):
            decode("SET_THING", bytes(length))


@given(st.sampled_from(list(DECODERS)), st.binary(max_size=400))
def test_any_payload_parses_or_is_the_front_ends_error(
    decode: Callable[[str, bytes], object], payload: bytes
):
    with suppress(FrontendError):
        decode("X", payload)
