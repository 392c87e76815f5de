"""Rights, tokens, namespaces and the audit log, without a network."""

import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError

from lorry_registry.access.access import Access
from lorry_registry.access.entities import AuditEvent, Quotas
from lorry_registry.access.limiter import RateLimiter
from lorry_registry.access.rights import Rights, Role, current_rights, parse_grant, parse_grants
from lorry_registry.access.settings import read_settings
from lorry_registry.access.tokens import make_token, split_token
from lorry_registry.catalogue import Catalogue
from lorry_registry.embedded import open_catalogue
from lorry_registry.entities import AdapterKey
from lorry_registry.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
)
from lorry_registry.security import Auth, Security
from lorry_registry.sql.schema import migrate

from .databases import postgres_url
from .helpers import KEY, adapter_bytes, publish


def rights(*grants: str) -> Rights:
    return Rights(parse_grants(grants))


@pytest.fixture
def catalogue(home: Path, database: str) -> Iterator[Catalogue]:
    """Empty, on either database."""
    opened = open_catalogue(home, database=database)
    yield opened
    opened.close()


@pytest.fixture
def on_file(home: Path) -> Iterator[Catalogue]:
    """In the home's own file, which a test may look into."""
    opened = open_catalogue(home)
    yield opened
    opened.close()


@pytest.fixture
def access(catalogue: Catalogue) -> Access:
    return catalogue.access


@pytest.fixture
def become() -> Iterator[Callable[..., None]]:
    """Makes the test a caller with these grants."""
    before = current_rights.set(current_rights.get())
    yield lambda *grants: void(current_rights.set(rights(*grants)))
    current_rights.reset(before)


def void(_: object) -> None:
    return None


class TestRights:
    @pytest.mark.parametrize(
        ("grant", "allowed"),
        [
            ("read:a", {Role.READ}),
            ("infer:a", {Role.INFER}),
            ("publish:a", {Role.READ, Role.PUBLISH}),
            ("promote:a", {Role.READ, Role.PROMOTE}),
            ("admin:a", set(Role)),
            ("admin:*", set(Role)),
            ("admin:b", set()),
        ],
    )
    def test_a_role_includes_what_it_needs_and_no_more(
        self, grant: str, allowed: set[Role]
    ) -> None:
        assert {role for role in Role if rights(grant).allows(role, "a")} == allowed

    def test_a_grant_in_one_namespace_is_none_over_all(self) -> None:
        assert not rights("admin:a").allows(Role.READ, "*")
        assert rights("read:*").namespaces(Role.READ) is None
        assert rights("read:b", "publish:a", "infer:c").namespaces(Role.READ) == {"a", "b"}

    def test_where_a_caller_has_no_role_nothing_exists(self) -> None:
        with pytest.raises(NotFound):
            rights("admin:b").check(Role.READ, "a")
        with pytest.raises(PermissionDenied):
            rights("infer:a").check(Role.READ, "a")

    @pytest.mark.parametrize(
        "text", ["read", "read:", "owner:a", "read:A", "read:a b", ":a", "read:**"]
    )
    def test_what_is_no_grant_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidArgument):
            parse_grant(text)


