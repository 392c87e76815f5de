"""Signatures from push to load: made with OpenSSF model signing, held by its own verifier and by the server's."""

import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from model_signing import verifying

from lorry_client import AsyncClient, InvalidArgument
from lorry_registry.catalogue import Catalogue
from lorry_registry.digests import digest_bytes
from lorry_registry.entities import File
from lorry_registry.errors import FailedPrecondition
from lorry_registry.rpc.host import GrpcHost, create_server
from lorry_registry.rpc.server import add_services
from lorry_registry.signatures import SIGNATURE_FILE, SignaturePolicy, read_policy

from .helpers import adapter_bytes, write_folder


def write_keys(folder: Path, name: str, key: Any = None) -> tuple[Path, Path]:
    key = key or ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.key.pem", folder / f"{name}.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


@pytest.fixture
async def host(stocked: Catalogue) -> AsyncIterator[GrpcHost]:
    host = create_server("127.0.0.1:0", lambda server: add_services(server, stocked))
    await host.start()
    yield host
    await host.stop(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write_folder(tmp_path / "adapter", adapter_bytes())
    (made / "README.md").write_text("# support")
    (made / "optimizer.bin").write_text("left out")
    (made / "lineage.json").write_text("{}")
    return made


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
async def test_what_is_signed_at_push_holds_wherever_it_is_pulled(
    host: GrpcHost, folder: Path, tmp_path: Path, curve: ec.EllipticCurve
) -> None:
    private, public = write_keys(tmp_path, "ours", ec.generate_private_key(curve))
    _, other = write_keys(tmp_path, "other")
    async with AsyncClient(host.address) as client:
        pushed = await client.push(folder, "support", sign_key=private)
        pulled = await client.pull("support", tmp_path / "pulled")
        again = await client.push(tmp_path / "pulled", "support")
    assert SIGNATURE_FILE in {file.path for file in pushed.files}
    assert again.version == pushed.version  # a signature is a file of the version, and goes with it
    there = Path(pulled.folder)
    verifying.Config().use_elliptic_key_verifier(public_key=public).verify(
        there, there / SIGNATURE_FILE
    )
    files = [File(f.path, f.digest, f.size_bytes) for f in pushed.version.files]
    read_policy([other, public]).check(there, files, "support")
    with pytest.raises(FailedPrecondition, match="none of the keys") as caught:
        read_policy([other]).check(there, files, "support")
    assert caught.value.reason == "SIGNATURE_INVALID"


async def test_keys_that_cannot_sign_are_refused_before_anything_is_sent(
    host: GrpcHost, folder: Path, tmp_path: Path, stocked: Catalogue
) -> None:
    rsa_key, _ = write_keys(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    _, public = write_keys(tmp_path, "ours")
    async with AsyncClient(host.address) as client:
        for key in (rsa_key, public, folder / "README.md", tmp_path / "nothing.pem"):
            with pytest.raises(InvalidArgument) as caught:
                await client.push(folder, "support", sign_key=key)
            assert caught.value.reason == "INVALID_SIGN_KEY"
    assert [*stocked.blobs.blobs()] == []


@pytest.fixture
def signed(folder: Path, tmp_path: Path) -> tuple[Path, list[File], SignaturePolicy]:
    from lorry_client._folder import read_folder
    from lorry_client._signing import signed as sign

    private, public = write_keys(tmp_path, "ours")
    with sign(folder, read_folder(folder), private) as local:
        files = [File(f.file.path, f.file.digest, f.file.size_bytes) for f in local.files]
        data = {f.file.path: f.source.read_bytes() for f in local.files}
    return write_folder(tmp_path / "there", data), files, read_policy([public])


def test_without_a_policy_nothing_is_asked(
    signed: tuple[Path, list[File], SignaturePolicy],
) -> None:
    folder, files, _ = signed
    (folder / SIGNATURE_FILE).unlink()
    SignaturePolicy().check(folder, files, "support")


def test_what_is_not_signed_is_refused(signed: tuple[Path, list[File], SignaturePolicy]) -> None:
    folder, files, policy = signed
    policy.check(folder, files, "support")
    other = [File("adapter_config.json", digest_bytes(b"other"), 5)]
    with pytest.raises(FailedPrecondition, match=r"not about this adapter_config\.json"):
        policy.check(folder, other, "support")
    with pytest.raises(FailedPrecondition, match=r"not about this new\.json"):
        policy.check(folder, [*files, File("new.json", files[0].digest, 5)], "support")
    (folder / SIGNATURE_FILE).unlink()
    with pytest.raises(FailedPrecondition) as caught:
        policy.check(folder, files, "support")
    assert caught.value.reason == "SIGNATURE_MISSING"


def changed(bundle: Any, change: Callable[[Any], None]) -> Any:
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    return bundle


@pytest.mark.parametrize(
    "tamper",
    [
        lambda b: changed(b, lambda s: s["predicate"]["resources"][0].update(digest="0" * 64)),
        lambda b: changed(b, lambda s: None),  # the same meaning in other bytes
        lambda b: {**b, "dsseEnvelope": {**b["dsseEnvelope"], "payloadType": "text/plain"}},
        lambda b: {**b, "dsseEnvelope": {**b["dsseEnvelope"], "signatures": []}},
        lambda b: {**b, "dsseEnvelope": {**b["dsseEnvelope"], "payload": "?"}},
        lambda b: {**b, "dsseEnvelope": []},
        lambda b: [b],
        lambda b: None,
        lambda b: "x" * (2 << 20),
    ],
)
def test_a_bundle_that_was_tampered_with_is_refused(
    signed: tuple[Path, list[File], SignaturePolicy], tamper: Callable[[Any], Any]
) -> None:
    folder, files, policy = signed
    path = folder / SIGNATURE_FILE
    path.write_text(json.dumps(tamper(json.loads(path.read_text()))))
    with pytest.raises(FailedPrecondition) as caught:
        policy.check(folder, files, "support")
    assert caught.value.reason == "SIGNATURE_INVALID"
    for garbage in (b"", b"{", b"\xff" * 100, b"[" * 100_000):
        path.write_bytes(garbage)
        with pytest.raises(FailedPrecondition):
            policy.check(folder, files, "support")


def test_a_policy_needs_public_elliptic_keys(tmp_path: Path) -> None:
    private, _ = write_keys(tmp_path, "ours")
    _, rsa_public = write_keys(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    _, koblitz = write_keys(tmp_path, "k1", ec.generate_private_key(ec.SECP256K1()))
    for path in (private, rsa_public, koblitz, tmp_path / "nothing"):
        with pytest.raises(FailedPrecondition) as caught:
            read_policy([path])
        assert caught.value.reason == "SIGNATURE_KEY_UNREADABLE"
