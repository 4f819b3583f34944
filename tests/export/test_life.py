"""What is exported to whom is said by commands; real servers are started, found dead and started again, and stopped before an unmount."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess

from tests.cli.conftest import eventually, is_alive, mounted_below
from tests.export import nfs4
from tests.export.conftest import Served
from tests.places import secret_file


def answers(port: int) -> bool:
    """Tell whether somebody listens on a port of the loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def add_both(served: Served) -> None:
    served.ok("export", "add", "nfs", served.mountpoint, "--name", "archive", "--read-write", "--clients", "127.0.0.1")
    served.ok("export", "add", "smb", served.mountpoint, "--name", "archive", "--read-write", "--clients", "127.0.0.1")


def test_nothing_is_exported_until_it_is_said_and_nobody_is_let_in_until_named(served: Served) -> None:
    assert "init" in served.fails(8, "export", "list")
    served.init()
    assert served.json("export", "list") == []
    assert "nothing is exported" in served.fails(12, "export", "start", served.mountpoint)
    assert "for nobody yet" in served.ok("export", "add", "nfs", served.mountpoint, "--name", "archive")
    served.ok("export", "add", "smb", served.mountpoint, "--name", "archive")
    nfs, smb = served.json("export", "list")
    assert (nfs["access"], nfs["clients"], nfs["squash"], nfs["security"]) == ("read-only", [], "root", ["sys"])
    assert (smb["access"], smb["clients"], smb["encrypt"]) == ("read-only", [], "required")
    shown = served.json("export", "show")
    assert (shown["bind"], shown["smb"]["port"], shown["nfs"]["port"]) == ("127.0.0.1", served.smb_port, served.nfs_port)
    assert stat.S_IMODE(os.stat(served.conf).st_mode) == 0o711
    servers = {"supervisor.lock": 0o600, "supervisor.log": 0o600}
    inside = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (*served.conf.iterdir(), *(served.conf / "state").iterdir())}
    assert inside == {"export.toml": 0o600, "generated": 0o700, "state": 0o711, "nfs": 0o700, "smb": 0o711, **servers}
    assert stat.S_IMODE(os.stat(served.conf / "state" / "smb" / "private").st_mode) == 0o700
    assert "CLIENT" not in served.ok("export", "config", "nfs")
    assert "hosts deny = ALL" in served.ok("export", "config", "smb")


def test_samba_is_not_started_where_its_users_do_not_get_to_its_locks(served: Served) -> None:
    """Share modes would silently not be kept (export/test_smb.py has a test that they are)."""
    closed = served.top / "closed"
    closed.mkdir(mode=0o700)
    served.init("--dir", str(closed / "conf"))
    served.ok("export", "add", "smb", served.mountpoint, "--name", "archive", "--clients", "127.0.0.1")
    assert "share modes" in served.fails(12, "export", "start", served.mountpoint)
    closed.chmod(0o711)
    served.start()
    served.ok("export", "stop", served.mountpoint)


def test_both_servers_start_answer_and_stop(served: Served) -> None:
    served.init()
    add_both(served)
    served.start()
    status = served.status()
    assert [(one["server"], one["state"], one["port"]) for one in status["servers"]] == [
        ("nfs", "running", served.nfs_port),
        ("smb", "running", served.smb_port),
    ]
    assert status["lasting_handles"] and status["running"]
    assert served.json("status", served.mountpoint)["exports"]["servers"] == status["servers"]
    assert answers(served.nfs_port) and answers(served.smb_port)
    assert "already" in served.fails(12, "export", "start", served.mountpoint)
    served.ok("export", "stop", served.mountpoint)
    assert not any(is_alive(pid) for pid in (status["pid"], *(one["pid"] for one in status["servers"])))
    assert not answers(served.nfs_port) and not answers(served.smb_port)
    assert served.status()["running"] is False
    assert served.ok("export", "stop", served.mountpoint) == "no servers run\n"