class TestTokens:
    def test_a_token_is_who_it_was_made_for(self, access: Access) -> None:
        token, text = access.create_token(["read:b", "publish:a"], display_name="ci")
        caller = access.caller_of(text)
        assert caller.principal == f"token:{token.token_id}"
        assert [str(grant) for grant in caller.rights.grants] == ["publish:a", "read:b"]
        assert access.get_token(token.token_id) == token

    def test_its_secret_is_nowhere_in_the_home(self, on_file: Catalogue, home: Path) -> None:
        _, text = on_file.access.create_token(["read:a"])
        on_file.close()
        parts = split_token(text)
        assert parts is not None
        kept = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
        assert parts[0].encode() in kept
        assert parts[1].encode() not in kept

    def test_a_wrong_secret_is_nobody(self, access: Access) -> None:
        _, text = access.create_token(["read:a"])
        fresh = make_token()
        for wrong in (text[:-1], text[:-1] + "!", text[:22] + fresh.text[22:], fresh.text, "", "x"):
            with pytest.raises(Unauthenticated) as caught:
                access.caller_of(wrong)
            assert caught.value.reason == "TOKEN_UNKNOWN"

    def test_its_end_comes_by_time_or_by_hand(self, access: Access) -> None:
        soon = datetime.now(UTC) + timedelta(hours=1)
        token, text = access.create_token(["read:a"], expire_time=soon)
        assert access.caller_of(text).rights.expire_time == soon
        revoked = access.revoke_token(token.token_id)
        assert access.revoke_token(token.token_id) == revoked
        with pytest.raises(Unauthenticated) as caught:
            access.caller_of(text)
        assert caught.value.reason == "TOKEN_REVOKED"
        for moment in (datetime.now(UTC), datetime.now(UTC) + timedelta(days=9999)):
            with pytest.raises(InvalidArgument):
                access.create_token(["read:a"], expire_time=moment)

    def test_one_that_has_expired_is_nobody(self, on_file: Catalogue, home: Path) -> None:
        access = on_file.access
        _, text = access.create_token(["read:a"], expire_time=datetime.now(UTC) + timedelta(days=1))
        with sqlite3.connect(home / "registry.db") as database:
            database.execute("UPDATE tokens SET expire_time = '2020-01-01 00:00:00.000000'")
        with pytest.raises(Unauthenticated) as caught:
            access.caller_of(text)
        assert caught.value.reason == "TOKEN_EXPIRED"

    def test_nobody_gives_out_more_than_they_administer(
        self, access: Access, become: Callable[..., None]
    ) -> None:
        other, _ = access.create_token(["read:b"])
        become("admin:a", "publish:b")
        mine, _ = access.create_token(["read:a"])
        for grants in (["read:b"], ["read:*"], ["read:a", "infer:b"]):
            with pytest.raises(PermissionDenied):
                access.create_token(grants)
        assert access.list_tokens().items == (mine,)
        for look in (access.get_token, access.revoke_token):
            said = []
            for token_id in (other.token_id, "0" * 16, "x"):
                with pytest.raises(NotFound) as caught:
                    look(token_id)
                said.append(caught.value.message.replace(token_id, ""))
            assert len(set(said)) == 1

    def test_lists_come_in_pages(self, access: Access) -> None:
        made = [access.create_token(["read:a"])[0] for _ in range(5)]
        first = access.list_tokens(page_size=3)
        rest = access.list_tokens(page_size=3, page_token=first.next_token)
        assert [*first.items, *rest.items] == made[::-1]
        assert rest.next_token == ""


class TestNamespaces:
    def test_one_exists_by_an_adapter_or_by_being_made(
        self, access: Access, catalogue: Catalogue
    ) -> None:
        catalogue.create_adapter(AdapterKey("named", "x"))
        made = access.create_namespace("made", description="d", quotas=Quotas(max_adapters=3))
        assert access.get_namespace("made") == made
        assert access.get_namespace("named").create_time is None
        assert access.get_namespace("default").quotas == Quotas()
        with pytest.raises(NotFound):
            access.get_namespace("neither")
        with pytest.raises(AlreadyExists):
            access.create_namespace("made")
        assert [n.name for n in access.list_namespaces().items] == ["made", "named"]
        page = access.list_namespaces(page_size=1)
        assert [n.name for n in access.list_namespaces(page_token=page.next_token).items] == [
            "named"
        ]

    def test_only_those_are_listed_that_the_caller_has_a_role_in(
        self, access: Access, become: Callable[..., None]
    ) -> None:
        for name in ("a", "b", "c"):
            access.create_namespace(name)
        become("infer:c", "read:a")
        assert [n.name for n in access.list_namespaces().items] == ["a", "c"]

    def test_an_update_is_guarded_by_its_etag(self, access: Access, catalogue: Catalogue) -> None:
        catalogue.create_adapter(AdapterKey("named", "x"))
        first = access.update_namespace("named", quotas=Quotas(max_bytes=9))
        second = access.update_namespace("named", description="d", etag=first.etag)
        assert (second.quotas.max_bytes, second.description) == (9, "d")
        with pytest.raises(Aborted):
            access.update_namespace("named", description="e", etag=first.etag)
        with pytest.raises(InvalidArgument):
            access.update_namespace("named", quotas=Quotas(max_bytes=-1))

    def test_it_goes_once_it_is_empty(self, access: Access, catalogue: Catalogue) -> None:
        access.create_namespace("made")
        catalogue.create_adapter(AdapterKey("made", "x"))
        with pytest.raises(FailedPrecondition):
            access.delete_namespace("made")
        catalogue.delete_adapter(AdapterKey("made", "x"))
        access.delete_namespace("made")
        with pytest.raises(NotFound):
            access.delete_namespace("made")


