"""All threads share one heap, and what compiling freed is given back, once that was asked for."""

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
import sys, jax
from gaelp.learn import runtime
runtime._LONG = 0.0
if sys.argv[1] == "one":
    runtime.keep_one_heap()
blocks, pins = [], []
for _ in range(1500):
    blocks.append(bytearray(b"x") * 100_000)
    pins.append(bytearray(1_000))
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) >> 10
blocks.clear()
full = resident()
jax.jit(lambda x: x + 1)(1.0)
print(full - resident())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is freed below something in use"
)
def test_what_was_freed_is_given_back_after_compiling_though_something_small_lies_above():
    given_back = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", FREED, how], capture_output=True, text=True, check=True
            ).stdout
        )
        for how in ("one", "by itself")
    }
    assert given_back["one"] > 80, "1,500 blocks of 100,000 bytes"
    assert given_back["by itself"] < 40, "the test would pass whatever keep_one_heap does"
