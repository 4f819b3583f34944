"""The records: every key and every value that a volume's record store holds. This module is the specification, `administration` that
of the values in the last part of the table.

Keys are bytes that sort as readdir, range scans and version look-ups need them: one letter, then big-endian integers. Values are
frozen msgspec structs encoded as MessagePack arrays (fields may only be appended, with defaults), sealed by the store.

A capital letter holds the live version of a record, the small letter of the same name its past versions. A past version's key is the
live key with the small letter and `last`, the newest epoch in which it is seen, appended as 8 bytes; it is valid for the epochs
birth..last. So the version at epoch e is the first past key >= (live key, e) if its birth <= e, else the live one if its birth <= e.

| key                          | value                                                                        |
|------------------------------|------------------------------------------------------------------------------|
| `I` ino8                     | Inode                                                                        |
| `D` parent8 hash16           | Dirent                                                                       |
| `W` ino8 window8             | Window: the map of one aligned MiB of a file; absent = hole                  |
| `X` ino8 hash16              | Xattr                                                                        |
| `U` ino8                     | Usage: recursive totals of a directory                                       |
| `i d w x u` ... last8        | past versions of the same                                                    |
| `S` snapshot8                | Snapshot                                                                     |
| `s` ino8 snapshot8           | Mark: index of snapshots by directory                                        |
| `L` snapshot8 number8        | Dead: a past record whose newest needer is this snapshot                     |
| `N` ino8 epoch8 number8      | Changed: since the snapshot of that epoch, a child (by its ino) or a MiB changed |
| `R` extent8                  | References: count of window versions that use an extent; only when above 1   |
| `V` view3                    | View: a snapshot entered through one directory                               |
| `v` snapshot8 ino8           | ViewNumber: index of views                                                   |
| `O` ino8                     | Orphan: an inode without a name, open or being reclaimed                     |
| `G` uid8 day8                | OwnerTotals: live files of an owner whose data changed last on a day         |
| `J` number8                  | CloneJob: a clone that is being made                                         |
| `C` name                     | Counter or another single value (see NAMES below)                            |
| `K` number4                  | SealingKey: unsealed salt and generation (store/ only)                       |
| `F` number8                  | Frees: extents to delete once this record is durable (store/ only)           |
|                              | *in `administration`:*                                                       |
| `Q` ino8                     | Quota: the limit of a directory                                              |
| `T` ino8                     | TreeDelete: a directory that is being deleted with all below it              |
| `A` user8                    | ApiUser: a user of the API with the tokens                                   |
| `P` policy8                  | Policy: when snapshots of a directory are taken by themselves                |
| `Y` key8                     | SecurityKey: a public key that unlocks snapshots                             |
| `B` snapshot8 hold8          | Hold: somebody who needs a snapshot, which can be neither deleted nor changed |
"""

from __future__ import annotations

from struct import Struct as _Packer

import msgspec

EPOCH_MAX = (1 << 64) - 1
INO_BITS = 40
INO_MAX = (1 << INO_BITS) - 1
ROOT_INO = 1
WINDOW = 1 << 20
"""Bytes of a file that one Window record maps, and the most plaintext that one extent holds."""
INLINE_MAX = 4096
"""A window whose data ends within this many bytes is kept inside its record, or shares an extent with other such windows."""

COUNTER_INO = b"Cino"
COUNTER_EPOCH = b"Cepoch"
COUNTER_SNAPSHOT = b"Csnapshot"
COUNTER_VIEW = b"Cview"
COUNTER_DEAD = b"Cdead"
COUNTER_EXTENT = b"Cextent"
COUNTER_CHANGES = b"Cchanges"
"""The first epoch all of whose changes are in the change index: of snapshots before it, not all that followed is recorded."""
OWNERS = b"Cowners"
"""Present in volumes that keep OwnerTotals."""
ROOT_DIGEST = b"Croot"
"""NAMES: the `C` records that hold a Counter (`administration` has more), and the volume root digest (RootDigest)."""

