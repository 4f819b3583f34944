"""Users, passwords, sessions and access tokens of the API, on a clock that stands still until a test moves it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from anqfs.control import accounts as module
from anqfs.control.accounts import FAILURES_MAX, SESSION_NS, SESSIONS_MAX, WINDOW_NS, Accounts
from anqfs.control.rest.faults import Refused
from anqfs.control.rest.identity import Identity
from anqfs.crypto import passwords
from anqfs.errors import NotFound, UsageError
from anqfs.namespace import Namespace
from anqfs.namespace.check import check
from tests.unit.namespace_volume import make_store, opened

PASSWORD = "correct horse"


class Clock:
    """A clock for what expires."""

    now = 1_700_000_000_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed with a cost that tests can pay."""
    monkeypatch.setattr(passwords, "COST", 1 << 4)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(ns: Namespace, clock: Clock) -> Accounts:
    found = Accounts(ns.api_users, clock)
    ns.api_users.add("admin", "Administrators", passwords.hashed(PASSWORD.encode()))
    return found


def bearer(token: str) -> str:
    return f"Bearer {token}"


def status(refused: pytest.ExceptionInfo[Refused]) -> int:
    return refused.value.status


# --- users


def test_the_first_user_is_admin_and_the_last_administrator_stays(ns: Namespace) -> None:
    users = ns.api_users
    with pytest.raises(UsageError, match="admin"):
        users.add("bob", "Administrators", b"x")
    with pytest.raises(UsageError, match="admin"):
        users.add("admin", "Observers", b"x")
    assert users.add("admin", "Administrators", b"x") == 500
    with pytest.raises(UsageError, match="already"):
        users.add("admin", "Administrators", b"x")
    assert (users.add("watcher", "Observers", b"x"), users.add("bob", "Administrators", b"x")) == (1000, 1001)
    users.remove(500)
    with pytest.raises(UsageError, match="last administrator"):
        users.remove(1001)
    users.remove(1000)
    assert [user.name for _, user in users.all()] == ["bob"]
    with pytest.raises(NotFound):
        users.get(500)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", "ä", "a" * 65, "a\n", "a:b"])
def test_names_are_plain(accounts: Accounts, name: str) -> None:
    with pytest.raises(UsageError):
        accounts.users.add(name, "Observers", b"x")