def test_an_export_comes_and_goes_while_the_servers_run(served: Served) -> None:
    served.init()
    served.ok("export", "add", "nfs", served.mountpoint, "--name", "archive", "--clients", "127.0.0.1")
    served.start()
    before = served.server("nfs")["pid"]
    assert "served now" in served.ok("export", "add", "smb", served.mountpoint, "--name", "archive", "--clients", "127.0.0.1")
    eventually("Samba to start", lambda: served.server("smb").get("state") == "running")
    assert served.server("nfs")["pid"] == before
    assert "no longer" in served.ok("export", "remove", "smb", "archive", "--dry-run")
    served.ok("export", "remove", "smb", "archive")
    eventually("Samba to stop", lambda: served.server("smb") == {})
    assert not answers(served.smb_port)
    assert "no nfs export" in served.fails(8, "export", "remove", "nfs", "other")


def test_a_dead_server_is_started_again_later_each_time(served: Served) -> None:
    served.init()
    add_both(served)
    served.start()
    pauses = []
    for deaths in (1, 2):
        os.kill(served.server("nfs")["pid"], signal.SIGKILL)
        eventually("its death to be noticed", lambda: served.server("nfs").get("state") != "running")
        eventually("it to run again", lambda deaths=deaths: served.server("nfs")["restarts"] == deaths and answers(served.nfs_port))  # type: ignore[misc]
        eventually("that to be noticed", lambda: served.server("nfs")["state"] == "running")
        assert "SIGKILL" in served.server("nfs")["last_error"]
        pauses.append([line for line in (served.conf / "state/supervisor.log").read_text().splitlines() if "again in" in line][-1])
    assert pauses[0].endswith("in 0.5 s") and pauses[1].endswith("in 1.0 s")
    os.kill(served.server("smb")["pid"], signal.SIGKILL)
    eventually("Samba to run again", lambda: served.server("smb")["restarts"] == 1 and served.server("smb")["state"] == "running")


def test_umount_stops_the_servers_and_a_busy_mount_keeps_them(served: Served) -> None:
    served.init()
    add_both(served)
    served.start()
    pid = served.status()["pid"]
    with (served.mountpoint / "open").open("w"):
        assert "busy" in served.fails(6, "umount", served.mountpoint)
        eventually("the servers to be back", lambda: served.states() == ["running", "running"])
        assert served.status()["pid"] == pid
    served.umount()
    assert not is_alive(pid)
    assert mounted_below(served.top) == []


def test_the_servers_wait_while_the_volume_is_away(served: Served) -> None:
    served.init()
    add_both(served)
    served.start()
    os.kill(served.json("status", served.mountpoint)["pid"], signal.SIGKILL)
    eventually("the servers to be stopped", lambda: served.now()["waiting_for_mount"])
    assert not answers(served.nfs_port) and not answers(served.smb_port)
    served.mount()
    eventually("the servers to be back", lambda: served.states() == ["running", "running"])


def test_servers_of_a_killed_supervisor_are_replaced(served: Served) -> None:
    served.init()
    add_both(served)
    served.start()
    status = served.status()
    os.kill(status["pid"], signal.SIGKILL)
    eventually("it to be gone", lambda: served.now() == {})
    served.start()
    assert not any(is_alive(one["pid"]) for one in status["servers"])


def sees(served: Served, name: str) -> bool:
    """Tell whether this machine's NFS clients see an export."""
    with nfs4.Nfs4(served.nfs_port) as client:
        try:
            client.handle(name)
        except nfs4.Refused as refused:
            assert refused.status == nfs4.NOENT
            return False
    return True


def test_nfs_exports_and_their_clients_change_while_the_server_runs(served: Served) -> None:
    served.init()
    (served.mountpoint / "study").mkdir()
    served.ok("export", "add", "nfs", served.mountpoint, "--name", "archive", "--clients", "127.0.0.1")
    served.start()
    pid = served.server("nfs")["pid"]
    served.ok("export", "add", "nfs", served.mountpoint / "study", "--name", "study", "--clients", "127.0.0.1")
    eventually("the new export to be seen", lambda: sees(served, "study"))
    served.ok("export", "remove", "nfs", "study")
    eventually("it to be gone", lambda: not sees(served, "study"))
    served.edit('clients = ["127.0.0.1"]', 'clients = ["10.9.9.9"]')
    served.ok("export", "add", "nfs", served.mountpoint / "study", "--name", "again", "--clients", "127.0.0.1")
    eventually("the client to be let out", lambda: sees(served, "again") and not sees(served, "archive"))
    assert served.server("nfs")["pid"] == pid and served.server("nfs")["restarts"] == 0


