# SPDX-License-Identifier: Apache-2.0
"""Memory that was freed goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
import re
from pathlib import Path

from pocketrec_device.memory import release_freed_memory

def resident_bytes():
    return 1024 * int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
pieces = [libc.malloc(1000) for _ in range(40_000)]
for piece in pieces:
    ctypes.memset(piece, 1, 1000)
for piece in pieces[:-1]:  # the last one keeps the heap from shrinking by itself
    libc.free(piece)
before = resident_bytes()
print(release_freed_memory(), before - resident_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_leaves_the_process() -> None:
    """Of 40 MB that were freed below one piece in use, most is gone afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True
    )

    released, n_bytes = done.stdout.split()
    if released == "False":
        pytest.skip("this C library keeps what was freed")
    assert int(n_bytes) > 20_000_000


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems whose library has no such call are left alone."""
    from pocketrec_device.memory import release_freed_memory

    monkeypatch.setattr(sys, "platform", "darwin")

    assert release_freed_memory() is False
