from __future__ import annotations

from unittest.mock import Mock

import pytest

from cvqd.testing import daemon
from cvqd.testing.daemon import DaemonProcess, simulator_config


@pytest.mark.parametrize("missing", ["frontend", "control"])
async def test_without_a_socket_nothing_is_started_that_would_be_left(missing, tmp_path, monkeypatch):
    started = Mock(side_effect=AssertionError("a process was started"))
    monkeypatch.setattr(daemon, "_spawn", started)
    config = simulator_config(tmp_path)
    del config[missing]
    with pytest.raises(KeyError, match=missing):
        async with DaemonProcess.start(tmp_path, config):
            pass
