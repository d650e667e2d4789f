"""What User Mode Linux is told of a processor whose registers it cannot hold."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cvqd.testing import uml_registers

#: asks for a stopped child's NT_PRSTATUS and NT_X86_XSTATE (linux/elf.h) and prints each errno
TRACER = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
TRACEME, KILL, GETREGSET = 0, 8, 0x4204
child = os.fork()
if not child:
    libc.ptrace(TRACEME, 0, None, None)
    signal.raise_signal(signal.SIGSTOP)
os.waitpid(child, 0)
for kind in (1, 0x202):
    room = ctypes.create_string_buffer(1 << 16)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(room), len(room))
    ctypes.set_errno(0)
    libc.ptrace(GETREGSET, child, kind, ctypes.addressof(vector))
    print(ctypes.get_errno())
libc.ptrace(KILL, child, None, None)
"""


def errnos(*before):
    command = [*before, sys.executable, "-I", "-S", "-c", TRACER]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_a_command_is_told_that_there_are_no_extended_registers_and_nothing_else():
    assert errnos() == ["0", "0"]
    assert errnos(*uml_registers.prefix()) == ["0", "22"]


@pytest.mark.parametrize(
    ("flags", "release", "too_wide"),
    [
        ("fpu avx512f amx_bf16 amx_tile", "6.1.176", True),
        ("fpu avx512f amx_bf16 amx_tile", "6.12.48", True),
        ("fpu avx512f amx_bf16 amx_tile", "6.13.0", False),
        ("fpu avx512f amx_bf16 amx_tile", "7.3", False),
        ("fpu avx512f", "6.1.176", False),
    ],
)
def test_only_an_old_kernel_on_a_new_processor_is(monkeypatch, tmp_path, flags, release, too_wide):
    kernel, cpu = tmp_path / "linux.uml", tmp_path / "cpuinfo"
    kernel.write_text(f"#!/bin/sh\necho {release}\n")
    kernel.chmod(0o755)
    cpu.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(uml_registers, "_CPUINFO", cpu)
    assert uml_registers.too_wide(str(kernel)) is too_wide
