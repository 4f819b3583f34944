"""`anqfs security-key add|list|show|modify|replace-challenge|replace|delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from anqfs.cli import output
from anqfs.cli.lock_commands import PrivateKeyFile, signing_key
from anqfs.cli.removal import about_to_go
from anqfs.cli.snapshot_commands import DryRun, Json, OfMount, daemon_of
from anqfs.control import wire
from anqfs.errors import SecurityKeyInUse, UsageError

if TYPE_CHECKING:
    from anqfs.control.client import Client

app = typer.Typer(help="Public keys whose owners can unlock locked snapshots.", no_args_is_help=True)

_KEYS = "/v1/file-system/security/keys"
_PUBLIC_MAX = 1 << 16
Ref = Annotated[str, typer.Argument(metavar="KEY", help="The key's id or name.")]


def _place(ref: str) -> str:
    return f"{_KEYS}/{wire.component(ref)}"


def _usages(daemon: Client, ref: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    target = f"{_place(ref)}/usages"
    while target:
        page = daemon.get(target)
        found += page["usages"]
        target = page["paging"]["next"]
    return found


def _public(path: str) -> str:
    try:
        with open(path, encoding="ascii") as stream:
            return stream.read(_PUBLIC_MAX)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{wire.shown(path)}: is no public key that can be read: {error}") from error


def _print(found: list[dict[str, Any]]) -> None:
    rows = [(one["id"], one["name"], "disabled" if one["disabled"] else "", one["comment"], one["public_key"]) for one in found]
    output.table(("ID", "NAME", "", "COMMENT", "PUBLIC KEY"), rows)


def _finish(key: dict[str, Any], json: bool) -> None:
    output.json_document(key) if json else _print([key])


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is called: not only digits.")],
    private_key_file: PrivateKeyFile = None,
    public_key_file: Annotated[
        str | None, typer.Option("--public-key-file", metavar="FILE", help="The public key: PEM, or the base64 of DER.")
    ] = None,
    signature: Annotated[
        str | None, typer.Option("--signature", metavar="BASE64", help="With a public key: the private half's signature over NAME.")
    ] = None,
    comment: Annotated[str, typer.Option("--comment", help="For people.")] = "",
    mountpoint: OfMount = None,
    json: Json = False,
) -> None:
    """Add a public key. The volume keeps nothing else of it: a private key that is given only proves that there is one.

    Examples:

    \b
      openssl ecparam -name prime256v1 -genkey -noout -out vault.pem
      anqfs security-key add vault --private-key-file vault.pem --comment "in the safe"
    \b
      printf vault | openssl dgst -sha256 -sign vault.pem | base64 -w0 > signature
      openssl ec -in vault.pem -pubout -out vault.pub
      anqfs security-key add vault --public-key-file vault.pub --signature "$(cat signature)"
    """
    if private_key_file is not None and public_key_file is None and signature is None:
        key = signing_key(private_key_file)
        public, signature = key.public, key.sign(name)
    elif private_key_file is None and public_key_file is not None and signature is not None:
        public = _public(public_key_file)
    else:
        raise UsageError("give --private-key-file, or --public-key-file and --signature")
    body = {"name": name, "public_key": public, "verification_signature": signature, "comment": comment}
    _finish(daemon_of(mountpoint).post(f"{_KEYS}/", body), json)


@app.command("list")
def listing(mountpoint: OfMount = None, json: Json = False) -> None:
    """List all keys.

    Examples:

    \b
      anqfs security-key list
    """
    found = daemon_of(mountpoint).get(f"{_KEYS}/")["entries"]
    output.json_document(found) if json else _print(found)


@app.command()
def show(ref: Ref, mountpoint: OfMount = None, json: Json = False) -> None:
    """Show a key, the snapshots that it locks and the policies that lock with it.

    Examples:

    \b
      anqfs security-key show vault
    """
    daemon = daemon_of(mountpoint)
    key, usages = daemon.get(_place(ref)), _usages(daemon, ref)
    if json:
        output.json_document({**key, "usages": usages})
        return
    output.facts(
        (
            ("id", key["id"]),
            ("name", key["name"]),
            ("comment", key["comment"]),
            ("state", "disabled: locks nothing more, and still unlocks" if key["disabled"] else "enabled"),
            ("public key", key["public_key"]),
            ("locks snapshots", _ids(usages, "SNAPSHOT")),
            ("is used by policies", _ids(usages, "SNAPSHOT_POLICY")),
        )
    )


def _ids(usages: list[dict[str, str]], kind: str) -> str:
    return ", ".join(one["id"] for one in usages if one["type"] == kind) or "none"


@app.command()
def modify(
    ref: Ref,
    name: Annotated[str | None, typer.Option("--name", help="Another name.")] = None,
    comment: Annotated[str | None, typer.Option("--comment", help="Another comment.")] = None,
    enabled: Annotated[
        bool | None, typer.Option("--enable/--disable", help="Whether it may lock snapshots; what it has locked it unlocks in any case.")
    ] = None,
    mountpoint: OfMount = None,
    json: Json = False,
) -> None:
    """Rename, comment, disable or enable a key. Challenges that were given out before are void then.

    Examples:

    \b
      anqfs security-key modify vault --disable
      anqfs security-key modify vault --name old-vault --comment "until 2027"
    """
    changes = {"name": name, "comment": comment, "disabled": None if enabled is None else not enabled}
    body = {field: value for field, value in changes.items() if value is not None}
    if not body:
        raise UsageError("nothing is to be changed: say what")
    _finish(daemon_of(mountpoint).call("PATCH", _place(ref), body), json)


@app.command("replace-challenge")
def challenge(ref: Ref, mountpoint: OfMount = None, json: Json = False) -> None:
    """Show what both a key and the one that is to replace it must sign.

    Examples:

    \b
      anqfs security-key replace-challenge vault > challenge
    """
    found = daemon_of(mountpoint).get(f"{_place(ref)}/key-replacement-challenge")
    if json:
        output.json_document(found)
    else:
        output.bare(found["challenge"])


@app.command()
def replace(
    ref: Ref,
    old_private_key_file: Annotated[str | None, typer.Option("--old-private-key-file", metavar="FILE", help="The old private key.")] = None,
    new_private_key_file: Annotated[str | None, typer.Option("--new-private-key-file", metavar="FILE", help="The new private key.")] = None,
    old_signature: Annotated[str | None, typer.Option("--old-signature", metavar="BASE64", help="The old key's signature.")] = None,
    new_signature: Annotated[str | None, typer.Option("--new-signature", metavar="BASE64", help="The new key's signature.")] = None,
    new_public_key_file: Annotated[str | None, typer.Option("--new-public-key-file", metavar="FILE", help="The new public key.")] = None,
    mountpoint: OfMount = None,
    json: Json = False,
) -> None:
    """Replace a key by another one. Its name and what it locks stay; the old private key unlocks nothing from then on.

    Examples:

    \b
      anqfs security-key replace vault --old-private-key-file vault.pem --new-private-key-file vault2.pem
    """
    if (old_private_key_file is None) == (old_signature is None):
        raise UsageError("give --old-private-key-file or --old-signature")
    if (new_private_key_file is None) == (new_signature is None or new_public_key_file is None):
        raise UsageError("give --new-private-key-file, or --new-public-key-file and --new-signature")
    daemon = daemon_of(mountpoint)
    message = daemon.get(f"{_place(ref)}/key-replacement-challenge")["challenge"]
    if old_private_key_file is not None:
        old_signature = signing_key(old_private_key_file).sign(message)
    if new_private_key_file is not None:
        key = signing_key(new_private_key_file)
        public, new_signature = key.public, key.sign(message)
    else:
        public = _public(str(new_public_key_file))
    body = {
        "replacement_key": public,
        "old_key_verification_signature": old_signature,
        "replacement_key_verification_signature": new_signature,
    }
    _finish(daemon.post(f"{_place(ref)}/replace", body), json)


@app.command()
def delete(ref: Ref, dry_run: DryRun = False, mountpoint: OfMount = None, json: Json = False) -> None:
    """Delete a key that locks nothing and that no policy uses.

    Examples:

    \b
      anqfs security-key delete vault --dry-run
      anqfs security-key delete vault
    """
    daemon = daemon_of(mountpoint)
    key = about_to_go(lambda: daemon.get(_place(ref)), lambda: {"id": ref, "name": "(damaged)"})
    if not dry_run:
        daemon.delete(_place(ref))
    elif usages := _usages(daemon, ref):
        raise SecurityKeyInUse(f"security key {key['name']!a} is used {len(usages)} times: `anqfs security-key show` lists all")
    if json:
        output.json_document({**key, "dry_run": dry_run})
    elif dry_run:
        output.say(f"security key {key['id']} {wire.shown(key['name'])} would be deleted")
