"""The file that holds a state log: mapped, allocated in full before it is used, and locked.

What is stored in the mapping survives this process, even a SIGKILL, because the
page cache belongs to the kernel.  It is deliberately not synced to disk, since
no guest outlives its host.  A copy-on-write file system may still run out of
room under a mapping (posix_fallocate(3) reserves room for writes in place
only); the state directory should be on another one, or on tmpfs.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from contextlib import suppress
from typing import Final, NoReturn, Self

from cvqd.errors import StateError
from cvqd.wire.state_log import MAX_LOG

NAME: Final = "state.log"
#: name of a new file until ``install``, and of a file that ``set_aside`` has kept
_NEXT: Final = "state.log.next"
_REFUSED: Final = "state.log.refused"
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"


class StateFile:
    """``directory`` is made if need be and locked until ``close``; StateError if it cannot be used."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.path = f"{directory}/{NAME}"
        try:
            os.makedirs(directory, 0o700, exist_ok=True)  # noqa: PTH103 -- pathlib is 10 ms more to import
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            _refuse(directory, error)
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            if isinstance(error, BlockingIOError):
                raise StateError(directory, errno.EBUSY, "another process keeps its state there") from None
            _refuse(directory, error)

    def read(self) -> bytes | None:
        """Content of the file, None if there is none."""
        try:
            with self._open(NAME, os.O_RDONLY) as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise StateError(self.path, errno.EINVAL, "is not a regular file")
                return file.read(min(found.st_size, MAX_LOG))
        except FileNotFoundError:
            return None
        except OSError as error:
            _refuse(self.path, error)

    def create(self, size: int) -> memoryview:
        """A new, fully allocated file of zeroes; ``install`` gives it its name."""
        try:
            with suppress(FileNotFoundError):
                os.unlink(_NEXT, dir_fd=self._directory)
            with self._open(_NEXT, os.O_RDWR | os.O_CREAT | os.O_EXCL) as file:
                return self._map(file.fileno(), size)
        except OSError as error:
            _refuse(self.path, error)

    def install(self) -> None:
        """Replace the old file, if any, by the one that ``create`` made."""
        try:
            os.rename(_NEXT, NAME, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError as error:
            _refuse(self.path, error)

    def set_aside(self) -> str:
        """Rename a file that cannot be used, so that it can be examined later; its new path."""
        try:
            os.rename(NAME, _REFUSED, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError as error:
            _refuse(self.path, error)
        return f"{self.directory}/{_REFUSED}"

    def close(self) -> None:
        """Unlock the directory; a mapping stays as long as anything views it."""
        os.close(self._directory)

    def _open(self, name: str, flags: int) -> _File:
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        return _File(os.open(name, flags, 0o600, dir_fd=self._directory))

    def _map(self, fd: int, size: int) -> memoryview:
        # a hole would be allocated only when it is touched, and on a full disk that raises SIGBUS
        os.posix_fallocate(fd, 0, size)
        mapping = mmap.mmap(fd, size, mmap.MAP_SHARED)
        mapping.madvise(mmap.MADV_DONTFORK)
        return memoryview(mapping)


class _File:
    """A descriptor that is closed at the end of a block."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        return self._fd

    def read(self, most: int) -> bytes:
        return os.read(self._fd, most)


def boot_id() -> bytes:
    """16 bytes that differ for each boot of the host; zeroes if /proc does not show them.

    A unit with ``ProcSubset=pid`` hides them.  Then a log of an earlier boot cannot be told from one of
    this boot, but the rings show it: after a boot every driver starts with rings that were never used.
    """
    try:
        fd = os.open(_BOOT_ID, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return bytes(16)
    with _File(fd) as file:
        return bytes.fromhex(file.read(64).decode().strip().replace("-", ""))


def _refuse(path: str, error: OSError) -> NoReturn:
    reason = {errno.EDQUOT: "the quota is used up"}.get(error.errno or 0, error.strerror or str(error))
    raise StateError(path, error.errno or errno.EIO, reason) from error
