"""`anqfs mkfs`, `mount`, `umount`: making a store, and starting and stopping its daemon."""

from __future__ import annotations

from typing import Annotated

import typer

from anqfs.cli import output
from anqfs.cli.secret_options import KeyFile, PassphraseFile, from_files, obtain, only_one
from anqfs.control import wire

Store = Annotated[str, typer.Argument(metavar="STORE", help="The store: a directory that anqfs makes and owns.")]
MountPoint = Annotated[str, typer.Argument(metavar="MOUNTPOINT", help="An empty directory.")]


def mkfs(store: Store, key_file: KeyFile = None, passphrase_file: PassphraseFile = None) -> None:
    """Make a new, empty encrypted store.

    STORE is made with mode 0700; it may be an empty directory already. Without a file the passphrase is asked for twice on the terminal.
    Nothing can open the store without its key or passphrase: keep a copy of it elsewhere.

    Examples:

    \b
      head -c 32 /dev/urandom > /root/archive.key; chmod 600 /root/archive.key
      anqfs mkfs /srv/archive.store --key-file /root/archive.key
      anqfs mkfs /srv/archive.store
    """
    from anqfs.control import offline

    only_one(key_file, passphrase_file)
    offline.must_be_free(store)
    secret = obtain(key_file, passphrase_file, f"New passphrase for {wire.shown(store)}", twice=True)
    identity = offline.make(store, secret)
    output.say(f"made the store {wire.shown(store)} (uuid {identity}); mount it with `anqfs mount {wire.shown(store)} MOUNTPOINT`")


def mount(
    store: Store,
    mountpoint: MountPoint,
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay; log to stderr; unmount on SIGTERM or Ctrl-C.")] = False,
    option: Annotated[list[str] | None, typer.Option("-o", metavar="OPT,...", help="Mount options, as for mount(8).")] = None,
    expect_root: Annotated[
        str | None,
        typer.Option("--expect-root", metavar="N:HEX", help="Refuse a store whose root digest is another (`anqfs status` shows it)."),
    ] = None,
    fsid_device: Annotated[
        bool, typer.Option("--fsid-device", help="Mount on a small loop device, so that NFS clients' handles outlast a remount.")
    ] = False,
) -> None:
    """Mount a store. Returns when the mount answers; the daemon goes on in the background.

    Options after -o: ro, allow_other (root has it always), nosuid, nodev, noexec, noatime, keyfile=FILE, passphrasefile=FILE,
    expect_root=N:HEX, fsid_device. Those that only mount(8) and systemd read (auto, nofail, _netdev, x-...) are accepted. A comma in a
    value is written as a backslash and a comma.

    A dead mount point that a killed daemon left is cleared first. A store can be mounted once at a time.

    Examples:

    \b
      anqfs mount /srv/archive.store /archive --key-file /root/archive.key
      anqfs mount /srv/archive.store /archive -o ro,noexec --passphrase-file /run/secret
      # in /etc/fstab:
      /srv/archive.store /archive fuse.anqfs keyfile=/root/archive.key,nofail 0 0
    """
    from anqfs.control import launch, options

    wanted = options.parse(option or [])
    only_one(key_file, passphrase_file)
    if key_file is None and passphrase_file is None:
        key_file, passphrase_file = wanted.key_file, wanted.passphrase_file
    if expect_root is not None:
        wanted = wanted._replace(expect_root=options.check_root(expect_root))
    wanted = wanted._replace(fsid_device=wanted.fsid_device or fsid_device)
    order = launch.prepare(store, mountpoint, wanted)
    secret = obtain(key_file, passphrase_file, f"Passphrase of {wire.shown(store)}")
    if foreground:
        raise typer.Exit(launch.stay(order, secret))
    launch.start(order, secret)


def umount(mountpoint: Annotated[str, typer.Argument(metavar="MOUNTPOINT", help="Where the volume is mounted.")]) -> None:
    """Unmount a volume. Returns when everything is durable and the daemon is gone. Its file servers (`anqfs export`) are stopped first.

    Refused with exit code 6 while files are open below the mount point, or while a restore runs. The dead mount point that a killed
    daemon left is cleared.

    Examples:

    \b
      anqfs umount /archive
    """
    from anqfs.control import launch

    launch.unmount(mountpoint)


def as_mount_helper(store: str, mountpoint: str, given: list[str]) -> None:
    """Mount as mount(8) asks through mount.fuse3: `anqfs STORE MOUNTPOINT -o OPTIONS`."""
    from anqfs.control import launch, options

    wanted = options.parse(given)
    order = launch.prepare(store, mountpoint, wanted)
    secret = from_files(wanted.key_file, wanted.passphrase_file)
    launch.start(order, secret if secret is not None else obtain(None, None, f"Passphrase of {wire.shown(store)}"))
