from __future__ import annotations

import pytest

from cvqd.core.isolation import Verdict, judge
from cvqd.wire.vhost_vdpa import Backend

ASID = Backend.IOTLB_ASID.mask


def verdict(groups, cvq_index=2, *, backend_features=ASID, address_spaces=2):
    return judge(
        backend_features=backend_features, address_spaces=address_spaces, groups=groups, cvq_index=cvq_index
    )


@pytest.mark.parametrize(
    ("groups", "cvq"), [((0, 0, 1), 2), ((0, 1, 2), 2), ((0,) * 8 + (1,), 8), ((5, 5, 0, 7, 7), 2)]
)
def test_a_group_of_its_own_isolates(groups, cvq):
    found = verdict(groups, cvq)
    assert found.verdict is Verdict.ISOLATED
    assert found.asid == 1
    assert found.cvq is not None
    assert (found.cvq.index, found.cvq.group, found.cvq.asid) == (cvq, groups[cvq], 1)
    assert all(queue.asid == 0 for queue in found.queues if queue.role != "control")


@pytest.mark.parametrize(
    ("reason", "arguments"),
    [
        ("does not offer IOTLB_ASID", {"groups": (0, 0, 1), "backend_features": 0}),
        ("has 1 address space, two are needed", {"groups": (0, 0, 1), "address_spaces": 1}),
        ("does not report virtqueue groups", {"groups": (None, None, None)}),
        ("queue 2 shares group 0 with queues 0, 1", {"groups": (0, 0, 0)}),
        ("queue 2 shares group 1 with queue 1", {"groups": (0, 1, 1)}),
        # the guest declined MQ: its index 2 is a data ring's by the device's map
        ("queue 2 shares group 0 with queues 0, 1, 3", {"groups": (0, 0, 0, 0, 1)}),
    ],
)
def test_every_obstacle_is_said_and_the_memory_is_shared(reason, arguments):
    found = verdict(**arguments)
    assert found.verdict is Verdict.SHARED
    assert reason in found.reason
    assert found.asid == 0
    assert found.cvq is not None
    assert found.cvq.reason == found.reason


def test_without_a_control_queue_there_is_nothing_to_isolate():
    found = verdict((0, 0), None)
    assert (found.verdict, found.cvq, found.asid) == (Verdict.NONE, None, 0)
    assert [queue.role for queue in found.queues] == ["receive 0", "transmit 0"]
