"""What the test machine boots: Debian's stock kernel with the vDPA simulator added.

Debian ships vhost_vdpa but not the simulator; the simulator's sources are in
its source package and build out of tree.  Beside them is Debian's udev, which a
systemd inside needs.  Nothing is installed: packages are downloaded and unpacked
into a cache (``CVQD_CACHE``, else ``XDG_CACHE_HOME``, else ``.cache`` in the
checkout) under a key of package version and of the files here, so that a second
run builds nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]

# Debian 12 (security suite) and Debian 13 name the same series differently
_META_PACKAGES = ("linux-image-6.12-amd64", "linux-image-amd64")
_SOURCE_PACKAGE = "linux-source-6.12"

_SIMULATOR_SOURCES = (
    "drivers/vhost/vringh.c",
    "drivers/vdpa/vdpa_sim/vdpa_sim.c",
    "drivers/vdpa/vdpa_sim/vdpa_sim.h",
    "drivers/vdpa/vdpa_sim/vdpa_sim_net.c",
    "drivers/vdpa/virtio_pci/vp_vdpa.c",
)
_BUILT = ("vringh", "vdpa_sim", "vdpa_sim_net", "vp_vdpa")
# in the order in which they can be loaded
_STOCK = (
    "fs/netfs/netfs",
    "net/9p/9pnet",
    "net/9p/9pnet_virtio",
    "fs/9p/9p",
    "fs/overlayfs/overlay",
    "drivers/net/tun",
    "virt/lib/irqbypass",
    "drivers/vdpa/vdpa",
    "drivers/vhost/vhost_iotlb",
    "drivers/vhost/vhost",
    "drivers/vhost/vhost_vdpa",
)
# for a machine that is itself the guest: kept beside the image, in the order in which they can be loaded
_FOR_A_GUEST = (
    "net/sched/sch_mqprio_lib",
    "net/sched/sch_mqprio",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
)


_SCRATCH = "kernel-build-"


class KernelImage(NamedTuple):
    """Two files for QEMU, the kernel's release, the modules of a guest's network card in loading order.

    ``udev`` is an archive of its files, below ``/``.
    """

    kernel: Path
    initramfs: Path
    release: str
    guest_modules: tuple[Path, ...]
    udev: Path


class _Packages(NamedTuple):
    release: str
    version: str

    @property
    def names(self) -> list[str]:
        common = re.sub(r"-amd64$", "-common", self.release)
        kbuild = re.sub(r"-amd64$", "", self.release)
        return [
            f"linux-image-{self.release}={self.version}",
            f"linux-headers-{self.release}={self.version}",
            f"linux-headers-{common}={self.version}",
            f"linux-kbuild-{kbuild}={self.version}",
            f"{_SOURCE_PACKAGE}={self.version}",
        ]


def kernel_image() -> KernelImage:
    """The image of this checkout, built if the cache does not have it (network, half a minute)."""
    packages = _find_packages()
    key = hashlib.sha256(packages.version.encode())
    for part in sorted(HERE.iterdir()):
        if part.suffix in {".c", ".patch"} or part == Path(__file__).resolve():
            key.update(part.name.encode() + part.read_bytes())
    folder = _cache() / f"kernel-{packages.version}-{key.hexdigest()[:12]}"
    with _locked(_cache() / "kernel.lock"):
        if not folder.exists():
            _build(packages, folder)
    modules = tuple(folder / f"{Path(name).name}.ko" for name in _FOR_A_GUEST)
    return KernelImage(
        folder / "vmlinux", folder / "initramfs", packages.release, modules, folder / "udev.tar"
    )


def _cache() -> Path:
    if named := os.environ.get("CVQD_CACHE"):
        return Path(named)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "cvqd"
    return CHECKOUT / ".cache"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _find_packages() -> _Packages:
    for meta in _META_PACKAGES:
        shown = subprocess.run(
            ["apt-cache", "show", "--no-all-versions", meta], check=False, capture_output=True, text=True
        ).stdout
        found = re.search(r"linux-image-(6\.12[^ ,]*-amd64) \(= ([^)]+)\)", shown)
        if found:
            return _Packages(found[1], found[2])
    raise RuntimeError(
        f"apt knows no Linux 6.12 as {' or '.join(_META_PACKAGES)}: this needs Debian 12 or 13, "
        "its security suite and apt-get update"
    )


def _build(packages: _Packages, folder: Path) -> None:
    """Everything happens in a scratch folder beside the result; only the finished result is moved."""
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder.parent))
    try:
        root = _unpack(packages, scratch)
        modules = root / "lib/modules" / packages.release / "kernel"
        if not modules.is_dir():
            modules = root / "usr" / modules.relative_to(root)
        built = _build_modules(packages, root, scratch)
        result = scratch / "result"
        result.mkdir()
        (result / "vmlinux").write_bytes(_vmlinux((root / f"boot/vmlinuz-{packages.release}").read_bytes()))
        (result / "initramfs").write_bytes(_initramfs(modules, built, _build_init(scratch)))
        for name in _FOR_A_GUEST:
            (result / f"{Path(name).name}.ko").write_bytes(_module(modules, name))
        (result / "udev.tar").write_bytes(_udev(scratch))
        result.rename(folder)
        _forget_old(folder.parent)
    finally:
        shutil.rmtree(scratch)


def _forget_old(cache: Path) -> None:
    """Keep two images: this checkout's and perhaps another's."""
    images = sorted(cache.glob("kernel-*-*"), key=lambda path: path.stat().st_mtime)
    for image in images[:-2]:
        if not image.name.startswith(_SCRATCH):
            shutil.rmtree(image)


def _unpack(packages: _Packages, scratch: Path) -> Path:
    _do(["apt-get", "download", *packages.names], scratch)
    root = scratch / "root"
    for package in sorted(scratch.glob("*.deb")):
        _do(["dpkg-deb", "-x", package, root], scratch)
        package.unlink()
    return root


def _udev(scratch: Path) -> bytes:
    """The package's files; the libraries that it wants, systemd on this host wants too."""
    _do(["apt-get", "download", "udev"], scratch)
    (package,) = scratch.glob("udev_*.deb")
    return subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True).stdout