_ONE = _Packer(">cQ")
_TWO = _Packer(">cQQ")
_THREE = _Packer(">cQQQ")
_NAMED = _Packer(">cQ16s")
_LAST = _Packer(">Q")


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Any record value."""


class Inode(Record, frozen=True, array_like=True, gc=False):
    """One version of an inode. Times are ns since 1970 and may be negative; atime is what utimes set, reads do not move it."""

    birth: int
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    """Bytes; for a directory the number of its entries; for a symlink the length of its target."""
    allocated: int
    """Bytes of file data held (holes do not count)."""
    atime: int
    mtime: int
    ctime: int
    btime: int
    floor: int = 0
    """No snapshot newer than this epoch needs the inode for a link that is gone."""
    flags: int = 0
    """HAS_XATTRS, HAS_ACCESS_ACL, HAS_DEFAULT_ACL."""
    rdev: int = 0
    target: bytes = b""
    links: tuple[tuple[int, bytes], ...] = ()
    """(parent inode, name hash) of each name. A directory has exactly one; the root has none."""
    cut: int = 0
    cut_epoch: int = 0
    """Windows from number `cut` on that were born before `cut_epoch` were truncated away and wait to be removed: they read as holes."""
    retained: int = 0
    """File lock (WORM): nothing about the inode may change before this time, ns since 1970; 0 = never was locked."""
    legal_hold: bool = False
    """File lock (WORM): nothing about the inode may change as long as this is set."""


HAS_XATTRS = 1
HAS_ACCESS_ACL = 2
HAS_DEFAULT_ACL = 4
HAS_CAPABILITY = 8


class Dirent(Record, frozen=True, array_like=True, gc=False):
    """A name in a directory. `kind` is the S_IFMT bits of the inode's mode."""

    birth: int
    name: bytes
    ino: int
    kind: int


class Window(Record, frozen=True, array_like=True, gc=False):
    """Where the data of one aligned MiB is: either `inline`, bytes from the window's start, or `pieces`, or neither; the rest is a hole.

    A piece is (offset in the window, length, extent id, offset in the extent, sealing key number), sorted, never overlapping.
    """

    birth: int
    inline: bytes = b""
    pieces: tuple[tuple[int, int, int, int, int], ...] = ()


class Xattr(Record, frozen=True, array_like=True, gc=False):
    """An extended attribute."""

    birth: int
    name: bytes
    value: bytes


class Usage(Record, frozen=True, array_like=True, gc=False):
    """Recursive totals below a directory, itself not counted. A file with several links counts in each directory that names it."""

    birth: int
    size: int = 0
    allocated: int = 0
    files: int = 0
    directories: int = 0
    symlinks: int = 0
    others: int = 0
    changed: int = 0
    """The newest change time (ns since 1970) below the directory, itself not counted; removals do not take it back. 0: not known."""


class Snapshot(Record, frozen=True, array_like=True, gc=False):
    """A snapshot of the tree below `root` as it was at the end of `epoch`."""

    id: int
    name: bytes
    root: int
    epoch: int
    created: int
    expires: int = 0
    """ns since 1970; 0 = never."""
    state: int = 0
    """0 live, 1 in_delete."""
    version_second: int = 0
    """By which Previous Versions knows the snapshot, since 1970; 0 = the second of `created`."""
    policy: int = 0
    """The policy that took it, even if that is gone by now; 0 = none."""
    lock_key: int = 0
    """The security key that locks it; 0 = it is not locked."""
    locks: int = 0
    """How often it was locked: part of the challenge that unlocks it, so that no signature does it twice."""


class Mark(Record, frozen=True, array_like=True, gc=False):
    """An index entry that carries only an epoch."""

    epoch: int


class Dead(Record, frozen=True, array_like=True, gc=False):
    """The past record with this key is needed by the snapshot whose list this is on. `ino` is the inode it belongs to."""

    key: bytes
    ino: int


class Changed(Record, frozen=True, array_like=True, gc=False):
    """An entry of the change index; its key says all. Of a directory: `number` is a child's inode that was, or has something below it that
    was, changed, named or unnamed. Of a file: `number` is a window from WINDOWS_UNRECORDED on that was changed.

    `epoch` is that of the newest live snapshot that showed the directory (file) then; its dead list names the first 17 bytes of the key.
    """


WINDOWS_UNRECORDED = 64
"""Changes of a file's windows below this number are not in the change index: so few are compared faster."""


class References(Record, frozen=True, array_like=True, gc=False):
    count: int


class View(Record, frozen=True, array_like=True, gc=False):
    """Node ids of view v are `v << 40 | ino`: the tree of one snapshot, entered through the directory `entry`.

    Bit 40 of `entry` is set when it was through `.snapshot/@GMT` of the directory rather than `.snapshot`.
    """

    snapshot: int
    entry: int
    generation: int = 0


class ViewNumber(Record, frozen=True, array_like=True, gc=False):
    view: int


class Orphan(Record, frozen=True, array_like=True, gc=False):
    """An inode without a name, or one with windows that were truncated away. `next_window`: windows below it are reclaimed."""

    next_window: int = 0


class OwnerTotals(Record, frozen=True, array_like=True, gc=False):
    """Live files, each counted once, directories not: bytes that they show, bytes that they hold, and how many there are."""

    size: int = 0
    allocated: int = 0
    files: int = 0


