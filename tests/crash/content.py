"""File content that says what it is, so that lost, old, foreign or mixed bytes are recognised.

Content is made of 32-byte cells, each naming its writer, file, version and place. A file's possible states after a crash follow from
the writes it got: everything up to its last acknowledged sync is there; of what came after, each 4 KiB page is there as it was at
some moment (the kernel writes pages back in its own order), and the length is one the file has had since.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CELL = 32
PAGE = 4096


def pattern(writer: int, file: int, version: int, offset: int, length: int) -> bytes:
    """Return the bytes that version `version` of a file has at offset..offset+length."""
    first = offset // CELL
    count = (offset + length - 1) // CELL - first + 1 if length else 0
    head = f"{writer % 1000:03d} {file % 1000000:06d} {version % 1000000:06d} "
    cells = "".join([f"{head}{cell % 10000000000000:013d}\n" for cell in range(first, first + count)])
    start = offset - first * CELL
    return cells.encode()[start : start + length]


@dataclass
class File:
    """One file's data: `sure` is what the last acknowledged sync covers, `later` what was done since: (offset, data) or (size, None)."""

    sure: bytearray = field(default_factory=bytearray)
    later: list[tuple[int, bytes | None]] = field(default_factory=list)

    def write(self, offset: int, data: bytes) -> None:
        self.later.append((offset, data))

    def resize(self, size: int) -> None:
        self.later.append((size, None))

    def settle(self) -> None:
        """Everything so far is durable."""
        for change in self.later:
            _change(self.sure, change)
        self.later = []

    def now(self) -> bytes:
        """Return the content after all changes."""
        content = bytearray(self.sure)
        for change in self.later:
            _change(content, change)
        return bytes(content)

    def fault(self, seen: bytes) -> str | None:
        """Return what is wrong with `seen` as the file's content after a crash, or None."""
        if not self.later:
            return None if seen == self.sure else _difference(bytes(self.sure), seen)
        content = bytearray(self.sure)
        sizes = {len(content)}
        pages: dict[int, set[bytes]] = {}
        for change in self.later:
            touched = _pages(content, change)
            for page in touched:
                pages.setdefault(page, {_page(content, page)})
            _change(content, change)
            sizes.add(len(content))
            for page in touched:
                pages[page].add(_page(content, page))
        if not min(sizes) <= len(seen) <= max(sizes):
            return f"length {len(seen)}, not within {min(sizes)}..{max(sizes)}"
        for page in range((len(seen) + PAGE - 1) // PAGE):
            got = _page(seen, page)
            possible = pages.get(page)
            if possible is None:
                want = _page(self.sure, page)
                if got != want[: len(got)]:
                    return f"page {page} was not written since the sync, yet: {_difference(want, got)}"
            elif not any(_cut_short(got, want) for want in possible):
                return f"page {page} is none of its {len(possible)} states: {_first_cells(got)}"
        return None


def _change(content: bytearray, change: tuple[int, bytes | None]) -> None:
    place, data = change
    if place > len(content):
        content.extend(bytes(place - len(content)))
    if data is None:
        del content[place:]
    else:
        content[place : place + len(data)] = data


def _pages(content: bytearray, change: tuple[int, bytes | None]) -> range:
    place, data = change
    if data is not None:
        return range(min(place, len(content)) // PAGE, (place + len(data) - 1) // PAGE + 1)
    low, high = sorted((place, len(content)))
    return range(low // PAGE, (high - 1) // PAGE + 1 if high > low else low // PAGE)


def _page(content: bytes | bytearray, page: int) -> bytes:
    return bytes(content[page * PAGE : (page + 1) * PAGE])


def _cut_short(got: bytes, want: bytes) -> bool:
    """Whether `got` is `want` as a shorter or not yet fully written page shows it: a beginning of it, then zeros."""
    data = got.rstrip(b"\0")
    return want.startswith(data)


def _difference(want: bytes, got: bytes) -> str:
    lengths = f"length {len(got)} instead of {len(want)}; " if len(want) != len(got) else ""
    for at in range(min(len(want), len(got))):
        if want[at] != got[at]:
            cell = at // CELL * CELL
            return f"{lengths}at {at}: {got[cell : cell + CELL]!r} instead of {want[cell : cell + CELL]!r}"
    return lengths + "otherwise equal"


def _first_cells(page: bytes) -> str:
    return repr(page[:CELL]) + " ... " + repr(page[-CELL:])