class TestQuotas:
    @staticmethod
    def refused(act: Callable[[], object]) -> str:
        with pytest.raises(ResourceExhausted) as caught:
            act()
        assert caught.value.reason == "QUOTA_EXCEEDED"
        return caught.value.metadata["quota"]

    def test_they_bound_what_a_namespace_holds(self, stocked: Catalogue) -> None:
        small, large = adapter_bytes(rank=2), adapter_bytes(rank=4)
        size = sum(map(len, small.values()))
        stocked.access.create_namespace("default", quotas=Quotas(max_adapters=1))
        assert (
            self.refused(lambda: stocked.create_adapter(AdapterKey("default", "b")))
            == "max_adapters"
        )
        stocked.create_adapter(AdapterKey("other", "b"))
        stocked.access.update_namespace("default", quotas=Quotas(max_bytes=size + 1))
        publish(stocked, small)
        assert self.refused(lambda: publish(stocked, large)) == "max_bytes"
        stocked.access.update_namespace("default", quotas=Quotas(max_versions=1))
        assert self.refused(lambda: publish(stocked, large)) == "max_versions"
        assert publish(stocked, small).number == 1  # what is there already needs no room
        assert stocked.get_adapter(KEY).latest_version == 1
        stocked.access.update_namespace("default", quotas=Quotas())
        assert publish(stocked, large).number == 2

    def test_a_minute_holds_what_it_may_and_says_when_it_holds_more(self) -> None:
        now = 0.0
        limiter = RateLimiter(lambda: now)
        assert [limiter.take("a", 3) for _ in range(3)] == [0.0, 0.0, 0.0]
        assert limiter.take("a", 3) == pytest.approx(20.0)
        assert limiter.take("b", 3) == 0.0
        assert limiter.take("a", 0) == 0.0  # no bound
        now = 20.0
        assert limiter.take("a", 3) == 0.0
        assert limiter.take("a", 3) > 0.0
        limiter.charge("a", 3, 6)  # more than there is: it is paid off first
        now = 140.0
        assert limiter.take("a", 3) > 0.0
        now = 160.0
        assert limiter.take("a", 3) == 0.0


def event(number: int, namespace: str = "a", principal: str = "token:1") -> AuditEvent:
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    return AuditEvent(moment, principal, "ipv4:10.0.0.7:1", "A/Verb", namespace, "it", "OK")


class TestAudit:
    def test_it_tells_who_did_what_newest_first(
        self, access: Access, become: Callable[..., None]
    ) -> None:
        for number in range(5):
            access.record(event(number, "ab"[number % 2], f"token:{number % 3}"))
        seen = access.list_audit_events(None, page_size=3)
        rest = access.list_audit_events(None, page_size=3, page_token=seen.next_token)
        assert [e.number for e in (*seen.items, *rest.items)] == [5, 4, 3, 2, 1]
        assert [e.number for e in access.list_audit_events("b").items] == [4, 2]
        assert [e.number for e in access.list_audit_events(None, principal="token:0").items] == [
            4,
            1,
        ]
        become("admin:a")
        assert {e.namespace for e in access.list_audit_events(None).items} == {"a"}

    def test_sqlite_refuses_to_change_it(self, on_file: Catalogue, home: Path) -> None:
        access = on_file.access
        access.record(event(1))
        with sqlite3.connect(home / "registry.db") as database:
            for change in ("UPDATE audit_events SET principal = 'x'", "DELETE FROM audit_events"):
                with pytest.raises(sqlite3.IntegrityError, match="only ever added to"):
                    database.execute(change)
        assert len(access.list_audit_events(None).items) == 1

    def test_postgresql_refuses_to_change_it(self) -> None:
        with postgres_url() as url:
            engine = create_engine(url)
            migrate(engine)
            row = "'2026-01-01', 'p', 'f', 'a', 'n', 'r', 'OK', ''"
            with engine.begin() as connection:
                columns = "time, principal, peer, action, namespace, resource, outcome, reason"
                connection.execute(sa.text(f"INSERT INTO audit_events ({columns}) VALUES ({row})"))
            for change in (
                "UPDATE audit_events SET principal = 'x'",
                "DELETE FROM audit_events",
                "TRUNCATE audit_events",
            ):
                with pytest.raises(DBAPIError, match="only ever added to"), engine.begin() as c:
                    c.execute(sa.text(change))
            engine.dispose()


