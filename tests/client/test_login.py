"""How a client shows itself: a token that is never printed and never goes in clear text to another machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorry_client import Client, FailedPrecondition, InvalidArgument, Login, NotFound
from lorry_client.cli.access import read_lifetime

NAMES = ("TOKEN", "TOKEN_FILE", "TLS_CA", "TLS_CERT", "TLS_KEY", "INSECURE")
LOOPBACK = "127.0.0.1:7070"
BEARER = (("authorization", "Bearer lorry_secret"),)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(f"LORRY_{name}", raising=False)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("lorry_secret\n")
    file.chmod(0o600)
    return file


def test_a_token_comes_from_an_argument_a_file_or_the_environment(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def metadata(login: Login) -> tuple[tuple[str, str], ...]:
        return login.metadata(LOOPBACK, secure=False)

    assert metadata(Login()) == ()
    assert metadata(Login("lorry_secret")) == BEARER
    assert metadata(Login(token_file=token_file)) == BEARER
    monkeypatch.setenv("LORRY_TOKEN_FILE", str(token_file))
    assert metadata(Login()) == BEARER
    monkeypatch.setenv("LORRY_TOKEN", "lorry_other")
    assert metadata(Login()) == (("authorization", "Bearer lorry_other"),)
    assert metadata(Login(token_file=token_file)) == BEARER


def test_a_file_that_others_can_read_is_refused(token_file: Path) -> None:
    for mode in (0o644, 0o640, 0o602):
        token_file.chmod(mode)
        with pytest.raises(FailedPrecondition, match="chmod 600"):
            Login(token_file=token_file).metadata(LOOPBACK, secure=False)
    with pytest.raises(NotFound):
        Login(token_file=token_file.with_name("nothing")).metadata(LOOPBACK, secure=False)


def test_it_never_goes_in_clear_text_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    login = Login("lorry_secret")
    for server in (LOOPBACK, "localhost:1", "[::1]:1"):
        assert login.metadata(server, secure=False) == BEARER
    for server in ("10.0.0.1:1", "registry.example:1"):
        with pytest.raises(FailedPrecondition, match="clear text") as caught:
            login.metadata(server, secure=False)
        assert "secret" not in str(caught.value)
        assert login.metadata(server, secure=True) == BEARER
        assert Login("lorry_secret", insecure=True).metadata(server, secure=False) == BEARER
    monkeypatch.setenv("LORRY_INSECURE", "1")
    assert login.metadata("10.0.0.1:1", secure=False) == BEARER


def test_it_is_never_printed() -> None:
    assert "secret" not in repr(Login("lorry_secret"))
    with pytest.raises(InvalidArgument) as caught:
        Login("lorry_\nsecret").metadata(LOOPBACK, secure=False)
    assert "secret" not in str(caught.value)


def test_half_of_mutual_tls_is_refused(tmp_path: Path) -> None:
    for options in ({"tls_cert": "c.pem"}, {"tls_key": "k.pem"}):
        with pytest.raises(InvalidArgument, match="go together"):
            Login(**options).credentials()  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        Login(tls_ca=tmp_path / "nothing.pem").credentials()
    with pytest.raises(FailedPrecondition):
        Client("10.0.0.1:1", login=Login("lorry_secret"))


def test_a_lifetime_is_a_number_and_a_unit() -> None:
    assert [read_lifetime(text).total_seconds() for text in ("30m", "12h", "90d")] == [
        1800,
        43200,
        7776000,
    ]
    for text in ("", "30", "0m", "1w", "-1d", "1.5h"):
        with pytest.raises(Exception, match="no time"):
            read_lifetime(text)
