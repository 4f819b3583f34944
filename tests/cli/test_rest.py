"""The REST API on a mounted volume: what it does to files is what programs see through the mount, and the other way round."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from anqfs.control.client import connect

from .conftest import DEADLINE, Bench, lasting

MIB = 1 << 20


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("anqfs", timeout=DEADLINE)
        self.path = path

    def connect(self) -> None:
        self.sock = connect(self.path, DEADLINE)


class Api:
    """The API of one bench's daemon, over its Unix socket."""

    def __init__(self, bench: Bench) -> None:
        (path,) = bench.runtime.glob("*.json")
        self.socket = json.loads(path.read_text())["socket"]

    def raw(self, method: str, target: str, body: Any = None, **headers: str) -> tuple[int, bytes, str | None]:
        """Send a request; return status, body and ETag."""
        connection = _Connection(self.socket)
        try:
            connection.request(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.getheader("etag")
        finally:
            connection.close()

    def call(self, method: str, target: str, body: Any = None, **headers: str) -> tuple[int, Any, str | None]:
        """Send JSON; return status, JSON and ETag."""
        status, data, etag = self.raw(method, target, None if body is None else json.dumps(body), **headers)
        return status, json.loads(data) if data else None, etag

    def ok(self, method: str, target: str, body: Any = None, **headers: str) -> Any:
        """Send JSON, expect success, return JSON."""
        status, value, _ = self.call(method, target, body, **headers)
        assert status < 300, value
        return value

    def refused(self, method: str, target: str, body: Any = None, **headers: str) -> tuple[int, str]:
        """Send JSON, expect a refusal, return its status and name."""
        status, value, _ = self.call(method, target, body, **headers)
        assert status >= 400, value
        return status, value["error_class"]


def ref(path: str) -> str:
    return f"/v1/files/{quote(path, '')}"


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """One mounted volume for the module; each test has a directory of its own."""
    with lasting("anqfs-rest-") as made:
        yield made


@pytest.fixture
def api(bench: Bench) -> Api:
    return Api(bench)


@pytest.fixture
def here(bench: Bench, request: pytest.FixtureRequest) -> Path:
    """A directory in the mount; its path in the volume is `inside(here)`."""
    place = bench.mountpoint / request.node.name[:100]
    place.mkdir()
    return place


def inside(path: Path) -> str:
    return f"/{path.name}"


# --- the kernel and the API see the same


def test_programs_see_at_once_what_the_api_makes_renames_and_deletes(api: Api, here: Path) -> None:
    top = inside(here)
    assert not (here / "new").exists()  # the kernel remembers that, too
    made = api.ok("POST", f"{ref(top)}/entries/", {"name": "new", "action": "CREATE_FILE"})
    assert (here / "new").stat().st_ino == int(made["id"])
    api.ok("POST", f"{ref(top)}/entries/", {"name": "sub", "action": "CREATE_DIRECTORY"})
    api.ok("POST", f"{ref(top + '/sub')}/entries/", {"name": "moved", "action": "RENAME", "old_path": f"{top}/new"})
    assert not (here / "new").exists()
    assert (here / "sub" / "moved").is_file()
    assert sorted(os.listdir(here)) == ["sub"]
    assert api.refused("DELETE", ref(f"{top}/sub")) == (409, "fs_directory_not_empty_error")
    api.ok("DELETE", ref(made["id"]))
    api.ok("DELETE", f"{ref(top)}/entries/sub")
    assert os.listdir(here) == []


def test_programs_read_what_the_api_wrote_and_the_other_way_round(api: Api, here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"from the program")
    assert path.read_bytes() == b"from the program"
    data = ref(f"{inside(here)}/file") + "/data"
    assert api.raw("GET", data)[1] == b"from the program"
    long = os.urandom(2 * MIB + 1000)
    assert api.raw("PUT", data, long)[0] == 200
    assert path.read_bytes() == long and path.stat().st_size == len(long)
    assert api.raw("PATCH", f"{data}?offset=1000", b"patched")[0] == 200
    assert path.read_bytes() == long[:1000] + b"patched" + long[1007:]
    with open(path, "r+b") as stream:
        stream.write(b"still open")
        stream.flush()
        assert api.raw("GET", f"{data}?length=10")[1] == b"still open"
    assert api.raw("PUT", data, b"short")[0] == 200
    assert (path.stat().st_size, path.read_bytes()) == (5, b"short")


def test_a_file_that_a_program_has_open_is_not_written_behind_its_back(api: Api, here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"x" * 5000)
    attributes = ref(f"{inside(here)}/file") + "/info/attributes"
    with open(path, "rb") as stream:
        assert stream.read(1) == b"x"
        for method, target, body in (
            ("PUT", "/data", b"y"),
            ("PATCH", "/data?offset=0", b"y"),
            ("PATCH", "/info/attributes", b'{"size": "7"}'),
            ("PATCH", "/info/attributes", b'{"modification_time": "2020-01-01T00:00:00Z"}'),
            ("POST", "/punch-hole", b'{"offset": "0", "size": "10"}'),
        ):
            status, said, _ = api.raw(method, ref(f"{inside(here)}/file") + target, body)
            assert (status, json.loads(said)["error_class"]) == (409, "fs_sharing_violation_error")
        assert api.ok("PATCH", attributes, {"mode": "0600"})["mode"] == "0600"
        assert os.fstat(stream.fileno()).st_mode & 0o7777 == 0o600
    assert path.read_bytes() == b"x" * 5000
    assert api.raw("PUT", ref(f"{inside(here)}/file") + "/data", b"y")[0] == 200
    assert path.read_bytes() == b"y"


def test_attributes_are_those_of_stat(api: Api, here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"z" * 10_000)
    attributes = ref(f"{inside(here)}/file") + "/info/attributes"
    changes = {
        "mode": "1640",
        "owner_details": {"id_type": "NFS_UID", "id_value": "1234"},
        "group": str((4 << 32) + 99),
        "size": "5000",
        "access_time": "2001-02-03T04:05:06.000000007Z",
        "modification_time": "1999-12-31T23:59:59.999999999Z",
        "creation_time": "1990-01-01T00:00:00Z",
    }
    told = api.ok("PATCH", attributes, changes)
    facts = path.stat()
    assert (facts.st_mode & 0o7777, facts.st_uid, facts.st_gid, facts.st_size) == (0o1640, 1234, 99, 5000)
    assert (facts.st_atime_ns, facts.st_mtime_ns) == (981173106000000007, 946684799999999999)
    assert told["creation_time"] == "1990-01-01T00:00:00.000000000Z"
    assert told["path"] == f"{inside(here)}/file" and told["file_number"] == str(facts.st_ino) and told["owner"] == str((3 << 32) + 1234)
    for wrong in ({"mode": "9"}, {"owner": "500"}, {"size": "-1"}, {"access_time": "x"}, {"extended_attributes": {"hidden": True}}):
        assert api.refused("PATCH", attributes, wrong)[0] == 400
    acl = api.ok("GET", ref(f"{inside(here)}/file").replace("/v1/", "/v2/") + "/info/acl")
    acl["aces"][2]["rights"].append("READ")
    api.ok("PUT", ref(f"{inside(here)}/file").replace("/v1/", "/v2/") + "/info/acl", acl)
    assert path.stat().st_mode & 0o7777 == 0o1644
    acl["aces"][0]["trustee"]["auth_id"] = "513"
    assert api.refused("PUT", ref(f"{inside(here)}/file") + "/info/acl", acl) == (400, "fs_invalid_acl_error")


# --- versions


def test_a_version_that_is_not_the_present_one_is_refused(api: Api, here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"one")
    file = ref(f"{inside(here)}/file")
    _, _, etag = api.call("GET", f"{file}/info/attributes")
    assert etag is not None
    assert api.raw("PUT", f"{file}/data", b"two", If_Match='"another"')[0] == 412
    assert path.read_bytes() == b"one"
    status, _, newer = api.raw("PUT", f"{file}/data", b"two", If_Match=etag)
    assert (status, path.read_bytes()) == (200, b"two")
    assert newer not in (None, etag)
    assert api.refused("PATCH", f"{file}/info/attributes", {"mode": "0600"}, If_Match=etag) == (412, "fs_revision_mismatch_error")
    assert api.refused("DELETE", file, If_Match=etag) == (412, "fs_revision_mismatch_error")
    path.write_bytes(b"by a program")
    assert api.refused("DELETE", file, If_Match=str(newer)) == (412, "fs_revision_mismatch_error")
    snapshot = api.ok("POST", "/v3/snapshots/", {"name_suffix": "x"})
    _, _, version = api.call("GET", f"/v3/snapshots/{snapshot['id']}")
    api.ok("PATCH", f"/v3/snapshots/{snapshot['id']}", {"expiration": "2100-01-01T00:00:00Z"}, If_Match=str(version))
    assert api.refused("DELETE", f"/v3/snapshots/{snapshot['id']}", If_Match=str(version))[0] == 412
    assert api.call("DELETE", f"/v3/snapshots/{snapshot['id']}")[0] == 202


def test_a_rename_is_made_only_into_the_version_of_the_directory_that_the_client_saw(api: Api, here: Path) -> None:
    top = inside(here)
    (here / "from").write_bytes(b"old")
    (here / "into").mkdir()
    listing = f"{ref(top + '/into')}/entries/"
    rename = {"name": "to", "action": "RENAME", "old_path": f"{top}/from", "clobber": True}
    _, _, empty = api.call("GET", listing)
    (here / "into/to").write_bytes(b"by a program")
    assert api.refused("POST", listing, rename, If_Match=str(empty)) == (412, "fs_revision_mismatch_error")
    assert (sorted(os.listdir(here)), (here / "into/to").read_bytes()) == (["from", "into"], b"by a program")
    _, _, seen = api.call("GET", listing)
    api.ok("POST", listing, rename, If_Match=str(seen))
    assert (os.listdir(here), (here / "into/to").read_bytes()) == (["into"], b"old")


# --- data


def test_ranges_ends_and_holes(api: Api, here: Path) -> None:
    data = os.urandom(3 * MIB)
    (here / "file").write_bytes(data)
    target = ref(f"{inside(here)}/file") + "/data"
    for offset, length in ((0, None), (5, 7), (MIB - 3, 6), (3 * MIB - 1, 10), (3 * MIB, 1), (1 << 60, 1), (0, 0), (MIB, 2 * MIB)):
        query = f"?offset={offset}" + ("" if length is None else f"&length={length}")
        assert api.raw("GET", target + query)[1] == data[offset : None if length is None else offset + length]
    assert api.refused("GET", f"{target}?offset=-1")[0] == 400
    assert api.raw("POST", ref(f"{inside(here)}/file") + "/punch-hole", b'{"offset": "100", "size": "2097152"}')[0] == 200
    assert (here / "file").read_bytes() == data[:100] + bytes(2 * MIB) + data[100 + 2 * MIB :]
    assert (here / "file").stat().st_blocks * 512 < 2.2 * MIB
    assert api.raw("PATCH", f"{target}?offset=9223372036854775806", b"ab")[0] == 400
    assert api.refused("GET", ref(inside(here)) + "/data") == (400, "fs_not_a_file_error")


def test_a_copy_that_is_made_in_parts_is_equal(api: Api, here: Path) -> None:
    data = os.urandom(70 * MIB + 77)
    (here / "source").write_bytes(data)
    top = inside(here)
    target = api.ok("POST", f"{ref(top)}/entries/", {"name": "target", "action": "CREATE_FILE"})["id"]
    body: Any = {"source_path": f"{top}/source"}
    rounds = 0
    while body:
        body = api.ok("POST", f"{ref(target)}/copy-chunk", body)
        rounds += 1
    assert rounds == 2
    assert (here / "target").read_bytes() == data
    assert api.ok("GET", f"{ref(top)}/aggregates/")["total_data"] == str(2 * len(data))
    api.ok(
        "POST", f"{ref(target)}/copy-chunk", {"source_path": f"{top}/source", "source_offset": "5", "target_offset": "10", "length": "3"}
    )
    assert (here / "target").read_bytes() == data[:10] + data[5:8] + data[13:]
    for wrong in (
        {},
        {"source_path": top},
        {"source_path": f"{top}/source", "source_id": "1"},
        {"source_path": f"{top}/source", "length": "x"},
    ):
        assert api.refused("POST", f"{ref(target)}/copy-chunk", wrong)[0] == 400
    stale = {"source_path": f"{top}/source", "source_etag": '"x"'}
    assert api.refused("POST", f"{ref(target)}/copy-chunk", stale) == (412, "fs_revision_mismatch_error")


def test_a_reader_of_a_snapshot_that_goes_away_is_cut_off_not_fooled(api: Api, here: Path) -> None:
    (here / "file").write_bytes(os.urandom(64 * MIB))
    number = api.ok("POST", "/v3/snapshots/", {"source_file_id": str(here.stat().st_ino)})["id"]
    (here / "file").unlink()
    connection = _Connection(api.socket)
    try:
        connection.request("GET", f"{ref(inside(here) + '/file')}/data?snapshot={number}")
        answer = connection.getresponse()
        assert answer.getheader("content-length") == str(64 * MIB)
        answer.read(1000)
        api.ok("DELETE", f"/v3/snapshots/{number}")
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
    finally:
        connection.close()
    assert api.ok("GET", "/v1/version")["revision_id"].startswith("anqfs ")


def test_uploads_at_once_into_one_directory(api: Api, here: Path) -> None:
    faults: list[Exception] = []

    def upload(number: int) -> None:
        try:
            file = api.ok("POST", f"{ref(inside(here))}/entries/", {"name": f"file{number}", "action": "CREATE_FILE"})["id"]
            assert api.raw("PUT", f"{ref(file)}/data", bytes([number]) * (MIB + number))[0] == 200
        except Exception as fault:
            faults.append(fault)

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert all(entry.name.startswith("file") for entry in os.scandir(here) if entry.stat() is not None)
        threads[0].join(0.01)
    assert faults == []
    assert {path.name: path.read_bytes() for path in here.iterdir()} == {f"file{n}": bytes([n]) * (MIB + n) for n in range(8)}


# --- directories


def test_a_listing_in_pages_is_whole_and_a_pattern_chooses(api: Api, here: Path) -> None:
    names = {f"image{number:03}.dcm" for number in range(95)} | {"NOTES.txt", "ü", "a b?&#%"}
    for name in names:
        (here / name).touch()
    (here / "sub").mkdir()
    found, target = [], f"{ref(inside(here))}/entries/?limit=10"
    while target:
        page = api.ok("GET", target)
        assert len(page["files"]) <= 10
        found += page["files"]
        target = page["paging"]["next"]
    assert len(found) == len(names) + 1 and {one["name"] for one in found} == names | {"sub"}
    assert {one["path"] for one in found if one["name"] == "sub"} == {f"{inside(here)}/sub/"}
    assert [one["name"] for one in api.ok("GET", f"{ref(inside(here))}/entries/?smb-pattern=notes.*")["files"]] == ["NOTES.txt"]
    assert api.ok("GET", f"{ref(inside(here) + '/a b?&#%')}/info/attributes")["name"] == "a b?&#%"
    acls = api.ok("GET", f"{ref(inside(here))}/entries/?include-acls=true&limit=3")["file_acls"]
    assert len(acls["acl_pool"]) == len(acls["acl_indices"]) == 3
    assert api.refused("GET", f"{ref(inside(here) + '/ü')}/entries/") == (400, "fs_not_a_directory_error")


def test_names_that_are_not_utf_8_are_reached_and_shown(api: Api, here: Path) -> None:
    raw = os.fsencode(here) + b"/caf\xe9"
    with open(raw, "wb") as stream:
        stream.write(b"bytes")
    target = f"{ref(inside(here))[: -0 or None]}%2Fcaf%E9"
    assert api.raw("GET", f"{target}/data")[1] == b"bytes"
    (shown,) = api.ok("GET", f"{ref(inside(here))}/entries/")["files"]
    assert shown["name"] == "caf\udce9"
    moved = {"name": "café", "action": "RENAME", "old_path": shown["path"]}
    api.ok("POST", f"{ref(inside(here))}/entries/", moved)
    assert os.listdir(here) == ["café"]


def test_links_special_files_and_what_has_several_names(api: Api, here: Path) -> None:
    top = inside(here)
    entries = f"{ref(top)}/entries/"
    (here / "file").write_bytes(b"content")
    api.ok("POST", entries, {"name": "hard", "action": "CREATE_LINK", "old_path": f"{top}/file"})
    api.ok("POST", entries, {"name": "soft", "action": "CREATE_SYMLINK", "old_path": "file"})
    device = {"major": 1, "minor": 3}
    kind = "FS_FILE_TYPE_UNIX_CHARACTER_DEVICE"
    api.ok("POST", entries, {"name": "null", "action": "CREATE_UNIX_FILE", "unix_file_type": kind, "major_minor_numbers": device})
    assert (here / "hard").stat().st_nlink == 2 and os.readlink(here / "soft") == "file"
    assert (here / "null").stat().st_rdev == os.makedev(1, 3)
    assert api.refused("DELETE", ref(str((here / "file").stat().st_ino))) == (409, "fs_entry_hardlink_ambiguity_error")
    api.ok("DELETE", ref(f"{top}/hard"))
    assert (here / "file").stat().st_nlink == 1
    assert api.raw("GET", ref(f"{top}/soft") + "/data")[1] == b"file"
    assert api.refused("GET", ref(f"{top}/soft/x") + "/info/attributes") == (400, "fs_not_a_directory_error")
    for wrong in ({"name": "x", "action": "FROB"}, {"name": "a/b", "action": "CREATE_FILE"}, {"name": "x", "action": "CREATE_LINK"}):
        assert api.refused("POST", entries, wrong)[0] == 400
    assert api.refused("POST", entries, {"name": ".", "action": "CREATE_FILE"})[0] == 409
    assert api.refused("POST", entries, {"name": "x" * 256, "action": "CREATE_FILE"}) == (400, "fs_name_size_error")
    assert api.refused("DELETE", ref("/"))[0] == 400
    assert api.refused("GET", ref("/../etc") + "/info/attributes")[0] == 400


def test_what_is_in_snapshots_is_shown_by_path_and_id_and_stays(api: Api, here: Path) -> None:
    top = inside(here)
    (here / "sub").mkdir()
    (here / "sub" / "file").write_bytes(b"then")
    inode = (here / "sub" / "file").stat().st_ino
    snapshot = api.ok("POST", "/v3/snapshots/", {"source_file_id": top, "name_suffix": "s"})
    number = snapshot["id"]
    (here / "sub" / "file").write_bytes(b"now, longer")
    (here / "sub").rename(here / "moved")
    (here / "late").touch()
    for target in (f"{top}/sub/file", str(inode)):
        assert api.raw("GET", f"{ref(target)}/data?snapshot={number}")[1] == b"then"
        told = api.ok("GET", f"{ref(target)}/info/attributes?snapshot={number}")
        assert (told["path"], told["id"], told["size"]) == (f"{top}/sub/file", str(inode), "4")
    assert [one["name"] for one in api.ok("GET", f"{ref(top)}/entries/?snapshot={number}")["files"]] == ["sub"]
    assert api.ok("GET", f"{ref(top)}/aggregates/?snapshot={number}")["total_files"] == "1"
    assert api.ok("GET", f"{ref(top)}/aggregates/")["total_files"] == "2"
    not_covered = (404, "fs_file_not_covered_by_snapshot_error")
    assert api.refused("GET", f"{ref('/')}/info/attributes?snapshot={number}") == not_covered
    assert api.refused("GET", f"{ref(str((here / 'late').stat().st_ino))}/info/attributes?snapshot={number}") == not_covered
    assert api.refused("GET", f"{ref(top)}/info/attributes?snapshot=999999") == (404, "http_not_found_error")
    door = f"{top}/.snapshot/{snapshot['name']}/sub/file"
    assert api.raw("GET", f"{ref(door)}/data")[1] == b"then"
    assert api.refused("DELETE", ref(door)) == (403, "fs_read_only_error")
    assert api.raw("PUT", f"{ref(door)}/data", b"x")[0] == 403
    assert api.ok("POST", f"/v1/files/resolve?snapshot={number}", [str(inode)])[0]["path"] == f"{top}/sub/file"
    assert api.ok("POST", "/v1/files/resolve", [str(inode)])[0]["path"] == f"{top}/moved/file"


def test_aggregates_agree_with_a_walk(api: Api, here: Path) -> None:
    for number in range(12):
        place = here / f"d{number % 3}" / f"e{number % 4}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"f{number}").write_bytes(bytes(1000 * (number + 1)))
    (here / "d0" / "link").symlink_to("x")
    told = api.ok("GET", f"{ref(inside(here))}/aggregates/?order-by=total_files")
    walked = [place for place in here.rglob("*") if not place.is_symlink()]
    files = [place for place in walked if place.is_file()]
    assert told["total_files"] == str(len(files)) and told["total_directories"] == str(len(walked) - len(files))
    assert told["total_data"] == str(sum(place.stat().st_size for place in files)) and told["total_symlinks"] == "1"
    by_name = {one["name"]: one for one in told["files"]}
    assert by_name["d1"]["num_files"] == str(sum(place.is_file() for place in (here / "d1").rglob("*")))
    assert len(api.ok("GET", f"{ref(inside(here))}/aggregates/?max-entries=2&order-by=total_blocks")["files"]) == 2
    below = api.ok("GET", f"{ref(inside(here))}/recursive-aggregates/?max-depth=2")
    assert below[0]["path"] == f"{inside(here)}/" and len(below) == 4
    assert api.refused("GET", f"{ref(inside(here))}/aggregates/?order-by=x")[0] == 400


def test_snapshots_are_listed_by_what_they_are(api: Api, here: Path) -> None:
    numbers = [api.ok("POST", "/v3/snapshots/", {"source_file_id": str(here.stat().st_ino), "expiration": ""})["id"] for _ in range(3)]
    told = {one["id"]: one for one in api.ok("GET", "/v4/snapshots/status/")["entries"]}
    assert told[numbers[0]]["source_file_path"] == f"{inside(here)}/" and told[numbers[0]]["owners"] == []
    assert told[numbers[0]]["expiration"] == ""
    assert set(numbers) <= {one["id"] for one in api.ok("GET", "/v3/snapshots/?filter=exclude_in_delete")["entries"]}
    unlocked = api.ok("GET", "/v4/snapshots/status/?filter=api_snapshots_exclude_in_delete,api_snapshots_exclude_locked")
    assert set(numbers) <= {one["id"] for one in unlocked["entries"]}
    assert api.ok("GET", "/v4/snapshots/status/?filter=api_snapshots_exclude_not_locked")["entries"] == []
    for number in numbers:
        assert api.call("DELETE", f"/v3/snapshots/{number}")[0] == 202
    assert not set(numbers) & {one["id"] for one in api.ok("GET", "/v3/snapshots/?filter=exclude_in_delete")["entries"]}


def test_the_volume_has_a_name_and_its_keys_a_state(api: Api) -> None:
    _, _, etag = api.call("GET", "/v1/cluster/settings")
    assert api.ok("PUT", "/v1/cluster/settings", {"cluster_name": "archive-1"}, If_Match=str(etag)) == {"cluster_name": "archive-1"}
    assert api.refused("PUT", "/v1/cluster/settings", {"cluster_name": "archive-2"}, If_Match=str(etag))[0] == 412
    for wrong in ("x", "-ab", "a" * 16, "a b"):
        assert api.refused("PUT", "/v1/cluster/settings", {"cluster_name": wrong})[0] == 400
    api.ok("POST", "/v2/encryption/rotate-keys", {})
    assert api.ok("GET", "/v2/encryption/key-store/status")["last_key_rotation_time"].startswith("20")
    assert api.refused("POST", "/v2/encryption/rotate-keys", {"key_id": "x"}) == (400, "encryption_config_error")
