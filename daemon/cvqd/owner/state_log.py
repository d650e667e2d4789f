"""What a restart will know: each acknowledged command is in the state log before the guest sees its ack.

A full log is compacted before a command goes to the device, never between the
device's acknowledgement and the guest's; usually it was compacted earlier,
while nobody waited.
"""

from __future__ import annotations

from errno import EFBIG
from typing import TYPE_CHECKING, Final

from cvqd.config import DEFAULT_STATE
from cvqd.config.device import label
from cvqd.core.command_log import CommandLog
from cvqd.core.kept_state import KeptState, fold
from cvqd.core.state_keeper import NothingKept
from cvqd.core.tracked import TableKept
from cvqd.errors import StateError
from cvqd.host.state_file import StateFile, boot_id
from cvqd.wire.net_control import CoalVqGet, StatsGet, StatsQuery
from cvqd.wire.state_log import (
    HALF_HEADER,
    HEADER_SIZE,
    Header,
    Kind,
    LogError,
    OutdatedLogError,
    Record,
    last_note,
    record_size,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from cvqd.config import Config
    from cvqd.core.ledger import Ledger
    from cvqd.core.queues.packed_answers import PackedAnswers
    from cvqd.core.tracked import Change
    from cvqd.events import EventLog

#: bytes in each half for records appended after its base
_APPENDED: Final = 256 << 10
#: the longest base, without address tables and steering: 4096 VLANs, and the coalescing of the 254 data
#: rings that a vhost-user front-end can name (ring numbers have 8 bits), with room for all the rest
_BASE: Final = 4096 * record_size(4) + 254 * record_size(12) + 4096
#: bytes for records of cvqd's own between two commands
_SLACK: Final = 256
#: commands that change no state
_QUESTIONS: Final = frozenset({CoalVqGet, StatsGet, StatsQuery})


class StateLog:
    """The log of one instance in ``directory``.  Made by ``open``."""

    reason = ""

    def __init__(self, file: StateFile, log: CommandLog, loaded: KeptState | None) -> None:
        self.loaded = loaded
        self.path: str | None = file.path
        self._file = file
        self._log = log
        self._life = loaded
        #: bytes, at least as many as unanswered commands will take
        self._reserved = 0
        self._base = log.used

    @classmethod
    def open(
        cls, directory: str, log: EventLog, *, device: str, devices: Collection[str], max_command: int
    ) -> StateLog:
        """Lock the directory, read what an earlier process left there; StateError if it cannot be used.

        ``device`` is ours; a log of any of ``devices`` (those the guest may have been moved to) is accepted.
        """
        file = StateFile(directory)
        try:
            boot = boot_id()
            found = file.read()
            loaded = _read(file, found, boot, devices, log) if found is not None else None
            records = loaded.base() if loaded is not None else [Record(Kind.ENDED, 0, b"")]
            # state kept under a larger max_command has to fit, too
            base = max(_BASE + 2 * record_size(max_command), sum(record_size(len(r.data)) for r in records))
            header = Header(boot, device, _round_up(HALF_HEADER + base + _APPENDED))
            # always a new file: the old one stays valid until the new one holds the same
            memory = file.create(header.size)
            encoded = header.encode()
            memory[: len(encoded)] = encoded
            commands = CommandLog(memory)
            commands.rewrite(records)
            if found is not None and loaded is not None:
                commands.note(last_note(memoryview(found))[1])
            file.install()
        except BaseException:
            file.close()
            raise
        log.emit("state.kept", path=file.path, bytes=header.size)
        return cls(file, commands, loaded)

    @property
    def noted(self) -> bytes:
        """The last answers of a packed control queue."""
        return self._log.noted

    def begin(self, life: KeptState) -> None:
        """Keep this life from now on; StateError if it does not fit."""
        self.loaded = None
        self._life = life
        self._reserved = 0
        if not self._rewrite(life.base()):
            raise StateError(self._file.path, EFBIG, "the state does not fit into the log")

    def end(self) -> None:
        """Note that the life is over."""
        self.loaded = self._life = None
        self._rewrite([Record(Kind.ENDED, 0, b"")])
        self._log.note(b"")

    def reserve(self, length: int, ledger: Ledger) -> bool:
        """Reserve room for a command of so many bytes; False if there is none."""
        need = record_size(length)
        if not self._has_room(need):
            self._make_room(ledger)
        # records behind a command without an answer cannot be compacted
        while not self._has_room(need):
            if not ledger.give_up():
                return False
            self._make_room(ledger)
        self._reserved += need
        return True

    def _has_room(self, need: int) -> bool:
        return self._log.free >= _SLACK + self._reserved + need

    def _make_room(self, ledger: Ledger) -> None:
        # what was answered, with OK or an error, needs no reservation any more
        self._reserved = sum(record_size(len(_bytes(change))) for change in ledger.unanswered())
        self.compact(ledger)

    def commit(self, ledger: Ledger) -> None:
        """Keep the commands that were acknowledged since the last call: one store, however many."""
        fresh = ledger.take_fresh()
        if not fresh:
            return
        for id_, change in fresh:
            if type(change) not in _QUESTIONS:
                self._log.append(Kind.COMMAND, id_, _bytes(change))
        self._log.commit()

    def tidy(self, ledger: Ledger) -> None:
        """Compact the log once half of its room for appending is used."""
        if self._log.used - self._base > _APPENDED // 2:
            self.compact(ledger)

    def compact(self, ledger: Ledger) -> None:
        """Say the same in fewer records: the resulting state instead of each command."""
        if self._life is None:
            return
        # a late answer may still put an expired command before these
        ahead = [Record(Kind.COMMAND, id_, _bytes(change)) for id_, change in ledger.ahead()]
        if self._rewrite(self._life._replace(state=ledger.settled).base() + ahead):
            ledger.take_fresh()

    def note(self, answers: PackedAnswers) -> None:
        """Keep the last answers of a packed control queue, which its ring is about to lose."""
        self._log.note(answers.encode())

    def close(self) -> None:
        """Release the directory to the next process; nothing can be kept any more."""
        self._file.close()
        # its view of the file would keep it mapped
        del self._log

    def _rewrite(self, records: list[Record]) -> bool:
        """Rewrite the log; False, with nothing changed, if the records do not fit."""
        fits = self._log.rewrite(records)
        if fits:
            self._base = self._log.used
        return fits


def keep_state(config: Config, log: EventLog) -> StateLog | NothingKept:
    """The state log of an instance; StateError if a configured directory cannot be used."""
    directory = config.state.directory or DEFAULT_STATE.format(instance=config.instance)
    try:
        return StateLog.open(
            directory,
            log,
            device=label(config.device),
            devices={label(device) for device in (config.device, *config.targets.values())},
            max_command=config.control_queue.max_command,
        )
    except StateError as error:
        if config.state.directory is not None:
            raise
        log.emit("state.not_kept", path=error.path, reason=error.reason)
        return NothingKept(f"{error.path}: {error.reason}")


def _bytes(change: Change) -> bytes:
    # the table as the guest set it, whether or not this device took it
    return change.table.encode() if isinstance(change, TableKept) else change.encode()


def _read(
    file: StateFile, found: bytes, boot: bytes, devices: Collection[str], log: EventLog
) -> KeptState | None:
    """The life that a file holds, None if there is none that we can go on with."""
    try:
        header = Header.decode(found)
        if header.boot_id != boot:
            raise OutdatedLogError("it is of an earlier boot, which no guest outlived")
        if header.device not in devices:
            raise LogError(f"it is of another device, {header.device}")
        scan = CommandLog(memoryview(bytearray(found))).read()
        life = fold(scan.records)
    except OutdatedLogError as error:
        log.emit("state.outdated", path=file.path, reason=str(error))
        return None
    except LogError as error:
        log.emit("state.refused", path=file.path, reason=str(error), kept_as=file.set_aside())
        return None
    if scan.lost:
        log.emit("state.damaged", path=file.path, commands=len(scan.records), lost_bytes=scan.lost)
    if life is not None:
        log.emit("state.loaded", path=file.path, commands=len(scan.records), digest=life.state.digest())
    return life


def _round_up(size: int) -> int:
    return -(-size // HEADER_SIZE) * HEADER_SIZE