def test_users_are_in_the_volume_and_the_check_knows_them(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with opened(tmp_path / "store") as ns:
        number = ns.api_users.add("admin", "Administrators", passwords.hashed(b"secret"))
        ns.volume.commit().wait()
    with opened(tmp_path / "store", read_only=True) as ns:
        assert passwords.is_password(b"secret", ns.api_users.get(number).password)
        assert check(ns.volume).findings == []


def test_a_password_is_kept_as_a_salted_hash() -> None:
    one, other = passwords.hashed(b"secret"), passwords.hashed(b"secret")
    assert one != other and b"secret" not in one
    assert passwords.is_password(b"secret", one)
    assert not passwords.is_password(b"Secret", one)
    assert (module.passwords.BLOCK_SIZE, one[:3]) == (8, bytes((4, 8, 1)))


# --- sessions


@pytest.mark.trio
async def test_a_session_lasts_for_its_time(accounts: Accounts, clock: Clock) -> None:
    token = await accounts.login("admin", PASSWORD)
    assert accounts.who(bearer(token)) == Identity(500, "admin", "Administrators")
    clock.now += SESSION_NS - 1
    assert accounts.who(bearer(token)) is not None
    clock.now += 1
    assert accounts.who(bearer(token)) is None


@pytest.mark.trio
async def test_logging_out_and_a_new_password_end_sessions(accounts: Accounts) -> None:
    first, second = await accounts.login("admin", PASSWORD), await accounts.login("admin", PASSWORD)
    accounts.logout(bearer(first))
    assert accounts.who(bearer(first)) is None
    who = accounts.who(bearer(second))
    assert who is not None
    await accounts.change_password(who, PASSWORD, "another")
    assert accounts.who(bearer(second)) is None
    with pytest.raises(Refused):
        await accounts.login("admin", PASSWORD)
    assert accounts.who(bearer(await accounts.login("admin", "another"))) == who


@pytest.mark.trio
async def test_removing_a_user_ends_all_ways_in(accounts: Accounts) -> None:
    accounts.users.add("bob", "Administrators", await accounts.hashed(PASSWORD))
    session = await accounts.login("bob", PASSWORD)
    _, token = accounts.new_access_token(1000, 500, 0)
    assert accounts.who(bearer(session)) and accounts.who(bearer(token))
    accounts.users.remove(1000)
    assert accounts.who(bearer(session)) is None
    assert accounts.who(bearer(token)) is None
    accounts.users.add("bob", "Administrators", await accounts.hashed(PASSWORD))
    assert accounts.who(bearer(session)) is None
    assert accounts.who(bearer(token)) is None


@pytest.mark.trio
async def test_sessions_are_bounded(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SESSIONS_MAX", 3)
    tokens = [await accounts.login("admin", PASSWORD) for _ in range(5)]
    assert [accounts.who(bearer(token)) is not None for token in tokens] == [False, False, True, True, True]
    assert SESSIONS_MAX > 100


# --- guessing


@pytest.mark.trio
async def test_guessing_is_slowed_down_by_name(accounts: Accounts, clock: Clock) -> None:
    for _ in range(FAILURES_MAX):
        with pytest.raises(Refused) as refused:
            await accounts.login("admin", "guess")
        assert status(refused) == 401
    with pytest.raises(Refused) as refused:
        await accounts.login("admin", PASSWORD)
    assert status(refused) == 429
    with pytest.raises(Refused) as refused:
        await accounts.login("someone", "guess")
    assert status(refused) == 401
    clock.now += WINDOW_NS + 1
    assert accounts.who(bearer(await accounts.login("admin", PASSWORD)))


@pytest.mark.trio
async def test_guessing_is_slowed_down_over_all_names_and_takes_bounded_memory(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NAMES_MAX", 10)
    for number in range(module.ALL_FAILURES_MAX):
        with pytest.raises(Refused) as refused:
            await accounts.login(f"name{number}", "guess")
        assert status(refused) == 401
    with pytest.raises(Refused) as refused:
        await accounts.login("admin", PASSWORD)
    assert status(refused) == 429
    assert len(accounts._attempts._by_name) == 10


@pytest.mark.trio
async def test_an_unknown_name_costs_as_much_as_a_wrong_password(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[bytes] = []
    real = passwords.is_password

    def watched(password: bytes, kept: bytes) -> bool:
        looked_at.append(kept)
        return real(password, kept)

    monkeypatch.setattr(passwords, "is_password", watched)
    said = []
    for name in ("admin", "nobody-of-this-name"):
        with pytest.raises(Refused) as refused:
            await accounts.login(name, "guess")
        said.append(str(refused.value))
    assert len(looked_at) == 2 and {len(kept) for kept in looked_at} == {len(looked_at[0])}
    assert said[0] == said[1]


# --- access tokens


@pytest.mark.trio
async def test_an_access_token_works_until_it_ends_is_disabled_or_revoked(accounts: Accounts, clock: Clock) -> None:
    users = accounts.users
    name, token = accounts.new_access_token(500, 500, clock.now + 100)
    assert accounts.who(bearer(token)) == Identity(500, "admin", "Administrators")
    number, kept = users.token(bytes.fromhex(name))
    users.replace_token(number, type(kept)(kept.id, kept.digest, kept.creator, kept.created, kept.expires, False))
    assert accounts.who(bearer(token)) is None
    users.replace_token(number, kept)
    assert accounts.who(bearer(token)) is not None
    clock.now += 100
    assert accounts.who(bearer(token)) is None
    clock.now -= 100
    users.remove_token(number, kept.id)
    assert accounts.who(bearer(token)) is None


def test_only_a_digest_of_a_token_is_kept(accounts: Accounts) -> None:
    _, token = accounts.new_access_token(500, 500, 0)
    secret = base64.urlsafe_b64decode(token.partition(":")[2])[16:]
    assert len(secret) == 32
    (kept,) = accounts.users.get(500).tokens
    assert kept.digest == passwords.digest(secret)
    assert secret not in repr(kept).encode("latin-1", "replace")


def test_a_token_is_not_made_for_the_past_or_beyond_the_limit(accounts: Accounts, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError):
        accounts.new_access_token(500, 500, clock.now)
    with pytest.raises(NotFound):
        accounts.new_access_token(7, 500, 0)
    monkeypatch.setattr("anqfs.namespace.api_users.TOKENS_MAX", 2)
    accounts.new_access_token(500, 500, 0)
    accounts.new_access_token(500, 500, 0)
    with pytest.raises(UsageError, match="revoke"):
        accounts.new_access_token(500, 500, 0)


def test_forged_tokens_are_nobodys(accounts: Accounts) -> None:
    _, token = accounts.new_access_token(500, 500, 0)
    kind, _, text = token.partition(":")
    raw = bytearray(base64.urlsafe_b64decode(text))
    for position in (0, 7, 8, 15, 16, 47):
        raw[position] ^= 1
        assert accounts.who(f"Bearer {kind}:{base64.urlsafe_b64encode(raw).decode()}") is None
        raw[position] ^= 1
    assert accounts.who(bearer(token)) is not None
    for junk in (
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {token}",
        token,
        f"Bearer {kind}:",
        f"Bearer {text}",
        "Bearer session-v1:" + "A" * 43,
    ):
        assert accounts.who(junk) is None
    for junk in ("access-v1:\ud800", "access-v1:" + "A" * 5000, "access-v1:=", "session-v1:=", "access-v1:é"):
        assert accounts.who(bearer(junk)) is None
