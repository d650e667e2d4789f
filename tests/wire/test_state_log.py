from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvqd.wire.state_log import (
    HALF_HEADER,
    HEADER_SIZE,
    MAX_NAME,
    Header,
    Kind,
    LogError,
    Record,
    Scan,
    encode_record,
    half_at,
    record_size,
    scan,
)

HEADER = Header(bytes(range(16)), "/dev/vhost-vdpa-0", 4096)
records = st.lists(
    st.builds(Record, st.integers(1, 15), st.integers(0, 2**64 - 1), st.binary(max_size=40)), max_size=6
)


def half_of(told: list[Record], tail: int | None = None) -> memoryview:
    data = b"".join(encode_record(*record) for record in told)
    head = struct.pack("<QQ", 1, len(data) if tail is None else tail)
    return memoryview(bytearray((head + data).ljust(1024, b"\0")))


def log_of(header: Header = HEADER) -> bytearray:
    return bytearray(header.encode().ljust(header.size, b"\0"))


@given(st.binary(min_size=16, max_size=16), st.text(max_size=100), st.integers(3, 10).map(lambda n: 8 * n))
def test_a_header_comes_back_as_it_went(boot: bytes, name: str, half: int):
    header = Header(boot, name, half)
    assert Header.decode(log_of(header)) == header


def test_a_name_of_any_length_fits_into_the_header():
    long = Header.decode(log_of(HEADER._replace(device="x" * 9000)))
    assert long.device == "x" * MAX_NAME
    assert len(HEADER._replace(device="x" * 9000).encode()) < HEADER_SIZE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda log: log.__delitem__(slice(HEADER_SIZE - 1, None)), "4095 bytes are no log"),
        (lambda log: log.__setitem__(0, 0), "does not begin as a log does"),
        (lambda log: log.__setitem__(12, 3), "version 3 is not 2"),
        (lambda log: log.__setitem__(40, 0), "header is damaged"),
        (lambda log: log.__setitem__(15, 255), "header is damaged"),
        (lambda log: log.append(0), "not the 12288"),
    ],
)
def test_what_is_no_log_of_ours_is_refused_with_a_reason(change, reason: str):
    log = log_of()
    change(log)
    with pytest.raises(LogError, match=reason):
        Header.decode(bytes(log))


def test_halves_lie_one_behind_the_other():
    log = memoryview(log_of())
    half_at(log, 1)[0] = 7
    assert log[HEADER_SIZE + 4096] == 7
    assert len(half_at(log, 0)) == 4096


@given(records)
def test_records_come_back_as_they_went(told: list[Record]):
    assert scan(half_of(told)) == Scan(told, 0)
    assert all(len(encode_record(*record)) == record_size(len(record.data)) for record in told)


@given(records.filter(bool), st.data())
def test_a_torn_tail_costs_the_record_that_is_torn_and_no_other(told: list[Record], data: st.DataObject):
    whole = sum(record_size(len(record.data)) for record in told[:-1])
    tail = data.draw(st.integers(whole, whole + record_size(len(told[-1].data)) - 1))
    assert scan(half_of(told, tail)) == Scan(told[:-1], tail - whole)


@given(records.filter(bool), st.data())
def test_a_changed_bit_ends_the_records_where_it_is(told: list[Record], data: st.DataObject):
    half = half_of(told)
    place = data.draw(st.integers(0, len(told) - 1))
    begin = HALF_HEADER + sum(record_size(len(record.data)) for record in told[:place])
    at = data.draw(st.integers(0, record_size(len(told[place].data)) - 1))
    half[begin + at] ^= 1 << data.draw(st.integers(0, 7))
    found = scan(half)
    assert found.records == told[:place]
    assert found.lost == sum(record_size(len(record.data)) for record in told[place:])


@given(st.binary(min_size=16, max_size=400))
def test_any_bytes_are_scanned(half: bytes):
    found = scan(memoryview(half))
    assert found.lost >= 0
    for record in found.records:
        assert encode_record(*record)[:4] in half


def test_a_tail_beyond_the_half_is_not_followed():
    assert scan(half_of([Record(Kind.COMMAND, 1, b"ab")], tail=1 << 60)).records == [
        Record(Kind.COMMAND, 1, b"ab")
    ]
