"""export.toml: what is understood, what is refused and how it is said, and the configuration that is made from it."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from anqfs.errors import NotFound, UsageError
from anqfs.export import ganesha, samba, settings
from anqfs.export.description import Description, Nfs, Smb, parse
from anqfs.export.layout import Layout, escape

WHOLE: dict[str, Any] = {
    "mountpoint": "/archive",
    "volume": "11111111-2222-3333-4444-555555555555",
    "bind": "10.0.0.5",
    "nfs": {
        "versions": ["3", "4.1", "4.2"],
        "last_id": 2,
        "kerberos": {
            "principal": "nfs@files.example.org",
            "keytab": "/etc/nfs.keytab",
            "realm": "EXAMPLE.ORG",
            "users": {"ann@EXAMPLE.ORG": "ann"},
        },
        "export": [
            {"name": "archive", "id": 1, "access": "read-write", "clients": ["10.0.0.0/24", "10.1.0.7"], "squash": "none"},
            {"name": "sealed", "id": 2, "path": "study", "clients": ["0.0.0.0/0"], "security": ["krb5p"]},
        ],
    },
    "smb": {
        "audit": True,
        "share": [
            {"name": "studies", "path": "study", "access": "read-write", "clients": ["10.0.0.0/24"], "users": ["ann"]},
            {"name": "open", "clients": ["0.0.0.0/0"], "encrypt": "desired"},
        ],
    },
}


def changed(where: str, value: Any) -> dict[str, Any]:
    """Return WHOLE with one key changed: `nfs.export.0.name`."""

    def copy(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: copy(each) for key, each in part.items()}
        return [copy(each) for each in part] if isinstance(part, list) else part

    document = copy(WHOLE)
    *above, last = where.split(".")
    part = document
    for step in above:
        part = part[int(step)] if step.isdigit() else part[step]
    part[last] = value
    return document


def test_the_whole_is_understood() -> None:
    description = parse(WHOLE)
    assert description.served() == ["nfs", "smb"]
    assert [description.directory(one) for one in description.nfs.export] == ["/archive", "/archive/study"]


def test_what_is_not_said_is_closed() -> None:
    smallest = parse({"mountpoint": "/a", "volume": "u", "nfs": {"export": [{"name": "n", "id": 1}]}, "smb": {"share": [{"name": "s"}]}})
    (export,), (share,) = smallest.nfs.export, smallest.smb.share
    assert smallest.bind == "127.0.0.1"
    assert (export.access, export.clients, export.squash, export.security) == ("read-only", (), "root", ("sys",))
    assert (share.access, share.clients, share.encrypt) == ("read-only", (), "required")
    assert parse({"mountpoint": "/a", "volume": "u"}).served() == []


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("mountpoint", "archive", "mountpoint: 'archive' is not an absolute path"),
        ("mountpoint", '/a"b', "mountpoint"),
        ("mountpoint", "/a\nb", "mountpoint"),
        ("bind", "eth0", "bind: 'eth0' is no IP address"),
        ("bind", "10.0.0.0/24", "bind"),
        ("bind", "fe80::1%lo;\n}\n", "bind"),
        ("extra", 1, "unknown field `extra`"),
        ("nfs.port", 0, "nfs.port: 0 is no port"),
        ("nfs.port", "2049", "nfs.port: expected `int`, got `str`"),
        ("nfs.versions", [], "nfs.versions"),
        ("nfs.versions", ["4.3"], "nfs.versions[0]"),
        ("nfs.grace_seconds", 181, "nfs.grace_seconds: 181 is not within 1 and 180"),
        ("nfs.kerberos", None, "nfs.kerberos"),
        ("nfs.kerberos.keytab", "etc/keytab", "nfs.kerberos.keytab"),
        ("nfs.kerberos.principal", 'nfs@a" }', "nfs.kerberos.principal"),
        ("nfs.kerberos.principal", "nfs@a\\", "nfs.kerberos.principal"),
        ("nfs.kerberos.users", {"ann": "ann"}, "nfs.kerberos.users"),
        ("nfs.kerberos.users", {"[General]@a": "ann"}, "nfs.kerberos.users"),
        ("nfs.export.0.name", "a b", "nfs.export[0].name"),
        ("nfs.export.0.name", "sealed", "two exports are named sealed"),
        ("nfs.export.0.id", 2, "the same id"),
        ("nfs.export.0.id", 65536, "nfs.export[0].id"),
        ("nfs.export.0.path", "/abs", "nfs.export[0].path"),
        ("nfs.export.0.path", "a/../../etc", "nfs.export[0].path"),
        ("nfs.export.0.clients", ["10.0.0.1/24"], "nfs.export[0].clients: '10.0.0.1/24' is no address or network"),
        ("nfs.export.0.clients", ["*"], "nfs.export[0].clients"),
        ("nfs.export.0.clients", ["fe80::1%; Access_Type = RW; }\nEXPORT {"], "nfs.export[0].clients"),
        ("smb.share.0.clients", ["fe80::1%\nguest ok = yes"], "smb.share[0].clients"),
        ("nfs.export.0.access", "rw", "nfs.export[0].access"),
        ("nfs.export.0.security", ["krb6"], "nfs.export[0].security[0]"),
        ("smb.share.0.name", "homes", "smb.share[0].name: homes means something else"),
        ("smb.share.0.users", ["ann, root"], "smb.share[0].users"),
        ("smb.share.0.encrypt", "yes", "smb.share[0].encrypt"),
        ("smb.workgroup", "a" * 16, "smb.workgroup"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_key(where: str, value: Any, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(changed(where, value))
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_kerberos_needs_its_table() -> None:
    document = changed("nfs.last_id", 2)
    del document["nfs"]["kerberos"]
    with pytest.raises(UsageError, match=r"nfs.export\[1\].security: Kerberos needs a table"):
        parse(document)


def blocks(text: str) -> dict[str, str]:
    """Return the export blocks of a ganesha.conf by their names."""
    parts = text.split("EXPORT {")[1:]
    return {part.split('Pseudo = "/')[1].split('"')[0]: part.split("\n}")[0] for part in parts}


def test_ganesha_is_told_what_the_description_says(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    text = ganesha.configuration(parse(WHOLE), layout)
    exports = blocks(text)
    assert "Squash = No_Root_Squash" in exports["archive"]
    assert "CLIENT { Clients = 10.0.0.0/24, 10.1.0.7; Access_Type = RW; }" in exports["archive"]
    assert "SecType = sys;" in exports["archive"]
    assert 'Path = "/archive/study"' in exports["sealed"] and "Squash = Root_Squash" in exports["sealed"]
    assert "CLIENT { Clients = *; Access_Type = RO; }" in exports["sealed"] and "SecType = krb5p;" in exports["sealed"]
    assert all("\n  Access_Type = None;" in block for block in exports.values())
    for line in (
        "Protocols = 3, 4;",
        "Minor_Versions = 1, 2;",
        "Bind_addr = 10.0.0.5;",
        "Graceless = false;",
        "Dir_Chunk = 0;",
        "Attr_Expiration_Time = 0;",
        "Active_krb5 = true;",
        'PrincipalName = "nfs@files.example.org";',
        'KeytabPath = "/etc/nfs.keytab";',
        f'IdmapConf = "{layout.idmapd_conf}";',
        "Only_Numeric_Owners = true;",
    ):
        assert f"  {line}\n" in text, line
    assert "ann@EXAMPLE.ORG = ann" in settings.texts(layout, parse(WHOLE))[layout.idmapd_conf]
    assert "Active_krb5 = false;" in ganesha.configuration(Description("/a", "u"), layout)
    assert "Bind_addr" not in ganesha.configuration(Description("/a", "u", "0.0.0.0"), layout).replace("No Bind_addr", "")


def test_samba_accepts_what_is_made_for_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    settings.generate(layout, parse(WHOLE))
    done = subprocess.run(["testparm", "-s", layout.smb_conf], capture_output=True, text=True, check=True, timeout=60)
    assert "Loaded services file OK" in done.stderr
    for complaint in ("Unknown parameter", "Ignoring", "WARNING", "ERROR", "deprecated"):
        assert complaint not in done.stderr, done.stderr
    assert samba.configuration(parse(WHOLE), layout) == layout.smb_conf.read_text()


def test_a_persons_comments_and_order_outlive_the_commands(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "conf")
    settings.create(layout, Description("/archive", "u", "127.0.0.1", Nfs(port=12049), Smb(port=1445)))
    text = layout.file.read_text().replace("[smb]", "# mine\n[smb]").replace("port = 12049", "port = 12050 # moved")
    layout.file.write_text(text)
    settings.add(layout, "nfs", {"name": "a", "path": "", "clients": ["10.0.0.1"]})
    settings.add(layout, "nfs", {"name": "b", "path": "b", "clients": []})
    settings.add(layout, "smb", {"name": "a", "path": "", "clients": []})
    assert [one.id for one in settings.read(layout).nfs.export] == [1, 2]
    settings.remove(layout, "nfs", "b")
    description = settings.add(layout, "nfs", {"name": "c", "path": "c", "clients": []})
    assert [(one.name, one.id) for one in description.nfs.export] == [("a", 1), ("c", 3)]
    for name in ("a", "c"):
        settings.remove(layout, "nfs", name)
    assert settings.add(layout, "nfs", {"name": "d", "path": "", "clients": []}).nfs.export[0].id == 4
    assert "# mine\n" in layout.file.read_text() and "# moved" in layout.file.read_text()
    assert settings.read(layout).nfs.port == 12050
    with pytest.raises(UsageError, match="already"):
        settings.add(layout, "smb", {"name": "A", "path": "", "clients": []})
    with pytest.raises(NotFound):
        settings.remove(layout, "smb", "z")


def test_a_change_that_makes_no_sense_leaves_the_file_alone(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "conf")
    settings.create(layout, Description("/archive", "u"))
    before = layout.file.read_bytes()
    with pytest.raises(UsageError, match="clients"):
        settings.add(layout, "nfs", {"name": "a", "path": "", "clients": ["nonsense"]})
    assert layout.file.read_bytes() == before
    layout.file.write_text("[nfs\n")
    with pytest.raises(UsageError, match="is no TOML"):
        settings.read(layout)


def test_each_mount_point_has_a_file_name_of_its_own() -> None:
    points = [b"/a/b", b"/a-b", b"/a=2fb", b"/.a", b"/a b", b"/\xff\n", b"/a.b"]
    names = [escape(point) for point in points]
    assert len(set(names)) == len(points)
    assert names[0] == "a-b" and all("/" not in name and "\\" not in name and name.isascii() and not name.startswith(".") for name in names)


def test_the_servers_files_are_ours_alone_whatever_the_umask_and_whatever_was_there(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        layout = Layout(tmp_path / "strict")
        layout.make()
    finally:
        os.umask(before)
    modes = {directory: stat.S_IMODE(directory.stat().st_mode) for directory in (layout.root, layout.smb, layout.generated)}
    assert list(modes.values()) == [0o711, 0o711, 0o700]
    layout.generated.chmod(0o755)
    layout.make()
    assert stat.S_IMODE(layout.generated.stat().st_mode) == 0o700
    layout.root.chmod(0o777)
    with pytest.raises(UsageError, match="others could change"):
        layout.make()
    layout.root.chmod(0o711)
    os.chown(layout.state, 65534, 65534)
    with pytest.raises(UsageError, match="others could change"):
        layout.make()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    linked = Layout(tmp_path / "linked")
    linked.root.mkdir(0o711)
    linked.state.symlink_to(elsewhere)
    with pytest.raises(UsageError, match="a link"):
        linked.make()
    assert list(elsewhere.iterdir()) == []
