"""The codecs against the system's own kernel headers, by way of a C compiler."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from cvqd.wire.split_ring import RingAddresses
from cvqd.wire.vhost_vdpa import Access, Backend, BatchMark, IovaRange, Map, Unmap
from cvqd.wire.vhost_vdpa_ioctl import (
    CONFIG_HEADER,
    IOVA_RANGE,
    MSG_V2,
    VRING_ADDR,
    VRING_FILE,
    VRING_STATE,
    Ioctl,
    IotlbRecord,
    IotlbType,
    decode_iotlb,
    decode_iova_range,
    encode_config,
    encode_iotlb,
    encode_ring_addresses,
)

# headers of Linux 6.1 lack these
_SINCE_6_1 = {
    "VHOST_VDPA_RESUME",
    "VHOST_VDPA_GET_VRING_DESC_GROUP",
    "VHOST_VDPA_GET_VRING_SIZE",
}
_SIZES = {
    "struct vhost_vring_state": VRING_STATE.size,
    "struct vhost_vring_file": VRING_FILE.size,
    "struct vhost_vring_addr": VRING_ADDR.size,
    "struct vhost_vdpa_config": CONFIG_HEADER.size,
    "struct vhost_vdpa_iova_range": IOVA_RANGE.size,
    "struct vhost_msg_v2": MSG_V2.size,
}
_OTHERS = {
    **{f"VHOST_IOTLB_{kind.name}": kind.value for kind in IotlbType},
    **{f"VHOST_IOTLB_BATCH_{mark.name}": mark.value for mark in BatchMark},
    "VHOST_ACCESS_RO": Access.READ,
    "VHOST_ACCESS_WO": Access.WRITE,
    "VHOST_ACCESS_RW": Access.READ_WRITE,
    "VHOST_IOTLB_MSG_V2": 2,
}


class _Memory:
    """A region that only has an address."""

    address = 0x7F00_0000_0000
    view = memoryview(bytearray(0))


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    """Every name that the system's headers define, with its value, as a C program prints it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the tests need a C compiler and the kernel's user API headers"
    names = [request.name for request in Ioctl] + [f"VHOST_BACKEND_F_{bit.name}" for bit in Backend]
    names += list(_OTHERS)
    lines = ["#include <linux/vhost.h>", "#include <stddef.h>", "#include <stdio.h>", "int main(void) {"]
    for name in names:
        lines += [f"#ifdef {name}", f'  printf("{name} %llu\\n", (unsigned long long)({name}));', "#endif"]
    lines += [f'  printf("{name.replace(" ", "_")} %zu\\n", sizeof({name}));' for name in _SIZES]
    lines += [_bytes_of_examples(), "  return 0;", "}"]
    folder = tmp_path_factory.mktemp("header")
    source = folder / "names.c"
    source.write_text("\n".join(lines))
    subprocess.run([compiler, "-Wall", "-Werror", "-o", folder / "names", source], check=True)
    printed = subprocess.run([folder / "names"], check=True, capture_output=True, text=True).stdout
    return dict(line.split(" ", 1) for line in printed.splitlines())


def _bytes_of_examples() -> str:
    """C that fills the structures member by member and prints their bytes."""
    return r"""
  #define SHOW(name, value) do { printf(name " "); for (size_t i = 0; i < sizeof(value); i++) { \
      printf("%02x", ((unsigned char *)&(value))[i]); } printf("\n"); } while (0)
  struct vhost_vring_addr address = { .index = 1, .desc_user_addr = 0x1000, .avail_user_addr = 0x2000,
                                      .used_user_addr = 0x3000 };
  SHOW("address", address);
  struct vhost_msg_v2 map = { .type = VHOST_IOTLB_MSG_V2, .iotlb = { .iova = 0x4000, .size = 0x5000,
      .uaddr = 0x7f0000000100, .perm = VHOST_ACCESS_RO, .type = VHOST_IOTLB_UPDATE } };
  *(__u32 *)((char *)&map + 4) = 1; /* asid, called reserved before Linux 5.19 */
  SHOW("map", map);
  struct vhost_msg_v2 unmap = { .type = VHOST_IOTLB_MSG_V2, .iotlb = { .iova = 0x4000, .size = 0x5000,
      .type = VHOST_IOTLB_INVALIDATE } };
  SHOW("unmap", unmap);
  struct vhost_msg_v2 end = { .type = VHOST_IOTLB_MSG_V2, .iotlb = { .type = VHOST_IOTLB_BATCH_END } };
  SHOW("end", end);
  struct vhost_vdpa_iova_range range = { .first = 0x1000, .last = 0xffffffff };
  SHOW("range", range);
  struct { struct vhost_vdpa_config head; unsigned char body[2]; } __attribute__((packed)) config =
      { { .off = 6, .len = 2 }, { 0xab, 0xcd } };
  SHOW("config", config);
"""


def test_every_ioctl_number_that_the_header_knows_is_ours(header):
    known = {name: int(header[name]) for name in Ioctl.__members__ if name in header}
    assert set(Ioctl.__members__) - set(known) <= _SINCE_6_1
    assert {name: Ioctl[name].value for name in known} == known


def test_structure_sizes_are_the_headers(header):
    assert {name: int(header[name.replace(" ", "_")]) for name in _SIZES} == _SIZES


def test_backend_bits_are_the_headers(header):
    names = {f"VHOST_BACKEND_F_{bit.name}": bit.value for bit in Backend}
    known = {name: int(header[name]) for name in names if name in header}
    assert {"VHOST_BACKEND_F_IOTLB_ASID", "VHOST_BACKEND_F_SUSPEND"} <= set(known)
    assert {name: names[name] for name in known} == known


def test_access_and_iotlb_message_types_are_the_headers(header):
    assert {name: int(header[name]) for name in _OTHERS} == _OTHERS


def test_ring_addresses_are_laid_out_as_the_compiler_does(header):
    encoded = encode_ring_addresses(1, RingAddresses(descriptors=0x1000, available=0x2000, used=0x3000))
    assert encoded.hex() == header["address"]


def test_iotlb_messages_are_laid_out_as_the_compiler_does(header):
    assert encode_iotlb(1, Map(0x4000, 0x5000, _Memory(), 0x100, Access.READ)).hex() == header["map"]
    assert encode_iotlb(0, Unmap(0x4000, 0x5000)).hex() == header["unmap"]
    assert encode_iotlb(0, BatchMark.END).hex() == header["end"]


def test_config_and_iova_range_are_laid_out_as_the_compiler_does(header):
    assert encode_config(6, b"\xab\xcd").hex() == header["config"]
    assert decode_iova_range(bytes.fromhex(header["range"])) == IovaRange(0x1000, 0xFFFF_FFFF)


def test_a_record_that_was_encoded_decodes_to_its_parts():
    record = encode_iotlb(1, Map(0x4000, 0x5000, _Memory(), 0x100, Access.WRITE))
    assert decode_iotlb(record) == IotlbRecord(
        1, IotlbType.UPDATE, 0x4000, 0x5000, _Memory.address + 0x100, Access.WRITE
    )


@pytest.mark.parametrize(
    ("record", "complaint"),
    [(bytes(40), "72 bytes"), (bytes(72), "type 2"), (b"\2" + bytes(71), "0 is not a valid")],
)
def test_a_record_that_is_none_is_refused(record, complaint):
    with pytest.raises(ValueError, match=complaint):
        decode_iotlb(record)