def _build_modules(packages: _Packages, root: Path, scratch: Path) -> Path:
    headers = root / f"usr/src/linux-headers-{packages.release}"
    # the unpacked Makefile names the place where the package would have been installed
    makefile = headers / "Makefile"
    makefile.write_text(makefile.read_text().replace("include /usr/src/", f"include {root}/usr/src/"))

    folder = scratch / "modules"
    folder.mkdir()
    series = _SOURCE_PACKAGE
    archive = root / f"usr/src/{series}.tar.xz"
    wanted = [f"{series}/{name}" for name in _SIMULATOR_SOURCES]
    strip = ["--transform", "s,.*/,,"]
    _do(["tar", "-xf", archive, "-C", folder, "--occurrence=1", *strip, *wanted], scratch)
    for patch in sorted(HERE.glob("*.patch")):
        _do(["patch", "-p1", "--input", patch], folder)
    (folder / "Makefile").write_text(f"obj-m += {' '.join(f'{name}.o' for name in _BUILT)}\n")
    # no BTF: the headers package has no debug information to derive it from
    _do(
        ["make", "-C", headers, f"M={folder}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "CC=gcc", "modules"],
        scratch,
    )
    return folder


def _build_init(scratch: Path) -> bytes:
    program = scratch / "init"
    _do(["gcc", "-static", "-Os", "-s", "-Wall", "-o", program, HERE / "guest_init.c"], scratch)
    return program.read_bytes()


def _do(command: list[str | Path], folder: Path) -> None:
    done = subprocess.run(
        ["nice", *command],
        check=False,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout[-4000:]}")


def _vmlinux(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage: booted directly (PVH) it need not decompress itself in emulation.

    Source: Linux ``Documentation/arch/x86/boot.rst``, fields setup_sects, payload_offset, payload_length.
    """
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    # four bytes behind the stream repeat its unpacked size
    stream = image[start : start + length - 4]
    if stream.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(stream)
    return subprocess.run(["zstd", "-dc"], check=True, input=stream, capture_output=True).stdout


def _initramfs(modules: Path, built: Path, init: bytes) -> bytes:
    files = {"init": init}
    for name in _STOCK:
        files[f"{Path(name).name}.ko"] = _module(modules, name)
    # vp_vdpa serves QEMU's network card where a test asks for it; loaded, it claims nothing by itself
    for name in _BUILT:
        files[f"{name}.ko"] = (built / f"{name}.ko").read_bytes()
    files["modules"] = "".join(f"{name}\n" for name in files if name.endswith(".ko")).encode()
    return _cpio(files)


def _module(modules: Path, name: str) -> bytes:
    return lzma.decompress((modules / f"{name}.ko.xz").read_bytes())


def _cpio(files: dict[str, bytes]) -> bytes:
    """A newc archive, Linux ``Documentation/driver-api/early-userspace/buffer-format.rst``."""
    archive = bytearray()
    for number, (name, data) in enumerate([*files.items(), ("TRAILER!!!", b"")], start=1):
        # ino, mode, uid, gid, nlink, mtime, filesize, device and rdevice numbers, namesize, check
        fields = (number, 0o100755, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        archive += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)
