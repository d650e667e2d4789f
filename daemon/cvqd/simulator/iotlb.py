"""The device's address spaces and the rules by which they change.

Each address space has two tables, as with vhost-vdpa and its parent device:
the *recorded* one holds what IOTLB messages have mapped, the *effective* one
translates the addresses of rings and buffers.  They differ inside a batch and
after a reset that the device's mappings did not survive.  Source:
``vhost_vdpa_process_iotlb_msg`` in ``drivers/vhost/vdpa.c`` and
``vdpasim_set_map`` in ``drivers/vdpa/vdpa_sim/vdpa_sim.c``.

An address space in which nothing is mapped translates nothing, unlike in the
kernel's simulator, where the device can reach everything through it.  Which
group uses which space is not known here.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from cvqd.core.address_space import AddressSpace
from cvqd.errors import DeviceError
from cvqd.wire.vhost_vdpa import Access, BatchMark, Map, Unmap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cvqd.wire.vhost_vdpa import IotlbMessage, IovaRange

#: entries per address space, ``max_iotlb_entries`` of ``drivers/vhost/vhost.c``
MAX_ENTRIES: Final = 2048


class _Space:
    """One address space: both tables."""

    __slots__ = ("differs", "effective", "recorded", "used")

    def __init__(self) -> None:
        self.recorded = AddressSpace()
        self.effective = AddressSpace()
        #: whether the tables may differ
        self.differs = False
        #: vhost creates the object at the first UPDATE or BATCH_BEGIN
        self.used = False

    def commit(self) -> None:
        """Make the recorded table effective."""
        if self.differs:
            table = AddressSpace()
            for extent in self.recorded.extents:
                table.add(*extent)
            self.effective = table
            self.differs = False


class Iotlb:
    """All address spaces of a device.

    ``changed`` is called with the number of a space after its effective table
    has changed and before ``apply`` returns: whoever holds views from that space
    must give them up then.
    """

    def __init__(self, spaces: int, iova_range: IovaRange, changed: Callable[[int], None]) -> None:
        self.iova_range: Final = iova_range
        self._spaces = [_Space() for _ in range(spaces)]
        self._batch: int | None = None
        self._changed = changed

    def table(self, asid: int) -> AddressSpace:
        """The effective table of address space ``asid``, which must exist."""
        return self._spaces[asid].effective

    def apply(self, asid: int, messages: Sequence[IotlbMessage], *, asid_acknowledged: bool) -> None:
        """Apply messages in order; DeviceError on the first that fails, those before it stay in effect.

        EFAULT as from the kernel, whatever the reason; EINVAL for an empty range.
        """
        for message in messages:
            if isinstance(message, BatchMark):
                call, shown = f"VHOST_IOTLB_BATCH_{message.name}", f"asid={asid}"
            else:
                call = "VHOST_IOTLB_UPDATE" if isinstance(message, Map) else "VHOST_IOTLB_INVALIDATE"
                shown = f"asid={asid}, iova={message.iova:#x}, size={message.size:#x}"
                if message.size <= 0:
                    raise DeviceError(call, errno.EINVAL, "the range is empty", shown)
            if asid and not asid_acknowledged:
                reason = f"IOTLB_ASID is not acknowledged, so address space {asid} would mean 0"
                raise DeviceError(call, errno.EFAULT, reason, shown)
            try:
                self._take(asid, message)
            except ValueError as error:
                raise DeviceError(call, errno.EFAULT, str(error), shown) from error

    def forget_effective(self) -> None:
        """A reset without IOTLB_PERSIST: the effective tables are lost, the recorded ones stay."""
        for asid, space in enumerate(self._spaces):
            space.effective = AddressSpace()
            space.differs = bool(len(space.recorded))
            self._changed(asid)

    def clear(self) -> None:
        """The device is closed: nothing is mapped, no batch is open."""
        self._batch = None
        for asid in range(len(self._spaces)):
            self._spaces[asid] = _Space()
            self._changed(asid)

    def _take(self, asid: int, message: IotlbMessage) -> None:
        # order of the checks: vhost_vdpa_process_iotlb_msg
        if not 0 <= asid < len(self._spaces):
            raise ValueError(f"there is no address space {asid}")
        space = self._spaces[asid]
        if isinstance(message, Map) or message is BatchMark.BEGIN:
            space.used = True
        elif not space.used:
            raise ValueError("the address space was never used")
        if self._batch is not None and self._batch != asid:
            raise ValueError(f"a batch is open for address space {self._batch}")
        match message:
            case Map():
                self._map(asid, message)
            case Unmap(iova, size):
                self._unmap(asid, iova, size)
            case BatchMark.BEGIN:
                self._batch = asid
            case BatchMark.END:
                # an END without a BEGIN is harmless, as in the kernel
                if self._batch is not None:
                    self._batch = None
                    self._commit(asid)

    def _map(self, asid: int, request: Map) -> None:
        iova, size, region, offset, access = request
        space = self._spaces[asid]
        if iova < self.iova_range.first or iova + size - 1 > self.iova_range.last:
            raise ValueError("outside the range of addresses that can be mapped")
        if len(space.recorded) >= MAX_ENTRIES:
            raise ValueError(f"{MAX_ENTRIES} entries exist")
        if not 0 < access <= Access.READ_WRITE:
            raise ValueError(f"{int(access)} is no permission")
        view = region.view
        if offset < 0 or offset + size > len(view):
            raise ValueError(f"the region has {len(view):#x} bytes, not {offset:#x} + {size:#x}")
        window = view[offset : offset + size]
        space.recorded.add(iova, window, access)
        if self._batch is None and not space.differs:
            space.effective.add(iova, window, access)
            self._changed(asid)
        else:
            self._changed_record(asid)

    def _unmap(self, asid: int, iova: int, size: int) -> None:
        space = self._spaces[asid]
        if not space.recorded.remove(iova, size):
            return
        if self._batch is None and not space.differs:
            space.effective.remove(iova, size)
            self._changed(asid)
        else:
            self._changed_record(asid)

    def _changed_record(self, asid: int) -> None:
        self._spaces[asid].differs = True
        if self._batch is None:
            # vdpasim_set_map replaces the whole table, so any change restores what a reset lost
            self._commit(asid)

    def _commit(self, asid: int) -> None:
        if self._spaces[asid].differs:
            self._spaces[asid].commit()
            self._changed(asid)
