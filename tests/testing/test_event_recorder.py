from __future__ import annotations

import pytest

from cvqd.testing.events import EventRecorder


def test_it_remembers_names_fields_and_moments_in_order():
    log = EventRecorder()
    log.emit("service.stopping", signal="SIGTERM")
    log.emit("service.stopped", mono_ns=5)
    assert log.names() == ["service.stopping", "service.stopped"]
    assert log.of("service.stopping") == [{"signal": "SIGTERM"}]
    assert log.events[1].mono_ns == 5
    assert log.enabled("cvq.command.received")


@pytest.mark.parametrize(
    ("name", "fields"), [("service.exploded", {}), ("service.stopped", {"colour": "red"}), ("", {})]
)
def test_what_the_catalogue_lacks_fails_the_test(name: str, fields: dict[str, object]):
    with pytest.raises(AssertionError, match="in the catalogue"):
        EventRecorder().emit(name, **fields)


def test_asking_for_an_event_that_cannot_exist_fails_the_test():
    with pytest.raises(AssertionError, match="not in the catalogue"):
        EventRecorder().of("service.exploded")