class CloneJob(Record, frozen=True, array_like=True, gc=False):
    """A clone being made under the temporary `name` in the directory `parent`. It goes away with what was made when nobody goes on.

    `name` is empty once the clone has its own.
    """

    parent: int
    name: bytes
    snapshot: int = 0
    """A snapshot taken for it alone; 0 for none."""
    made: int = 0
    """The inode that was made under `name`; 0 before that. Anything else of that name is somebody else's."""


class Counter(Record, frozen=True, array_like=True, gc=False):
    value: int


class RootDigest(Record, frozen=True, array_like=True, gc=False):
    """MSet-Add-Hash (Clarke et al., 2003) over every other sealed record: the sum mod 2**256 of their HMAC-SHA-256."""

    commit: int
    digest: bytes
    time: int = 0
    """ns since 1970 of the commit."""


class SealingKey(Record, frozen=True, array_like=True, gc=False):
    generation: int
    salt: bytes


class Frees(Record, frozen=True, array_like=True, gc=False):
    extents: tuple[int, ...]


class ScrubState(Record, frozen=True, array_like=True, gc=False):
    """How far the online scrub came (`Cscrub`)."""

    position: bytes = b""
    passes: int = 0
    started: int = 0
    finished: int = 0
    records: int = 0
    extents: int = 0
    size: int = 0
    damaged: tuple[bytes, ...] = ()


SCRUB = b"Cscrub"


def inode_key(ino: int) -> bytes:
    """Return the live key of an inode."""
    return _ONE.pack(b"I", ino)


def dirent_key(parent: int, name_hash: bytes) -> bytes:
    """Return the live key of a name. `name_hash` is 16 bytes (crypto.folding)."""
    return _NAMED.pack(b"D", parent, name_hash)


def window_key(ino: int, window: int) -> bytes:
    """Return the live key of a file's window number `window` (byte offset // WINDOW)."""
    return _TWO.pack(b"W", ino, window)


def xattr_key(ino: int, name_hash: bytes) -> bytes:
    """Return the live key of an extended attribute."""
    return _NAMED.pack(b"X", ino, name_hash)


def usage_key(ino: int) -> bytes:
    """Return the live key of a directory's totals."""
    return _ONE.pack(b"U", ino)


def snapshot_key(snapshot: int) -> bytes:
    """Return the key of a snapshot."""
    return _ONE.pack(b"S", snapshot)


def mark_key(ino: int, snapshot: int) -> bytes:
    """Return the key of a directory's index entry for a snapshot."""
    return _TWO.pack(b"s", ino, snapshot)


def dead_key(snapshot: int, number: int) -> bytes:
    """Return the key of one entry of a snapshot's dead list."""
    return _TWO.pack(b"L", snapshot, number)


def changed_key(ino: int, epoch: int, number: int) -> bytes:
    """Return the key of an entry of the change index."""
    return _THREE.pack(b"N", ino, epoch, number)


def changed_prefix(ino: int, epoch: int) -> bytes:
    """Return what the keys of all changes of a directory or file since the snapshot of an epoch begin with."""
    return _TWO.pack(b"N", ino, epoch)


def references_key(extent: int) -> bytes:
    """Return the key of an extent's reference count."""
    return _ONE.pack(b"R", extent)


def owner_key(uid: int, day: int) -> bytes:
    """Return the key of an owner's files of one day (mtime // 86,400 s, since 1970, from -2**32 up)."""
    return _TWO.pack(b"G", uid, day + (1 << 32))


def clone_key(number: int) -> bytes:
    """Return the key of a clone in the making."""
    return _ONE.pack(b"J", number)


def view_key(view: int) -> bytes:
    """Return the key of a view (24 bits)."""
    return b"V" + view.to_bytes(3, "big")


def view_number_key(snapshot: int, entry: int) -> bytes:
    """Return the key of the index from (snapshot, entry directory) to a view."""
    return _TWO.pack(b"v", snapshot, entry)


def orphan_key(ino: int) -> bytes:
    """Return the key of an orphan."""
    return _ONE.pack(b"O", ino)


def past_key(live: bytes, last: int) -> bytes:
    """Return the key of the past version of the record `live` that is seen up to epoch `last`."""
    return bytes((live[0] | 0x20,)) + live[1:] + _LAST.pack(last)


def live_key(past: bytes) -> tuple[bytes, int]:
    """Return the live key and `last` of a past version's key."""
    return bytes((past[0] & ~0x20,)) + past[1:-8], _LAST.unpack(past[-8:])[0]


def prefix_end(prefix: bytes) -> bytes:
    """Return the first key after all keys that begin with `prefix`, whose last byte is not 0xff, or that of the shortest such prefix."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,))