class TestAccessFile:
    GOOD = """
        [[certificates]]
        name = "spiffe://example/serve"
        grants = ["read:*"]
        [oidc]
        issuer = "https://id.example"
        audience = "lorry"
        jwks_file = "keys.json"
        [[oidc.grants]]
        claim = "groups"
        value = "search"
        grants = ["publish:search", "infer:search"]
    """

    def test_what_it_says(self, tmp_path: Path) -> None:
        (tmp_path / "access.toml").write_text(self.GOOD)
        settings = read_settings(tmp_path / "access.toml")
        assert settings.certificates["spiffe://example/serve"] == rights("read:*")
        assert settings.oidc is not None
        assert settings.oidc.jwks_file == tmp_path / "keys.json"
        assert [str(g) for g in settings.oidc.grants[0].grants] == [
            "infer:search",
            "publish:search",
        ]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (("name =", "nmae ="), "nmae is no key"),
            (('"read:*"', '"reed:*"'), "no grant"),
            (('["read:*"]', "[]"), "0 grants"),
            (('jwks_file = "keys.json"', ""), "either jwks_file or jwks_url"),
            (('jwks_file = "keys.json"', 'jwks_url = "http://id.example"'), "https"),
            (('jwks_file = "keys.json"', 'jwks_url = "http://127.0.0.1.id.example"'), "https"),
            (('jwks_file = "keys.json"', 'jwks_url = "http://127.0.0.1@id.example"'), "https"),
            (('audience = "lorry"', ""), "audience is missing"),
            (("[[certificates]]", "[certificates]"), r"\[\[certificates\]\]"),
            (("[oidc]", "[oidc"), "no TOML"),
        ],
    )
    def test_what_is_wrong_in_it_is_named(
        self, tmp_path: Path, change: tuple[str, str], said: str
    ) -> None:
        (tmp_path / "access.toml").write_text(self.GOOD.replace(*change))
        with pytest.raises(InvalidArgument, match=said) as caught:
            read_settings(tmp_path / "access.toml")
        assert caught.value.reason == "ACCESS_FILE_INVALID"
        with pytest.raises(FailedPrecondition):
            read_settings(tmp_path / "nothing.toml")


CERT = Path("cert.pem")


class TestSecurity:
    @pytest.mark.parametrize(
        ("security", "loopback", "auth", "starts"),
        [
            (Security(), True, False, True),
            (Security(), False, True, False),  # a token in clear text is nobody's secret
            (Security(tls_cert=CERT, tls_key=CERT), False, True, True),
            (Security(Auth.OFF, tls_cert=CERT, tls_key=CERT), False, False, False),
            (Security(insecure=True), False, False, True),
            (Security(Auth.REQUIRED, insecure=True), False, True, True),
            (Security(Auth.REQUIRED), True, True, True),
            (Security(access_file=CERT), True, True, True),
            (Security(Auth.AUTO, None, CERT, CERT, CERT), True, True, True),
        ],
    )
    def test_others_reach_no_unguarded_server_by_accident(
        self, security: Security, loopback: bool, auth: bool, starts: bool
    ) -> None:
        assert security.requires_auth(loopback=loopback) is auth
        if starts:
            security.check("10.0.0.1:7070", loopback=loopback)
            return
        with pytest.raises(FailedPrecondition) as caught:
            security.check("10.0.0.1:7070", loopback=loopback)
        assert caught.value.reason == "INSECURE_ADDRESS"

    def test_options_that_contradict_each_other_are_refused(self) -> None:
        for options in ({"tls_cert": CERT}, {"tls_key": CERT}, {"tls_client_ca": CERT}):
            with pytest.raises(InvalidArgument):
                Security(**options)  # type: ignore[arg-type]
