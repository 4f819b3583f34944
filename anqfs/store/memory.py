"""What the kernel keeps in memory of a mapped file, through libc: mincore and madvise; and what malloc keeps. Any thread.

A page that is not in memory stops the thread that touches it until the disk answers, and pages once touched count as this process's
resident memory. Both calls only ask or drop page table entries; they never change a byte.
"""

from __future__ import annotations

import ctypes
import mmap
import os

PAGE = mmap.PAGESIZE
_MADV_WILLNEED, _MADV_DONTNEED = 3, 4
_PROT_READ, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE = 1, 2, 16, 32, 0x4000
_libc = ctypes.CDLL(None, use_errno=True)
_mincore = _libc.mincore
_mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_madvise = _libc.madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_mmap = _libc.mmap
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_mmap.restype = ctypes.c_void_p
_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_release_buffer = ctypes.pythonapi.PyBuffer_Release


_view_of = ctypes.pythonapi.PyMemoryView_FromMemory
_view_of.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_view_of.restype = ctypes.py_object
_PYBUF_READ = 0x100
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_THRESHOLD = 32 << 20
_TRIM_THRESHOLD = 64 << 20


class _PyBuffer(ctypes.Structure):
    """CPython's Py_buffer (Include/pybuffer.h)."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int)
_release_buffer.argtypes = (ctypes.POINTER(_PyBuffer),)
_release_buffer.restype = None


def keep_freed() -> None:
    """Let malloc keep up to 64 MiB of freed memory for the next use, for the whole process.

    LMDB allocates each extent of a batch and frees it after the commit. By default that memory goes back to the kernel each time, and
    getting it anew, page by page, takes longer than sealing and writing. A C library without mallopt stays as it is.
    """
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)


def address(view: memoryview) -> int:
    """Return where a contiguous, read-only or writable buffer lies in memory."""
    buffer = _PyBuffer()
    _get_buffer(view, ctypes.byref(buffer), 0)
    try:
        return buffer.buf or 0
    finally:
        _release_buffer(ctypes.byref(buffer))


read = ctypes.string_at
"""Return `size` bytes at an address of this process's memory."""


def view(start: int, size: int) -> memoryview:
    """Return a read-only buffer over this process's memory. Nothing keeps that memory where it is."""
    made: memoryview = _view_of(start, size, _PYBUF_READ)
    return made


def mapping_of(path: bytes, size: int) -> int:
    """Return where this process has mapped the file, shared and read-only, with a map of `size` bytes; 0 when it is not found."""
    inode = os.stat(path).st_ino
    with open("/proc/self/maps", "rb") as file:
        for line in file:
            fields = line.split(maxsplit=5)
            start, _, end = fields[0].partition(b"-")
            if fields[1] == b"r--s" and int(fields[4]) == inode and int(end, 16) - int(start, 16) >= size // PAGE * PAGE:
                return int(start, 16)
    return 0


def is_resident(view: memoryview) -> bool:
    """Tell whether every page below the buffer is in memory. A mapping that mincore does not know counts as resident."""
    start = address(view)
    first = start & -PAGE
    pages = (start + len(view) - first + PAGE - 1) // PAGE
    answer = ctypes.create_string_buffer(pages)
    if _mincore(first, pages * PAGE, answer) != 0:
        return True
    return all(byte & 1 for byte in answer.raw[:pages])


def will_need(view: memoryview) -> None:
    """Ask the kernel to read the file pages below the buffer from the disk, in large requests, without waiting for them.

    Without it a map that is advised for random access is read page by page, one disk access each.
    """
    start = address(view)
    if start and len(view):
        first = start & -PAGE
        _madvise(first, start + len(view) - first, _MADV_WILLNEED)


def drop(start: int, length: int) -> None:
    """Drop the page table entries of a read-only file mapping; the pages stay in the kernel's cache. A refusal changes nothing."""
    if start and length:
        _madvise(start & -PAGE, length, _MADV_DONTNEED)


def cover(start: int, used: int, length: int) -> None:
    """Put zeros that take no memory over what a read-only mapping of `length` bytes has past the `used` bytes of its file."""
    first = -(-used // PAGE) * PAGE
    if start and first < length:
        flags = _MAP_PRIVATE | _MAP_FIXED | _MAP_ANONYMOUS | _MAP_NORESERVE
        if _mmap(start + first, length - first, _PROT_READ, flags, -1, 0) != start + first:
            raise OSError(ctypes.get_errno(), "the end of a mapping cannot be covered")


def mapped_resident() -> int:
    """Return the bytes of files and shared memory that this process has resident (statm's third figure)."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[2]) * PAGE
