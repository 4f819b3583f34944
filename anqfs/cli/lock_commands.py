"""`anqfs snapshot modify|lock|unlock|unlock-challenge`: commands of the group that `snapshot_commands` begins."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anqfs.cli import output
from anqfs.cli.snapshot_commands import DryRun, Json, Number, OfMount, daemon_of
from anqfs.control import wire
from anqfs.errors import UsageError

if TYPE_CHECKING:
    from anqfs.control.client import Client
    from anqfs.crypto.signatures import SigningKey

_PRIVATE_MAX = 1 << 16
PrivateKeyFile = Annotated[
    str | None, typer.Option("--private-key-file", metavar="FILE", help="The ECDSA P-256 private key: PEM, DER or OpenSSH's format.")
]


def signing_key(path: str) -> SigningKey:
    """Return the private key in a file; its password is asked for when it has one. Raises UsageError, WrongKey."""
    from anqfs.cli import secret_options
    from anqfs.crypto.secrets import check_private
    from anqfs.crypto.signatures import SigningKey
    from anqfs.errors import WrongKey

    try:
        with open(path, "rb") as stream:
            check_private(path, os.fstat(stream.fileno()))
            material = stream.read(_PRIVATE_MAX)
    except OSError as error:
        raise UsageError(f"{wire.shown(path)}: {error.strerror or error}: name a file that can be read") from error
    try:
        return SigningKey(material)
    except UsageError as error:
        raise UsageError(f"{wire.shown(path)}: {error}") from error
    except WrongKey:
        try:
            password = secret_options.ask(f"password of {os.path.basename(path)}", twice=False)
        except UsageError as error:
            raise UsageError(f"{wire.shown(path)}: its password cannot be asked for here: sign elsewhere and give the signature") from error
        return SigningKey(material, password.material)


def _finish(daemon: Client, number: int, json: bool) -> None:
    one = daemon.get(f"/anqfs/v1/snapshots/{number}")
    if json:
        output.json_document(one)
        return
    lock = f"locked by security key {one['lock_key']}" if one["lock_key"] else "not locked"
    output.say(f"snapshot {number} {_until(one)} and is {lock}")


def _until(one: dict[str, Any]) -> str:
    return f"expires at {one['expires']}" if one["expires"] else "never expires"


def modify(
    number: Number,
    expires: Annotated[str, typer.Option("--expires", metavar="TIME|never", help="When it is deleted, as 2027-01-31T12:00:00Z.")],
    mountpoint: OfMount = None,
    json: Json = False,
) -> None:
    """Change when a snapshot is deleted by itself. A locked one can only be made to expire later.

    Examples:

    \b
      anqfs snapshot modify 17 --expires 2027-01-31T12:00:00Z
      anqfs snapshot modify 17 --expires never
    """
    daemon = daemon_of(mountpoint)
    daemon.call("PATCH", f"/v3/snapshots/{number}", {"expiration": "" if expires == "never" else expires})
    _finish(daemon, number, json)


def lock(
    number: Number,
    key: Annotated[str, typer.Option("--key", metavar="KEY", help="The security key's id or name.")],
    dry_run: DryRun = False,
    mountpoint: OfMount = None,
    json: Json = False,
) -> None:
    """Lock a snapshot. Nobody can delete it then, or make it expire earlier, root included, before it is unlocked.

    It goes at its expiration all the same; one that never expires stays until the owner of the key's private half unlocks it. Make sure
    that you have that half: without it there is no way to unlock.

    Examples:

    \b
      anqfs snapshot lock 17 --key vault --dry-run
      anqfs snapshot lock 17 --key vault
    """
    daemon = daemon_of(mountpoint)
    if not dry_run:
        daemon.post(f"/v3/snapshots/{number}/lock", {"lock_key_ref": key})
        _finish(daemon, number, json)
        return
    one = daemon.get(f"/anqfs/v1/snapshots/{number}")
    chosen = daemon.get(f"/v1/file-system/security/keys/{wire.component(key)}")
    if json:
        output.json_document({**one, "lock_key": int(chosen["id"]), "dry_run": True})
    else:
        name = f"{chosen['id']} ({wire.shown(chosen['name'])})"
        output.say(f"snapshot {number}, which {_until(one)}, would be locked by security key {name}")


def challenge(number: Number, mountpoint: OfMount = None, json: Json = False) -> None:
    """Show what unlocks a snapshot once it is signed. It changes with the snapshot's expiration and with the key.

    Sign it where the private key is, and bring back the signature.

    Examples:

    \b
      anqfs snapshot unlock-challenge 17 > challenge
      openssl dgst -sha256 -sign vault.pem challenge | base64 -w0 > signature
      anqfs snapshot unlock 17 --signature "$(cat signature)"
    """
    found = daemon_of(mountpoint).get(f"/v3/snapshots/{number}/unlock-challenge")
    if json:
        output.json_document(found)
    else:
        output.bare(found["challenge"])


def unlock(
    number: Number,
    private_key_file: PrivateKeyFile = None,
    signature: Annotated[str | None, typer.Option("--signature", metavar="BASE64", help="The signature over the challenge.")] = None,
    mountpoint: OfMount = None,
    json: Json = False,
) -> None:
    """Unlock a snapshot with the private half of the key that locks it, or with a signature that was made with it elsewhere.

    Examples:

    \b
      anqfs snapshot unlock 17 --private-key-file vault.pem
      anqfs snapshot unlock 17 --signature "$(cat signature)"
    """
    if (private_key_file is None) == (signature is None):
        raise UsageError("give --private-key-file or --signature")
    daemon = daemon_of(mountpoint)
    if private_key_file is not None:
        key = signing_key(private_key_file)
        signature = key.sign(daemon.get(f"/v3/snapshots/{number}/unlock-challenge")["challenge"])
    daemon.post(f"/v3/snapshots/{number}/unlock", {"signature": signature})
    _finish(daemon, number, json)
