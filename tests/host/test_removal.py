"""A node's deletion is noticed, nothing else is."""

from __future__ import annotations

import pytest
import trio

from cvqd.host.removal import wait_removed
from kit.rig import open_descriptors, settled


@pytest.fixture
def node(tmp_path):
    node = tmp_path / "vhost-vdpa-0"
    node.touch()
    return node


class Wakeups(trio.abc.Instrument):
    """How often the loop came back from waiting with something to do."""

    def __init__(self):
        self.count = 0

    def before_task_step(self, task):
        self.count += "wait_removed" in repr(task.coro) or task.name.endswith("wait_removed")


async def watched(nursery, path):
    ended = trio.Event()

    async def watch():
        await wait_removed(path)
        ended.set()

    nursery.start_soon(watch)
    await settled()
    return ended


async def test_it_ends_when_the_node_is_deleted(node, nursery):
    descriptors = open_descriptors()
    ended = await watched(nursery, str(node))
    assert not ended.is_set()
    node.unlink()
    with trio.fail_after(5):
        await ended.wait()
    assert open_descriptors() == descriptors


async def test_it_ends_though_another_node_of_that_name_is_there_at_once(node, nursery):
    ended = await watched(nursery, str(node))
    node.unlink()
    node.touch()
    with trio.fail_after(5):
        await ended.wait()


async def test_a_node_that_is_gone_already_ends_it_at_once(node):
    node.unlink()
    with trio.fail_after(5):
        await wait_removed(str(node))


async def test_a_links_target_is_what_is_watched(node, tmp_path, nursery):
    (tmp_path / "by-name").mkdir()
    link = tmp_path / "by-name" / "vdpa0"
    link.symlink_to(node)
    ended = await watched(nursery, str(link))
    node.unlink()
    with trio.fail_after(5):
        await ended.wait()


async def test_nothing_else_in_the_directory_ends_it(node, nursery):
    ended = await watched(nursery, str(node))
    other = node.with_name("vhost-vdpa-01")
    other.touch()
    other.unlink()
    await settled()
    assert not ended.is_set()


async def test_it_sleeps_while_nothing_is_deleted(node, nursery):
    await watched(nursery, str(node))
    wakeups = Wakeups()
    trio.lowlevel.add_instrument(wakeups)
    node.write_text("written")
    node.chmod(0o600)
    node.with_name("vhost-vdpa-1").touch()
    await settled()
    trio.lowlevel.remove_instrument(wakeups)
    assert not wakeups.count


async def test_a_directory_that_cannot_be_watched_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="inotify_add_watch"):
        await wait_removed(str(tmp_path / "absent" / "node"))
