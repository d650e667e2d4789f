"""What a User Mode Linux guest is started from: packages, kernel command line, module files.

Look-ups on the host; nothing is started here.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cvqd.testing import uml_registers

if TYPE_CHECKING:
    from collections.abc import Sequence

_KERNEL: Final = "linux.uml"
#: The kernel, the tools that the guest borrows from the host, and Debian's package of each.
_NEEDED: Final = (
    (_KERNEL, "user-mode-linux"),
    ("/bin/busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("taskset", "util-linux"),
)
SEARCH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_MODULES: Final = Path("/usr/lib/uml/modules")
_INIT: Final = Path(__file__).with_name("uml_init.sh")
#: Directories that the guest covers with its own tmpfs.
_COVERED: Final = ("/tmp", "/run")  # noqa: S108 - names inside the guest
_NETWORK_CARD: Final = 1  # virtio 1.3 §5.1.1


class UmlError(Exception):
    """The guest did not do as it was told, or there can be none."""


def obstacle() -> str | None:
    """Why no guest can be booted here, naming the missing packages; None if one can."""
    missing = [package for tool, package in _NEEDED if shutil.which(tool, path=SEARCH) is None]
    if missing:
        return f"User Mode Linux needs the package{'s'[: len(missing) > 1]} {' '.join(missing)}"
    if not _MODULES.is_dir():
        return f"User Mode Linux has no modules under {_MODULES} (package user-mode-linux)"
    return None


def guest_path(host: Path) -> str:
    """Where the guest finds a file of the host."""
    absolute = str(host.absolute())
    covered = any(absolute == top or absolute.startswith(top + "/") for top in _COVERED)
    return f"/run/host{absolute}" if covered else absolute


def command_line(
    directory: Path,
    channel: int,
    sockets: Sequence[Path],
    memory_mib: int,
    cpu: int | None,
) -> list[str]:
    """The command that boots a guest whose ttyS0 is the descriptor ``channel``."""
    before = [] if cpu is None else ["taskset", "--cpu-list", str(cpu)]
    environment = []
    if uml_registers.too_wide(shutil.which(_KERNEL, path=SEARCH) or _KERNEL):
        before += uml_registers.prefix()
        environment.append(uml_registers.WITHOUT_AVX)
    devices = []
    for path in sockets:
        if ":" in str(path) or " " in str(path):
            raise UmlError(f"{path}: the kernel's command line cannot carry this path")
        devices.append(f"virtio_uml.device={path.absolute()}:{_NETWORK_CARD}")
    return [
        *before,
        _KERNEL,
        f"mem={memory_mib}M",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        "quiet",
        f"uml_dir={directory}",
        "umid=guest",
        "con=null",
        "con0=null,fd:1",
        "ssl=null",
        f"ssl0=fd:{channel}",
        *devices,
        *environment,
        "init=/bin/sh",
        "--",
        str(_INIT),
    ]


def modules(release: str, names: Sequence[str]) -> list[Path]:
    """Files of the named modules in loading order, after ``modules.dep`` (depmod(8))."""
    root = _MODULES / release
    needs: dict[str, list[str]] = {}
    for line in (root / "modules.dep").read_text().splitlines():
        target, _, rest = line.partition(":")
        needs[target] = rest.split()
    by_name = {Path(target).stem: target for target in needs}
    ordered: list[str] = []
    for name in names:
        if name not in by_name:
            raise UmlError(f"the guest's kernel {release} has no module {name}")
        target = by_name[name]
        # depmod lists the nearest dependency first.
        ordered += [each for each in (*reversed(needs[target]), target) if each not in ordered]
    return [root / each for each in ordered]
