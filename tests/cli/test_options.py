"""Mount options as mount(8), fstab and people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anqfs.control.options import Options, parse, split
from anqfs.errors import UsageError

ROOT = "12:" + "ab" * 32


def test_nothing_asked_for() -> None:
    assert parse([]) == Options()


def test_what_mount_fuse3_passes_for_root() -> None:
    found = parse(["rw,keyfile=/root/k,dev,suid"])
    assert (found.read_only, found.key_file, found.kernel) == (False, "/root/k", ("dev", "suid"))


def test_what_fstab_and_systemd_say_is_accepted() -> None:
    everything = (
        "defaults,auto,noauto,nofail,_netdev,x-systemd.automount,x-systemd.requires=a.service,X-mount.mkdir=0755,default_permissions"
    )
    assert parse([everything]) == Options()


def test_later_options_win() -> None:
    assert parse(["ro,rw"]).read_only is False
    assert parse(["rw", "ro"]).read_only is True
    assert parse(["suid,nosuid"]).kernel == ("nosuid",)
    assert parse(["noexec,exec"]).kernel == ("exec",)


def test_user_means_nosuid_nodev_noexec() -> None:
    assert set(parse(["user,rw"]).kernel) == {"nosuid", "nodev", "noexec"}
    assert set(parse(["user=ann"]).kernel) == {"nosuid", "nodev", "noexec"}
    assert parse(["users,exec"]).kernel.count("exec") == 1


def test_values_may_hold_commas_equals_signs_and_backslashes() -> None:
    assert parse([r"keyfile=/a\,b=c\\d"]).key_file == r"/a,b=c\d"
    assert parse(["passphrasefile=/x=y"]).passphrase_file == "/x=y"


def test_a_pinned_root() -> None:
    assert parse([f"expect_root={ROOT.upper()}"]).expect_root == ROOT


@pytest.mark.parametrize(
    "junk",
    [
        "nonsense",
        "keyfile",
        "keyfile=",
        "key_file=/x",
        "ro=1",
        "allow_other=1",
        "expect_root=1:2",
        "max_read=4096",
        "io_uring",
        "RO",
        "fsname=x",
        "user_id=0",
    ],
)
def test_anything_else_is_refused_by_name(junk: str) -> None:
    with pytest.raises(UsageError):
        parse([junk])


@given(st.lists(st.text(min_size=1), max_size=5))
def test_split_undoes_escaping(parts: list[str]) -> None:
    text = ",".join(part.replace("\\", "\\\\").replace(",", "\\,") for part in parts)
    assert split(text) == parts


@given(st.text())
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        found = parse([text])
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(found, Options)
