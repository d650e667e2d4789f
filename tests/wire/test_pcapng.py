from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cvqd.wire.pcapng import USER0, Direction, interface, packet, section
from kit.capture import read


@given(
    st.text(max_size=50),
    st.lists(
        st.tuples(
            st.integers(0, 2**64 - 1),
            st.binary(max_size=40),
            st.sampled_from(Direction),
            st.text(max_size=30),
            st.integers(0, 100),
        ),
        max_size=5,
    ),
)
def test_what_is_written_can_be_read(name: str, packets):
    data = section("cvqd 1", "why") + interface(USER0, name, "device")
    for moment, content, direction, comment, more in packets:
        data += packet(moment, content, direction, comment, length=len(content) + more)
    found = read(data)
    assert found.section == {4: b"cvqd 1", 1: b"why"}
    assert (found.link_type, found.interface[2], found.interface[3]) == (147, name.encode(), b"device")
    assert [
        (each.time_ns, each.data, each.direction, each.comment, each.length - len(each.data))
        for each in found.packets
    ] == packets


def test_a_comment_is_cut_where_its_length_ends():
    data = section("", "") + interface(0, "", "") + packet(0, b"", Direction.INBOUND, "é" * 40_000)
    (found,) = read(data).packets
    assert len(found.options[1]) <= 0xFFFF
    assert found.comment == "é" * (0xFFFF // 2), "and not inside a character"
