"""NFS with Kerberos: who has no ticket, or comes without Kerberos, gets nothing; who has one is that user on the file server."""

from __future__ import annotations

import errno

import pytest

from . import guest
from .kerberos import PASSWORD
from .site import STRANGER_UID, UID, Site


@pytest.mark.parametrize("version", ["3", "4.1", "4.2"])
def test_a_krb5p_export_refuses_a_client_without_kerberos(site: Site, version: str) -> None:
    with pytest.raises(OSError) as refused, site.nfs(version, "sealed", security="sys"):
        pass
    assert refused.value.errno in (errno.EPERM, errno.EACCES)


@pytest.mark.parametrize("security", ["krb5", "krb5i"])
def test_a_krb5p_export_refuses_kerberos_without_encryption(site: Site, security: str) -> None:
    with pytest.raises(OSError) as refused, site.nfs("4.1", "sealed", security=security):
        pass
    assert refused.value.errno in (errno.EPERM, errno.EACCES)


def test_a_user_with_a_ticket_writes_as_that_user_and_one_without_is_refused(site: Site) -> None:
    private = site.files / "sealed" / "private"
    private.mkdir()
    private.chmod(0o777)
    with site.nfs("4.1", "sealed", security="krb5p") as target:
        there = f"{target}/private"
        assert "sec=krb5p" in site.machine.call("mount_options", target).split(" ")[1].split(",")
        for uid in (UID, STRANGER_UID):
            with pytest.raises(OSError) as refused:
                site.machine.call("as_user", uid, uid, "write", f"{there}/without a ticket", b"x")
            assert refused.value.errno == errno.EACCES
        site.machine.call("as_user", UID, UID, "get_ticket", "archivist", PASSWORD)
        site.machine.call("as_user", UID, UID, "write", f"{there}/mine", b"written with a ticket")
        assert site.machine.call("owner", f"{there}/mine") == (0o644, UID, UID)
        with pytest.raises(OSError) as refused:
            site.machine.call("as_user", STRANGER_UID, STRANGER_UID, "read", f"{there}/mine")
        assert refused.value.errno == errno.EACCES
    assert guest.listing(str(private)) == ["mine"]
    assert (private / "mine").read_bytes() == b"written with a ticket"
    assert guest.owner(str(private / "mine")) == (0o644, UID, UID)


def test_a_principal_that_is_no_user_here_is_nobody(site: Site) -> None:
    place = site.files / "sealed" / "open"
    place.mkdir()
    place.chmod(0o777)
    with site.nfs("4.1", "sealed", security="krb5p") as target:
        site.machine.call("as_user", STRANGER_UID, STRANGER_UID, "get_ticket", "stranger", PASSWORD)
        site.machine.call("as_user", STRANGER_UID, STRANGER_UID, "write", f"{target}/open/anonymous", b"x")
    assert guest.owner(str(place / "anonymous"))[1:] == (65534, 65534)
