"""`anqfs key list|add|remove|rotate`: the key slots of a store, mounted or not."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from anqfs.cli import output
from anqfs.cli.secret_options import KeyFile, NewKeyFile, NewPassphraseFile, PassphraseFile, from_files, obtain, only_one
from anqfs.cli.snapshot_commands import DryRun
from anqfs.control import wire

app = typer.Typer(help="List, add and remove key slots; make a new key generation.", no_args_is_help=True)

Store = Annotated[str, typer.Argument(metavar="STORE", help="The store, or where it is mounted.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command("list")
def listing(store: Store, json: Json = False) -> None:
    """List the key slots. No key is needed.

    Examples:

    \b
      anqfs key list /srv/archive.store
    """
    from anqfs.control import keys

    document = keys.of(store).document()
    if json:
        output.json_document(document)
        return
    _print(document)


def _print(document: dict[str, Any]) -> None:
    rows = [(str(one["slot"]), one["kind"], str(one["iterations"] or "")) for one in document["slots"]]
    output.table(("SLOT", "KIND", "ITERATIONS"), rows)
    output.say(f"{document['generations']} key generation(s), {document['free']} free slot(s)")


@app.command()
def add(
    store: Store,
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    new_key_file: NewKeyFile = None,
    new_passphrase_file: NewPassphraseFile = None,
    json: Json = False,
) -> None:
    """Add a key file or passphrase. The data is not rewritten.

    A store that is not mounted needs one of its present secrets (--key-file, --passphrase-file, or it is asked for). A mounted store is
    changed through its daemon, which has the master key; a present secret that is given is checked all the same.

    Examples:

    \b
      anqfs key add /srv/archive.store --key-file /root/archive.key --new-passphrase-file /root/new
      anqfs key add /archive --new-key-file /root/second.key
    """
    from anqfs.control import keys

    only_one(new_key_file, new_passphrase_file)
    ring = keys.of(store)
    new = from_files(new_key_file, new_passphrase_file)
    ring.unlock(_present(ring, store, key_file, passphrase_file))
    if new is None:
        new = obtain(None, None, f"New passphrase for {wire.shown(store)}", twice=True)
    slot = ring.add(new)
    if json:
        output.json_document({"slot": slot})
    else:
        output.say(f"added key slot {slot}")


@app.command()
def remove(
    store: Store,
    slot: Annotated[int, typer.Argument(metavar="SLOT", min=0, help="The slot's number in `anqfs key list`.")],
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    dry_run: DryRun = False,
) -> None:
    """Remove a key slot. The last one cannot be removed.

    Whoever has a copy of the old superblock and the removed secret can still open what they copied.

    Examples:

    \b
      anqfs key remove /srv/archive.store 1 --key-file /root/archive.key --dry-run
      anqfs key remove /srv/archive.store 1 --key-file /root/archive.key
    """
    from anqfs.control import keys

    ring = keys.of(store)
    ring.unlock(_present(ring, store, key_file, passphrase_file))
    if dry_run:
        keys.check_removal(ring, slot)
        output.say(f"key slot {slot} would be removed")
        return
    ring.remove(slot)
    output.say(f"removed key slot {slot}")


@app.command()
def rotate(store: Store, key_file: KeyFile = None, passphrase_file: PassphraseFile = None) -> None:
    """Make a new key generation for what is written from now on. Old data stays readable and is not rewritten.

    Examples:

    \b
      anqfs key rotate /archive
    """
    from anqfs.control import keys

    ring = keys.of(store)
    ring.unlock(_present(ring, store, key_file, passphrase_file))
    output.say(f"key generation {ring.rotate()} is in use")


def _present(ring: Any, store: str, key_file: str | None, passphrase_file: str | None) -> Any:
    """Return the present secret that is given; ask for it only when the store is not mounted."""
    if ring.is_mounted:
        return from_files(key_file, passphrase_file)
    return obtain(key_file, passphrase_file, f"Passphrase of {wire.shown(store)}")
