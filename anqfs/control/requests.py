"""The bodies of the API's requests: typed, bounded, nothing unknown. Used by `server` and `service`; pure."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

import msgspec

from anqfs.crypto.secrets import KEY_FILE_MAX, KEY_FILE_MIN, Secret
from anqfs.errors import UsageError

_LONGEST_NAME = 255
_LONGEST_PATH = 32760
Node = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]


class RestoreRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Restore `path` of a snapshot in place, or as the new name `name` in the directory `parent`; `check_only`: see whether it can be."""

    snapshot: Node
    path: Annotated[str, msgspec.Meta(max_length=_LONGEST_PATH)] = ""
    in_place: bool = False
    check_only: bool = False
    parent: Node | None = None
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=_LONGEST_NAME)] | None = None


class CloneRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Clone `source`, live or in a snapshot, as the new name `name` in the directory `parent`."""

    source: Node
    parent: Node
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=_LONGEST_NAME)]


class ScrubRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Scrub with at most `rate` MiB/s; 0: no limit."""

    rate: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0


class SettingsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Settings of the volume; what is null stays."""

    snapshot_directory_mode: Annotated[str, msgspec.Meta(max_length=_LONGEST_NAME)] | None = None


class KeyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A secret to add: `kind` is passphrase or key-file, `material` base64."""

    kind: str
    material: str

    def __repr__(self) -> str:
        return f"KeyRequest({self.kind!r})"

    def secret(self) -> Secret:
        """Return the secret. Raises UsageError when it is none."""
        try:
            material = base64.b64decode(self.material, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UsageError("the material is not base64") from error
        if self.kind == "passphrase":
            return Secret.from_passphrase(material)
        if self.kind == "key-file":
            if not KEY_FILE_MIN <= len(material) <= KEY_FILE_MAX:
                raise UsageError(f"a key file holds {KEY_FILE_MIN} to {KEY_FILE_MAX} bytes, not {len(material)}")
            return Secret("key-file", material)
        raise UsageError(f"the kind {self.kind[:40]!a} is neither passphrase nor key-file")
