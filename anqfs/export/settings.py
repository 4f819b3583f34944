"""Reading and changing `export.toml`, and making the servers' configuration from it.

Called by the command line and the supervisor; blocking. What only changing needs is imported there: `status` is to be fast.

The file is a person's: changes keep their comments and order. Every change is validated as a whole before it is written, and written
with a rename, so that the file is never half of anything. Changes are made under a lock.
"""

from __future__ import annotations

import fcntl
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anqfs.errors import NotFound, UsageError
from anqfs.export import ganesha, samba
from anqfs.export.description import Description, Kind, parse
from anqfs.export.layout import Layout

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

_LIMIT = 4 << 20
_TABLES: dict[str, str] = {"nfs": "export", "smb": "share"}
_NEW = """\
# What is exported of one volume, and to whom. `anqfs export add` and `remove` change this file and keep its comments; so may you:
# `anqfs export show` says whether it is understood, `anqfs export restart` puts it into effect.

# Where the volume is mounted, and which volume is meant: another one that is mounted there is not served.
mountpoint = ""
volume = ""
# The address the servers listen on, and no other. "0.0.0.0" is every address of this machine.
bind = ""

[nfs]
port = 0
# Version "3" needs rpcbind on this machine.
versions = ["4.0", "4.1", "4.2"]
# After a start, clients have this long to get their opens and locks back before others can take them.
grace_seconds = 90
lease_seconds = 60
# The highest id an export ever had. Ids are in clients' file handles and never come back.
last_id = 0

[smb]
port = 0
workgroup = "WORKGROUP"
# Whether every access is written into state/smb/log/audit.log.
audit = false
"""


def read(layout: Layout) -> Description:
    """Return what the file says. Raises NotFound when there is none, UsageError naming what is wrong in it."""
    return _parsed(layout, _content(layout))


def _content(layout: Layout) -> str:
    try:
        with layout.file.open("rb") as stream:
            data = stream.read(_LIMIT + 1)
    except FileNotFoundError:
        raise NotFound(f"{layout.file}: does not exist: make it with `anqfs export init MOUNTPOINT`") from None
    except OSError as error:
        raise UsageError(f"{layout.file}: {error.strerror}") from error
    if len(data) > _LIMIT:
        raise UsageError(f"{layout.file}: is longer than {_LIMIT} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{layout.file}: is not UTF-8 at byte {error.start}") from error


def _parsed(layout: Layout, content: str) -> Description:
    try:
        return parse(tomllib.loads(content))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{layout.file}: is no TOML: {error}") from error
    except UsageError as error:
        raise UsageError(f"{layout.file}: {error}") from None


def create(layout: Layout, description: Description) -> None:
    """Write a new file without exports. Raises UsageError when there is one already, or for a description that is not sound."""
    import tomlkit

    layout.make()
    with _locked(layout):
        if layout.file.exists():
            raise UsageError(f"{layout.file} exists already: change it, or remove it first")
        document = tomlkit.parse(_NEW)
        document["mountpoint"], document["volume"], document["bind"] = description.mountpoint, description.volume, description.bind
        _table(document, "nfs")["port"] = description.nfs.port
        _table(document, "smb")["port"] = description.smb.port
        _write(layout, document)


def add(layout: Layout, kind: Kind, fields: dict[str, Any]) -> Description:
    """Add an export with these fields; an NFS export gets an id that none ever had. Raises UsageError, NotFound."""
    import tomlkit

    with _locked(layout):
        content = _content(layout)
        description, document = _parsed(layout, content), tomlkit.parse(content)
        if fields["name"].lower() in (name.lower() for name in description.names(kind)):
            raise UsageError(f"{fields['name']}: there is such an {kind} export already: remove it first, or take another name")
        section = _table(document, kind)
        if kind == "nfs":
            number = max([description.nfs.last_id, *(one.id for one in description.nfs.export)]) + 1
            fields = {"name": fields["name"], "id": number, **fields}
            section["last_id"] = number
        if _TABLES[kind] not in section:
            section[_TABLES[kind]] = tomlkit.aot()
        entry = tomlkit.table()
        for key, value in fields.items():
            if value != [] or key == "clients":
                entry[key] = value
        section[_TABLES[kind]].append(entry)
        return _write(layout, document)


def remove(layout: Layout, kind: Kind, name: str) -> Description:
    """Remove an export. Returns the new description. Raises NotFound."""
    import tomlkit

    with _locked(layout):
        content = _content(layout)
        description, document = _parsed(layout, content), tomlkit.parse(content)
        if name not in description.names(kind):
            raise NotFound(f"{name}: no {kind} export has this name: see `anqfs export list`")
        section = _table(document, kind)
        position = description.names(kind).index(name)
        if kind == "nfs":
            section["last_id"] = max(description.nfs.last_id, *(one.id for one in description.nfs.export))
        del section[_TABLES[kind]][position]
        if not section[_TABLES[kind]]:
            del section[_TABLES[kind]]
        return _write(layout, document)


def _table(document: Any, kind: str) -> Any:
    import tomlkit

    if kind not in document:
        document[kind] = tomlkit.table()
    return document[kind]


def _write(layout: Layout, document: TOMLDocument) -> Description:
    import tomlkit

    content = tomlkit.dumps(document)
    description = _parsed(layout, content)
    _replace(layout.file, content)
    generate(layout, description)
    return description


def _replace(path: Path, content: str) -> None:
    new = path.with_name(f"{path.name}.new")
    with os.fdopen(
        os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "w", encoding="utf-8"
    ) as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(new, path)


@contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    if not layout.root.is_dir():
        raise NotFound(f"{layout.root}: does not exist: make it with `anqfs export init MOUNTPOINT`")
    handle = os.open(layout.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def texts(layout: Layout, description: Description) -> dict[Path, str]:
    """Return the configuration files that a description makes."""
    made = {layout.ganesha_conf: ganesha.configuration(description, layout), layout.smb_conf: samba.configuration(description, layout)}
    if description.nfs.kerberos is not None:
        made[layout.idmapd_conf] = ganesha.identities(description.nfs.kerberos)
    return made


def show_snapshots(layout: Layout, mode: str) -> None:
    """Write how SMB shares show `.snapshot`. Raises OSError."""
    text = samba.snapshots(mode)
    if not layout.smb_snapshots_conf.exists() or layout.smb_snapshots_conf.read_text(encoding="utf-8") != text:
        _replace(layout.smb_snapshots_conf, text)


def generate(layout: Layout, description: Description) -> None:
    """Write the servers' configuration. Raises OSError."""
    layout.make()
    for path, text in texts(layout, description).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            _replace(path, text)
