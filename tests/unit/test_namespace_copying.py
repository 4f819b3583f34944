"""Copies that share data: whole MiB of one file become those of another, and neither changes when the other is written."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from anqfs.namespace import ROOT, Namespace
from anqfs.namespace.check import check
from anqfs.store.schema import WINDOW
from tests.unit.namespace_volume import answer, make_store, opened, work_off


def new_file(ns: Namespace, name: bytes, content: bytes) -> int:
    node = ns.create(1, name, 0o644, ROOT)[0]
    for offset in range(0, len(content), WINDOW):
        ns.write(node, offset, content[offset : offset + WINDOW])
    return node


def content(ns: Namespace, node: int) -> bytes:
    return ns.read(node, 0, ns.attributes(node).size)


def copied(ns: Namespace, source: int, target: int) -> None:
    for index in range(-(-ns.attributes(source).size // WINDOW)):
        ns.copy_window(source, index, target, index)


@pytest.mark.parametrize("size", [0, 1, 4096, 5000, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW + 12345])
def test_a_copy_is_equal_and_takes_no_room(ns: Namespace, size: int) -> None:
    data = random.Random(size).randbytes(size)
    source, target = new_file(ns, b"source", data), new_file(ns, b"target", b"")
    ns.volume.commit(to_stores=True).wait()
    extents = len(ns.volume.raw_extent_ids(0, 1000))
    copied(ns, source, target)
    ns.volume.commit(to_stores=True).wait()
    assert content(ns, target) == data
    assert len(ns.volume.raw_extent_ids(0, 1000)) == extents
    assert ns.attributes(target).allocated == ns.attributes(source).allocated
    assert ns.usage(1).size == 2 * size


def test_neither_file_sees_what_is_written_to_the_other_sealed_or_not(ns: Namespace) -> None:
    data = random.Random(1).randbytes(WINDOW + 100_000)
    source, target = new_file(ns, b"source", data), new_file(ns, b"target", b"")
    copied(ns, source, target)
    ns.write(source, 10, b"in the source")
    ns.write(target, WINDOW + 10, b"in the target")
    ns.volume.commit(to_stores=True).wait()
    ns.write(source, 500_000, b"again in the source")
    ns.write(target, 600_000, b"again in the target")
    mine, other = bytearray(data), bytearray(data)
    for offset, text in ((10, b"in the source"), (500_000, b"again in the source")):
        mine[offset : offset + len(text)] = text
    for offset, text in ((WINDOW + 10, b"in the target"), (600_000, b"again in the target")):
        other[offset : offset + len(text)] = text
    assert content(ns, source) == mine
    assert content(ns, target) == other


def test_holes_are_copied_and_cleared_and_nothing_is_lost_in_the_end(tmp_path: Path) -> None:
    pick = random.Random(5)
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        names = [b"a", b"b", b"c"]
        nodes = [new_file(ns, name, b"") for name in names]
        model = [bytearray() for _ in names]
        snapshot: tuple[int, list[bytes]] | None = None
        for step in range(200):
            one, other = pick.randrange(3), pick.randrange(3)
            kind = pick.choice(["write", "copy", "copy", "clear", "cut", "commit", "then"])
            index = pick.randrange(3)
            if kind == "write":
                text = pick.randbytes(pick.choice([1, 100, 5000, 300_000]))
                offset = pick.randrange(3 * WINDOW)
                ns.write(nodes[one], offset, text)
                model[one].extend(bytes(max(0, offset + len(text) - len(model[one]))))
                model[one][offset : offset + len(text)] = text
            elif kind == "copy":
                done = ns.copy_window(nodes[one], index, nodes[other], (index + 1) % 3)
                part = bytes(model[one][index * WINDOW : (index + 1) * WINDOW])
                assert done == len(part)
                if done:
                    begin, end = (index + 1) % 3 * WINDOW, ((index + 1) % 3 + 1) * WINDOW
                    length = max(len(model[other]), begin + done)
                    model[other].extend(bytes(length - len(model[other])))
                    model[other][begin : min(end, length)] = part + bytes(min(end, length) - begin - len(part))
            elif kind == "clear":
                ns.clear_window(nodes[one], index)
                begin, end = index * WINDOW, min((index + 1) * WINDOW, len(model[one]))
                if begin < end:
                    model[one][begin:end] = bytes(end - begin)
            elif kind == "cut":
                size = pick.randrange(3 * WINDOW)
                ns.set_attributes(nodes[one], size=size, caller=ROOT)
                model[one].extend(bytes(max(0, size - len(model[one]))))
                del model[one][size:]
            elif kind == "commit":
                ns.volume.commit(to_stores=True).wait()
            elif snapshot is None:
                snapshot = (ns.snapshot_create(1).id, [bytes(each) for each in model])
            assert content(ns, nodes[other]) == model[other], (step, kind)
        assert snapshot is not None
        top = ns.snapshot_node(snapshot[0])
        assert [content(ns, ns.lookup(top, name)[0]) for name in names] == snapshot[1]
        assert [content(ns, node) for node in nodes] == model
        work_off(ns)
        ns.volume.commit(to_stores=True).wait()
        assert check(ns.volume).findings == []
        ns.snapshot_delete(snapshot[0])
        for name in names:
            ns.unlink(1, name)
        work_off(ns)
        for _ in range(3):
            ns.volume.commit(to_stores=True).wait()
            ns.create(1, b"%d" % pick.randrange(1 << 60), 0o644, ROOT)
        ns.volume.commit(to_stores=True).wait()
        assert ns.volume.raw_extent_ids(0, 1000) == []
        assert check(ns.volume).findings == []


def test_copies_come_from_snapshots_but_do_not_go_there(ns: Namespace) -> None:
    data = random.Random(2).randbytes(WINDOW)
    source, target = new_file(ns, b"source", data), new_file(ns, b"target", b"")
    then = ns.lookup(ns.snapshot_node(ns.snapshot_create(1).id), b"source")[0]
    ns.set_attributes(source, size=0, caller=ROOT)
    ns.copy_window(then, 0, target, 0)
    assert content(ns, target) == data
    assert answer(lambda: ns.copy_window(target, 0, then, 0)) == errno.EROFS
    assert answer(lambda: ns.clear_window(then, 0)) == errno.EROFS
    assert answer(lambda: ns.copy_window(target, 0, 1, 0)) == errno.EISDIR
    assert answer(lambda: ns.copy_window(1, 0, target, 0)) == errno.EISDIR
    assert answer(lambda: ns.copy_window(target, 0, target, 1 << 43)) == errno.EFBIG
