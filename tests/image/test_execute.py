"""Real kernel functions, executed, against what Python says."""

from __future__ import annotations

import binascii
import fnmatch
import math
import random
import struct
import zlib
from collections.abc import Callable

import pytest

from builder.image.execute import Fault
from builder.image.simulated import SimulatedKernel
from tests.support.kernels import booted

pytestmark = pytest.mark.kernel
MASK = (1 << 64) - 1


@pytest.fixture
def kernel(release: str) -> SimulatedKernel:
    found = booted(release, "max")
    found.execution.heap.clear()
    return found


def ccitt(data: bytes) -> int:
    """CRC-CCITT, reflected, as lib/crc-ccitt.c has it."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x8408 if crc & 1 else 0)
    return crc


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


TEXT = b"The quick brown fox jumps over the lazy dog"
Case = tuple[str, tuple[int | bytes | str, ...], int]
CASES: tuple[Case, ...] = (
    ("crc32_le", (0xFFFFFFFF, TEXT, len(TEXT)), zlib.crc32(TEXT) ^ 0xFFFFFFFF),
    ("crc_ccitt", (0xFFFF, TEXT, len(TEXT)), ccitt(TEXT)),
    ("__crc32c_le", (0xFFFFFFFF, TEXT, len(TEXT)), crc32c(TEXT)),
    ("crc32_be", (0, bytes([1]), 1), 0x04C11DB7),
    ("strlen", (TEXT.decode(),), len(TEXT)),
    ("strnlen", (TEXT.decode(), 7), 7),
    ("int_sqrt", (10**18 - 1,), math.isqrt(10**18 - 1)),
    ("gcd", (2**20 * 27, 2**13 * 81), math.gcd(2**20 * 27, 2**13 * 81)),
    ("lcm", (21, 6), 42),
    ("int_pow", (7, 20), 7**20),
    ("hex_to_bin", (ord("c"),), 12),
    ("simple_strtoul", ("0xdeadbeef", 0, 0), 0xDEADBEEF),
    ("simple_strtol", ("-4711", 0, 10), -4711 & MASK),
    ("memweight", (TEXT, len(TEXT)), sum(byte.bit_count() for byte in TEXT)),
    ("_find_first_bit", (struct.pack("<Q", 1 << 37), 64), 37),
    ("_find_first_zero_bit", (struct.pack("<Q", (1 << 21) - 1), 64), 21),
    ("_find_next_bit", (struct.pack("<2Q", 3, 1 << 5), 128, 2), 69),
    ("_find_last_bit", (struct.pack("<2Q", 3, 1 << 5), 128), 69),
    ("__sw_hweight32", (0x12345678,), (0x12345678).bit_count()),
    ("__sw_hweight64", (0xFEDCBA9876543210,), (0xFEDCBA9876543210).bit_count()),
    ("glob_match", ("dr?ver[0-9]*", "driver42"), int(fnmatch.fnmatchcase("driver42", "dr?ver[0-9]*"))),
    ("sysfs_streq", ("on\n", "on"), 1),
    ("mul_u64_u64_div_u64", (10**15, 10**15, 10**12), 10**18),
)


@pytest.mark.parametrize(("function", "arguments", "expected"), CASES, ids=[case[0] for case in CASES])
def test_a_function_computes_what_it_should(
    kernel: SimulatedKernel, function: str, arguments: tuple[int | bytes | str, ...], expected: int
) -> None:
    if kernel.symbols.address(function) is None:
        pytest.skip(f"this kernel has no {function}")
    found = kernel.call(function, *arguments).value
    assert found & (0xFFFFFFFF if expected >> 32 == 0 else MASK) == expected


@pytest.mark.parametrize(
    ("function", "low"), [("memcmp", False), ("strcmp", False), ("strncmp", True), ("strcasecmp", False)]
)
def test_comparisons_have_the_right_sign(kernel: SimulatedKernel, function: str, low: bool) -> None:
    generator = random.Random(function)
    for _ in range(30):
        a, b = (bytes(generator.choice(b"abcAB") for _ in range(4)) for _ in range(2))
        size = (4,) if function == "memcmp" else (3,) if low else ()
        first, second = (x.lower() if function == "strcasecmp" else x[: 3 if low else 4] for x in (a, b))
        arguments = (a, b) if function == "memcmp" else (a + b"\0", b + b"\0")
        found = kernel.call(function, *arguments, *size).int32
        assert (found > 0) - (found < 0) == (first > second) - (first < second)


@pytest.mark.parametrize(
    ("form", "values", "expected"),
    [
        ("%d|%5u|%-4x|%#o", (-17, 42, 255, 8), "-17|   42|ff  |010"),
        ("%s and %.3s", ("text", "abcdef"), "text and abc"),
        ("%*ph", (4, b"\x00\x01\xfe\xff"), "00 01 fe ff"),
        ("%pM", (b"\x00\x11\x22\x33\x44\x55",), "00:11:22:33:44:55"),
        ("%pI4", (b"\x7f\x00\x00\x01",), "127.0.0.1"),
        ("%pUb", (bytes(range(16)),), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        ("%llx", ((1 << 63) + 5,), "8000000000000005"),
    ],
)
def test_snprintf(kernel: SimulatedKernel, form: str, values: tuple[int | bytes | str, ...], expected: str) -> None:
    out = kernel.execution.heap.allocate(256)
    assert kernel.call("snprintf", out, 256, form, *values).int32 == len(expected)
    assert kernel.memory.string(out) == expected


def test_sort(kernel: SimulatedKernel) -> None:
    generator = random.Random(3)
    numbers = [generator.randrange(1 << 31) for _ in range(500)]
    rows = kernel.execution.heap.put(struct.pack("<500I", *numbers))
    compare = kernel.execution.heap.put(bytes.fromhex("8b072b06c3"))  # mov (%rdi),%eax; sub (%rsi),%eax; ret
    kernel.call("sort", rows, 500, 4, compare, 0)
    assert list(struct.unpack("<500I", kernel.memory.read(rows, 2000))) == sorted(numbers)


def test_memory_functions(kernel: SimulatedKernel) -> None:
    there = kernel.execution.heap.allocate(64)
    for function, arguments, expected in (
        ("memset", (there, 0x41, 20), b"A" * 20),
        ("memcpy", (there, TEXT, len(TEXT)), TEXT),
        ("memmove", (there + 4, there, 20), TEXT[:4] + TEXT[:20] + TEXT[24:]),
    ):
        kernel.call(function, *arguments)
        assert kernel.memory.read(there, len(expected)) == expected
    binary = kernel.execution.heap.allocate(4)
    assert kernel.call("hex2bin", binary, "deadbeef", 4).value == 0
    assert kernel.memory.read(binary, 4) == binascii.unhexlify("deadbeef")


def test_a_fault_says_where_and_what(kernel: SimulatedKernel) -> None:
    with pytest.raises(Fault, match=r"read of 1 bytes at 0x5.*memcmp\+0x") as caught:
        kernel.call("memcmp", 5, 6, 3)
    assert caught.value.symbol.startswith("memcmp")
    assert "rdi" in caught.value.instruction
    with pytest.raises(Fault, match="not done after 100 instructions"):
        kernel.call("crc32_le", 0, bytes(4096), 4096, budget=100)
    assert kernel.call("gcd", 6, 4).value == 2, "a fault leaves the machine usable"


def test_a_stub_answers_for_a_function(kernel: SimulatedKernel) -> None:
    seen: list[int] = []

    def answer(machine: object) -> int:
        seen.append(kernel.execution.machine().argument(0))
        return 99

    stub: Callable[..., int] = answer
    kernel.execution.stub("gcd", stub)
    try:
        assert kernel.call("gcd", 12, 18).value == 99
        assert kernel.call("lcm", 12, 18).value == 0, "lcm divides by what gcd says"
        assert seen == [12, 12]
    finally:
        kernel.execution.stubs.pop(kernel.symbols.find_function("gcd"))
        kernel.execution.reset()
    assert kernel.call("gcd", 12, 18).value == 6


def test_code_goes_on_behind_an_access_that_failed(kernel: SimulatedKernel) -> None:
    """copy_from_kernel_nofault() has entries in the exception table for what it reads."""
    there = kernel.execution.heap.allocate(16)
    assert kernel.call("copy_from_kernel_nofault", there, kernel.execution.heap.put(TEXT), 8).int32 == 0
    assert kernel.memory.read(there, 8) == TEXT[:8]
    for size in (1, 2, 4, 8):
        assert kernel.call("copy_from_kernel_nofault", there, (1 << 64) - 0x1000, size).int32 == -14  # -EFAULT