def test_a_file_that_makes_no_sense_changes_nothing_and_is_told(served: Served) -> None:
    served.init()
    served.ok("export", "add", "nfs", served.mountpoint, "--name", "archive", "--clients", "127.0.0.1")
    served.start()
    pid = served.status()["pid"]
    served.edit("lease_seconds = 30", "lease_seconds = -1")
    os.kill(pid, signal.SIGHUP)
    eventually("it to be noticed", lambda: "lease_seconds" in log_of(served))
    assert sees(served, "archive") and is_alive(pid)
    served.edit("lease_seconds = -1", "lease_seconds = 31")
    os.kill(pid, signal.SIGHUP)
    eventually("the server to start anew", lambda: served.now()["fault"] is None and served.server("nfs").get("state") == "running")


def log_of(served: Served) -> str:
    return (served.conf / "state/supervisor.log").read_text()


def test_smb_users_come_and_go_and_passwords_are_never_arguments(served: Served) -> None:
    served.init()
    add_both(served)
    served.start()
    password = secret_file(served.top / "password", "correct horse\nsecond line\n")
    assert "no Unix user" in served.fails(2, "export", "user", "add", "no-such-user", "--password-file", password)
    assert "no terminal" in served.fails(2, "export", "user", "add", "games")
    served.ok("export", "user", "add", "games", "--password-file", password)
    assert served.json("export", "user", "list") == ["games"]
    assert logs_in(served, "correct horse") and not logs_in(served, "wrong")
    password.write_text("another")
    served.ok("export", "user", "add", "games", "--password-file", password)
    assert logs_in(served, "another") and not logs_in(served, "correct horse")
    assert "would be removed" in served.ok("export", "user", "remove", "games", "--dry-run")
    served.ok("export", "user", "remove", "games")
    assert served.json("export", "user", "list") == []
    assert not logs_in(served, "another")
    assert "no SMB user" in served.fails(8, "export", "user", "remove", "games")
    assert "no SMB user" in served.fails(8, "export", "user", "remove", "games", "--dry-run")


def logs_in(served: Served, password: str) -> bool:
    """Tell whether `games` can connect to the share with a password."""
    credentials = served.top / "credentials"
    credentials.write_text(f"username = games\npassword = {password}\n")
    command = ["smbclient", "//127.0.0.1/archive", "-p", str(served.smb_port), "-A", str(credentials), "-m", "SMB3_11", "-c", "ls"]
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run([*command, "--client-protection=encrypt"], check=False, **options)
    assert done.returncode == 0 or "LOGON_FAILURE" in done.stdout, done
    return done.returncode == 0


def test_a_directory_of_ones_own_is_found_by_the_mount_point(served: Served) -> None:
    own = served.top / "own"
    served.init("--dir", str(own))
    assert (own / "export.toml").exists() and served.conf == own
    served.ok("export", "add", "nfs", served.mountpoint, "--name", "archive")
    assert [one["name"] for one in served.json("export", "list", "--mountpoint", served.mountpoint)] == ["archive"]
    assert "already" in served.fails(2, "export", "init", served.mountpoint)
    outside = served.top / "outside"
    outside.mkdir()
    assert "in no anqfs mount" in served.fails(7, "export", "add", "nfs", outside, "--name", "outside")
    (served.mountpoint / "file").touch()
    assert "is no directory" in served.fails(2, "export", "add", "nfs", served.mountpoint / "file", "--name", "file")


def test_in_the_foreground_it_tells_the_service_manager_and_ends_on_sigterm(served: Served) -> None:
    served.init()
    add_both(served)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(served.top / "notify"))
        manager.settimeout(60)
        environment = {**served.environment, "NOTIFY_SOCKET": str(served.top / "notify")}
        command = served.command("export", "start", served.mountpoint, "--foreground")
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, start_new_session=True
        ) as process:
            assert manager.recv(100) == b"READY=1"
            servers = [one["pid"] for one in served.now()["servers"]]
            assert answers(served.nfs_port) and answers(served.smb_port) and served.now()["pid"] == process.pid
            process.terminate()
            assert process.wait(60) == 0
    assert not any(is_alive(pid) for pid in servers)
