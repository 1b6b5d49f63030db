"""All threads share one heap once that was asked for."""

from __future__ import annotations

import platform
import re
import subprocess
import sys

import pytest

THREADS = """
import ctypes, sys, threading
from gaelp.learn.runtime import keep_one_heap
if sys.argv[1] == "one":
    keep_one_heap()
kept, meeting = [], threading.Barrier(4)
def work():
    meeting.wait()
    kept.append([bytes(5_000) for _ in range(200)])
    meeting.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out); libc.fflush(out)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has several heaps")
def test_threads_share_one_heap():
    heaps = {
        how: len(re.findall(r"<heap nr=", subprocess.run(
            [sys.executable, "-c", THREADS, how], capture_output=True, text=True, check=True
        ).stdout))
        for how in ("one", "by itself")
    }  # fmt: skip
    assert heaps["one"] == 1
    assert heaps["by itself"] > 1, "the test would pass whatever keep_one_heap does"


FREED = """
import sys
from gaelp.learn.runtime import keep_one_heap
if sys.argv[1] == "one":
    keep_one_heap()
# Freeing this block moves glibc's own threshold above the size of those that follow.
del (_ := [bytes(16 << 20)])[:]
blocks, pins = [], []
for _ in range(40):
    blocks.append(bytearray(b"x") * (4 << 20))
    pins.append(bytearray(100_000))
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) >> 10
full = resident()
blocks.clear()
print(full - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc moves its threshold")
def test_what_is_freed_is_given_back_though_something_small_lies_above():
    given_back = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", FREED, how], capture_output=True, text=True, check=True
            ).stdout
        )
        for how in ("one", "by itself")
    }
    assert given_back["one"] > 140, "40 blocks of 4 MiB"
    assert given_back["by itself"] < 80, "the test would pass whatever keep_one_heap does"
