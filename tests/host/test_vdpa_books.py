"""The books that put a cause to the kernel's EFAULT."""

from __future__ import annotations

import os
import resource

import pytest

from cvqd.host import vdpa_books
from cvqd.host.vdpa_books import ENTRY_LIMIT, MappingBooks
from cvqd.wire.vhost_vdpa import Access, BatchMark, IovaRange, Map, Unmap

PAGE = 4096


class Memory:
    view = memoryview(bytearray(0))
    address = 0


def page(iova, pages=1):
    return Map(iova, pages * PAGE, Memory(), 0, Access.READ_WRITE)


@pytest.fixture
def books():
    return MappingBooks(IovaRange(PAGE, 2**48 - 1), 2)


@pytest.mark.parametrize(
    ("asid", "message", "cause"),
    [
        (2, page(PAGE), "address space 2 does not exist: the device has 2"),
        (0, page(PAGE)._replace(size=0), "size 0"),
        (0, page(0), "outside the IOVA range 0x1000-0xffffffffffff"),
        (0, page(2**48 - PAGE, pages=2), "outside the IOVA range 0x1000-0xffffffffffff"),
        (1, Unmap(0, PAGE), "nothing was ever mapped in address space 1"),
        (1, BatchMark.END, "nothing was ever mapped in address space 1"),
        (0, page(PAGE), "unknown"),
    ],
)
def test_a_refusal_gets_the_cause_that_the_kernel_checks_first(books, asid, message, cause):
    assert books.cause(asid, message).startswith(cause)


@pytest.mark.parametrize(("iova", "pages"), [(0x5000, 1), (0x4000, 2), (0x6000, 1), (0x4000, 5)])
def test_an_overlap_names_the_mapping_that_is_in_the_way(books, iova, pages):
    for number in (0x1000, 0x9000):
        books.record(0, page(number))
    books.record(0, page(0x5000, pages=2))
    assert books.cause(0, page(iova, pages)) == "overlaps 0x5000-0x6fff, mapped in address space 0"
    assert books.cause(1, page(iova, pages)).startswith("unknown")


@pytest.mark.parametrize("iova", [0x4000, 0x7000])
def test_neighbours_are_no_overlap(books, iova):
    books.record(0, page(0x5000, pages=2))
    assert books.cause(0, page(iova)).startswith("unknown")


def test_an_invalidated_mapping_goes_whole(books):
    books.record(0, page(0x5000, pages=4))
    books.record(0, page(0x9000))
    books.record(0, Unmap(0x6000, PAGE))
    assert books.mapped(0) == 1
    assert books.cause(0, page(0x5000, pages=4)).startswith("unknown")


def test_a_batch_keeps_other_address_spaces_out(books):
    books.record(1, BatchMark.BEGIN)
    assert books.cause(0, page(PAGE)) == "a batch is open for address space 1"
    assert books.cause(1, page(PAGE)).startswith("unknown")
    books.record(1, BatchMark.END)
    assert books.cause(0, page(PAGE)).startswith("unknown")


def test_a_full_address_space_is_said_to_be_full(books):
    for number in range(1, ENTRY_LIMIT + 1):
        books.record(0, page(number * 2 * PAGE))
    assert books.cause(0, page(PAGE)) == f"entry limit: address space 0 has {ENTRY_LIMIT} entries"


def test_the_memlock_limit_is_told_with_limit_and_need(books, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64 << 10, 64 << 10))
    monkeypatch.setattr(vdpa_books, "_pinned_bytes", lambda: 16 << 10)
    told = books.cause(0, page(PAGE, pages=16))
    assert told.startswith("memlock limit: 65536 bytes allowed, 81920 needed (16384 pinned already)")
    assert books.cause(0, page(PAGE, pages=12)).startswith("unknown")


def test_pinned_memory_is_read_from_the_kernel():
    assert vdpa_books._pinned_bytes() % 1024 == 0


def test_a_process_that_did_not_open_the_device_is_told_so(books, monkeypatch):
    owner = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: owner + 1)
    assert books.cause(0, page(PAGE)).startswith(f"not the owner: process {owner} opened the device")
