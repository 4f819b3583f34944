"""The command line: `anqfs COMMAND`, and `anqfs STORE MOUNTPOINT -o OPTIONS` when mount(8) calls it through mount.fuse3.

Every command imports what it needs when it runs, so that `anqfs --help` and `anqfs status` start fast. Errors are turned into one line
on stderr and an exit code here, and only here.
"""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

import anqfs
from anqfs.cli import (
    api_commands,
    check_commands,
    clone_commands,
    diff_commands,
    export_commands,
    hold_commands,
    key_commands,
    lock_commands,
    output,
    policy_commands,
    quota_commands,
    security_key_commands,
    settings_commands,
    snapshot_commands,
    status_commands,
    tree_delete_commands,
    volume_commands,
    worm_commands,
)
from anqfs.errors import AnqfsError

_TOUR = """An encrypted filesystem with immutable snapshots of any directory.

A short tour:

\b
  head -c 32 /dev/urandom > archive.key
  anqfs mkfs archive.store --key-file archive.key
  anqfs mount archive.store /mnt --key-file archive.key
  anqfs snapshot create /mnt --name first
  ls /mnt/.snapshot/
  anqfs umount /mnt

Every command explains itself: anqfs COMMAND --help.

Exit codes:

\b
  0 done                       6 mount point busy, missing, not empty, no FUSE
  1 another fault              7 not mounted
  2 wrong usage                8 not found
  3 no store there, or one is  9 damaged, another root, a newer format
  4 wrong key                 10 no space
  5 store in use              11 read-only, or a commit failed
                              12 a file server failed
                              13 locked, held or in use
                             130 interrupted
"""

app = typer.Typer(
    name="anqfs",
    help=_TOUR,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 132},
)


def _version(asked: bool) -> None:
    if asked:
        output.say(f"anqfs {anqfs.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Options before the command."""


app.command()(volume_commands.mkfs)
app.command()(volume_commands.mount)
app.command()(volume_commands.umount)
app.command()(status_commands.status)
snapshot_commands.app.command("diff")(diff_commands.diff)
snapshot_commands.app.command("file-diff")(diff_commands.file_diff)
snapshot_commands.app.command("reclaimable")(diff_commands.reclaimable_command)
snapshot_commands.app.command("modify")(lock_commands.modify)
snapshot_commands.app.command("lock")(lock_commands.lock)
snapshot_commands.app.command("unlock")(lock_commands.unlock)
snapshot_commands.app.command("unlock-challenge")(lock_commands.challenge)
snapshot_commands.app.command("hold")(hold_commands.hold)
snapshot_commands.app.command("release")(hold_commands.release)
snapshot_commands.app.command("holds")(hold_commands.holds)
snapshot_commands.app.add_typer(policy_commands.app, name="policy")
app.add_typer(snapshot_commands.app, name="snapshot")
app.command()(clone_commands.clone)
app.add_typer(security_key_commands.app, name="security-key")
app.add_typer(key_commands.app, name="key")
app.add_typer(api_commands.app, name="api")
app.command()(api_commands.serve)
app.add_typer(settings_commands.app, name="settings")
app.add_typer(export_commands.app, name="export")
app.add_typer(quota_commands.app, name="quota")
app.add_typer(worm_commands.app, name="worm")
app.add_typer(tree_delete_commands.app, name="tree-delete")
app.command()(check_commands.check)
app.command()(check_commands.scrub)
app.command()(status_commands.usage)

COMMANDS = frozenset(
    str(command.name or getattr(command.callback, "__name__", "").replace("_", "-")) for command in app.registered_commands
) | frozenset(str(group.name) for group in app.registered_groups)


def mount_helper_arguments(arguments: list[str]) -> tuple[str, str, list[str]] | None:
    """Return (store, mount point, options) when the arguments are those of a mount helper, else None."""
    if len(arguments) < 4 or arguments[0] in COMMANDS or arguments[0].startswith("-"):
        return None
    rest = arguments[2:]
    values = rest[1::2]
    return (arguments[0], arguments[1], values) if len(values) == len(rest) / 2 and set(rest[::2]) == {"-o"} else None


def run(arguments: list[str]) -> int:
    """Run one command line. Returns the exit code; prints errors."""
    helper = mount_helper_arguments(arguments)
    try:
        if helper is not None:
            volume_commands.as_mount_helper(*helper)
            return 0
        code = app(arguments, prog_name="anqfs", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except AnqfsError as error:
        output.fail(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            output.say(str(explain()))
            return 2
        context = getattr(error, "ctx", None)
        where = f": see `{context.command_path} --help`" if context is not None else ""
        output.fail(f"{str(explain()).rstrip('.')}{where}")
        return int(getattr(error, "exit_code", 2))


def main() -> None:
    """Entry point of the console script."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    code = run(sys.argv[1:])
    try:
        output.flush()
    except AnqfsError as error:
        output.fail(str(error))
        code = code or error.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
