"""References, resource names, digests and page tokens: the grammar, and what is said about mistakes."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorry_registry import references as refs
from lorry_registry.digests import canonical_manifest, digest_bytes, is_digest, version_digest
from lorry_registry.entities import AdapterKey, File
from lorry_registry.errors import InvalidArgument
from lorry_registry.paging import clip_page_size, decode_token, encode_token

from .helpers import fingerprint

SHA = fingerprint("0")
KEY = AdapterKey("default", "support")


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("support", refs.Reference(KEY)),
        ("support@production", refs.Reference(KEY, alias="production")),
        ("support:3", refs.Reference(KEY, number=3)),
        (f"support@{SHA}", refs.Reference(KEY, digest=SHA)),
        ("team-a/x.y_z:10", refs.Reference(AdapterKey("team-a", "x.y_z"), number=10)),
        ("support@sha256", refs.Reference(KEY, alias="sha256")),
    ],
)
def test_references(text: str, reference: refs.Reference) -> None:
    assert refs.parse_reference(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        ":",
        "/",
        "a/",
        "/a",
        "a/b/c",
        "Support",
        "-a",
        "a" * 64,
        "a@",
        "a@1",
        "a@Prod",
        "a:",
        "a:0",
        "a:-1",
        "a:01",
        "a:x",
        "a:1:2",
        "a:1@b",
        "a@b@c",
        "a@b:1",
        "a@sha256:",
        "a@sha256:12",
        f"a@{SHA.upper()}",
        f"a@{SHA}0",
        "a b",
        "ä",
        "a\n",
        "a@b\n",
        "a:1\n",
        "a:٣",
        "../a",
        "a:9999999999",
    ],
)
def test_what_is_no_reference_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        refs.parse_reference(text)
    assert caught.value.reason in ("REFERENCE_INVALID", "NAME_INVALID")


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = refs.parse_reference(text)
    except InvalidArgument:
        return
    assert refs.parse_reference(str(reference)) == reference


def test_resource_names() -> None:
    assert refs.parse_namespace_name("namespaces/a") == "a"
    assert refs.parse_namespace_name("namespaces/-", all_allowed=True) is None
    assert refs.parse_adapter_name(KEY.resource_name) == KEY
    assert refs.parse_version_name(f"{KEY.resource_name}/versions/12") == (KEY, 12)
    assert refs.parse_alias_name(f"{KEY.resource_name}/aliases/p") == (KEY, "p")
    assert refs.parse_base_name(f"bases/{SHA}") == SHA


@pytest.mark.parametrize(
    ("parse", "name"),
    [
        (refs.parse_namespace_name, "namespaces/-"),
        (refs.parse_namespace_name, "namespaces"),
        (refs.parse_adapter_name, "namespaces/a/adapters/"),
        (refs.parse_adapter_name, "namespaces/a/adapters/b/versions/1"),
        (refs.parse_adapter_name, "namespaces/a/adapter/b"),
        (refs.parse_adapter_name, "/namespaces/a/adapters/b"),
        (refs.parse_version_name, "namespaces/a/adapters/b/versions/0"),
        (refs.parse_version_name, "namespaces/a/adapters/b/versions/latest"),
        (refs.parse_alias_name, "namespaces/a/adapters/b/aliases/3"),
        (refs.parse_base_name, "bases/tiny"),
    ],
)
def test_wrong_resource_names_are_refused(parse: object, name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(name)  # type: ignore[operator]
    assert caught.value.reason == "NAME_INVALID"


def test_messages_quote_little_of_what_they_refuse() -> None:
    with pytest.raises(InvalidArgument) as caught:
        refs.parse_reference("x" * 100_000)
    assert len(caught.value.message) < 500


def test_a_versions_digest_is_of_its_files_alone() -> None:
    one, two = File("a", fingerprint("1"), 1), File("b", fingerprint("2"), 2)
    digest = version_digest([one, two])
    assert is_digest(digest)
    assert digest == version_digest([two, File("a", fingerprint("1"), 1, "text/plain")])
    assert digest != version_digest([one])
    assert digest != version_digest([one, File("c", fingerprint("2"), 2)])
    # The bytes are part of the format: other programs compute them too.
    assert canonical_manifest([one]) == (
        b'{"files":[{"digest":"' + fingerprint("1").encode() + b'","path":"a","size":1}]}'
    )
    assert digest_bytes(b"").endswith("b855")


def test_page_tokens_belong_to_their_question() -> None:
    token = encode_token(["default", "x"], ("adapters", None, "name = a"))
    assert decode_token(token, ("adapters", None, "name = a"), types=(str, str)) == ["default", "x"]
    assert decode_token("", ("adapters",), types=(str,)) is None
    for arguments in (("adapters", None, ""), ("adapters", "default", "name = a")):
        with pytest.raises(InvalidArgument, match="other arguments"):
            decode_token(token, arguments, types=(str, str))
    with pytest.raises(InvalidArgument):
        decode_token(token, ("adapters", None, "name = a"), types=(int,))


@given(
    st.one_of(
        st.text(min_size=1), st.binary(min_size=1).map(lambda b: base64.b64encode(b).decode())
    )
)
def test_any_other_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode_token(token, ("a",), types=(str,))
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


def test_forged_keys_are_refused() -> None:
    for key, types in (([1 << 70], (int,)), ([-1], (int,)), (["a\0"], (str,)), ([True], (int,))):
        with pytest.raises(InvalidArgument):
            decode_token(encode_token(key, ("a",)), ("a",), types=types)


def test_page_sizes_are_clipped() -> None:
    assert [clip_page_size(n) for n in (0, 7, 1000, 1001, 1 << 31)] == [50, 7, 1000, 1000, 1000]
    with pytest.raises(InvalidArgument):
        clip_page_size(-1)
