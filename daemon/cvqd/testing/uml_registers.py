"""How a User Mode Linux guest runs on a processor whose registers the kernel cannot hold.

UML before 6.13 keeps a process's extended registers in a buffer of fixed size,
and the host takes them back only whole (``arch/x86/kernel/fpu/regset.c``:
xstateregs_set).  With AMX they are 11008 bytes, which does not fit: the
guest's first process dies of SIGSEGV as it starts.  Later ones ask the host
for the size, but those of Debian 12 and 13 are older.

Where the host does not know that register set at all, such a UML keeps the x87
and SSE registers instead (``arch/x86/um/os-Linux/registers.c``:
arch_init_registers).  Run as a program, this file starts a command under that
condition: a seccomp filter refuses that one request of ptrace(2).  AVX registers
are then not kept apart between a guest's threads, or from its signal handlers,
so its C library is told not to use them.
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from errno import EINVAL
from pathlib import Path
from typing import Final

#: for the guest's environment; glibc's manual, "Hardware Capability Tunables"
WITHOUT_AVX: Final = (
    "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX_Fast_Unaligned_Load"
)

_CPUINFO: Final = Path("/proc/cpuinfo")

# linux/audit.h, asm/unistd_64.h, linux/ptrace.h, linux/elf.h
_X86_64, _PTRACE, _GETREGSET, _XSTATE = 0xC000003E, 101, 0x4204, 0x202
# struct seccomp_data: offsets of the number, the architecture, and the low halves of the arguments
_NR, _ARCH, _REQUEST, _SET = 0, 4, 16, 32
# linux/bpf_common.h: load a word, jump if equal, return
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
# linux/seccomp.h, linux/prctl.h
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_SET_SECCOMP, _FILTER, _SET_NO_NEW_PRIVS = 22, 2, 38


def too_wide(kernel: str) -> bool:
    """Whether this host's registers are more than the UML ``kernel``, a program, can hold."""
    cpu = _CPUINFO.read_text(encoding="ascii", errors="replace")
    if " amx_tile" not in cpu:
        return False
    shown = subprocess.run([kernel, "--version"], check=True, capture_output=True, text=True)  # noqa: S603 -- ours
    major, minor = shown.stdout.split(".")[:2]
    return (int(major), int(minor)) < (6, 13)


def prefix() -> list[str]:
    """Words to put before a guest's command on a host whose registers are ``too_wide``."""
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve())]


def _narrow() -> None:
    """Have the kernel refuse ``ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, …)`` from now on."""
    checks = ((_ARCH, _X86_64), (_NR, _PTRACE), (_REQUEST, _GETREGSET), (_SET, _XSTATE))
    program = b""
    for place, (offset, value) in enumerate(checks):
        # struct sock_filter: code, jumps if true and if false, operand; a difference leads to the last one
        left = 2 * (len(checks) - place - 1) + 1
        program += struct.pack("=HBBIHBBI", _LOAD, 0, 0, offset, _JUMP_EQUAL, 0, left, value)
    program += struct.pack("=HBBIHBBI", _RETURN, 0, 0, _ERRNO | EINVAL, _RETURN, 0, 0, _ALLOW)
    room = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: number of instructions, padding, their address
    description = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(room)))
    libc = ctypes.CDLL(None, use_errno=True)
    for words in ((_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER, description, 0, 0)):
        if libc.prctl(*words):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    _narrow()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 -- its purpose
