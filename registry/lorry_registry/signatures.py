"""Signatures of versions: OpenSSF model signing, by key. `lorry push --sign-key` makes them; servers check them here.

A signature is a file of the version, `model.sig`: a Sigstore bundle with a DSSE envelope (`DSSEv1` pre-authentication
encoding) around an in-toto statement, whose predicate lists the version's other files by name and SHA-256. Since a
version's files are known by their SHA-256 anyway, none has to be read for it. Elliptic keys only: P-256, P-384, P-521.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorry_registry.entities import File
from lorry_registry.errors import FailedPrecondition

SIGNATURE_FILE = "model.sig"
MAX_SIGNATURE_BYTES = 1 << 20
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"


@dataclass(frozen=True, slots=True)
class SignaturePolicy:
    """Whose signatures count: any of the keys. One without keys asks for none.

    `keys` are public keys of `cryptography`.
    """

    keys: tuple[Any, ...] = ()

    def check(self, folder: Path, files: Sequence[File], adapter: str) -> None:
        """Whether the `model.sig` in a folder is a signature over these files, each of which has its digest.

        Raises FailedPrecondition: `SIGNATURE_MISSING`, `SIGNATURE_INVALID`.
        """
        if not self.keys:
            return
        try:
            with (folder / SIGNATURE_FILE).open("rb") as stream:
                bundle = stream.read(MAX_SIGNATURE_BYTES + 1)
        except FileNotFoundError:
            raise FailedPrecondition(
                f"{adapter} is not signed, and this server takes signed adapters only: publish it with "
                "`lorry push --sign-key`",
                reason="SIGNATURE_MISSING",
                adapter=adapter,
            ) from None
        try:
            signed = _signed_digests(bundle, self.keys)
            for file in files:
                if file.path != SIGNATURE_FILE and signed.get(file.path) != file.digest:
                    raise ValueError(f"it is not about this {file.path}")
        except (ValueError, TypeError, KeyError, LookupError, RecursionError) as error:
            raise FailedPrecondition(
                f"the signature of {adapter} does not hold ({str(error)[:200]}): have it published again by somebody "
                "with a key that this server trusts",
                reason="SIGNATURE_INVALID",
                adapter=adapter,
            ) from error


def read_policy(paths: Sequence[Path]) -> SignaturePolicy:
    """The policy that asks for a signature by one of these public keys, PEM files.

    Raises FailedPrecondition: `SIGNATURE_KEY_UNREADABLE`, `MODULE_MISSING`.
    """
    if not paths:
        return SignaturePolicy()
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"signatures need the Python module {error.name}: pip install 'lorry[signing]'",
            reason="MODULE_MISSING",
        ) from error
    keys = []
    for path in paths:
        try:
            key = load_pem_public_key(path.read_bytes())
            if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
                raise ValueError("it is none of P-256, P-384 and P-521")
        except (OSError, ValueError, TypeError) as error:
            raise FailedPrecondition(
                f"--require-signature {path} is no public key ({error}): give a PEM file of an elliptic key",
                reason="SIGNATURE_KEY_UNREADABLE",
                file=path,
            ) from error
        keys.append(key)
    return SignaturePolicy(tuple(keys))


_HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}


def _signed_digests(bundle: bytes, keys: Sequence[Any]) -> Mapping[str, str]:
    """`sha256:…` by file name, of a signature that one of the keys made. Raises ValueError and the like."""
    if len(bundle) > MAX_SIGNATURE_BYTES:
        raise ValueError(f"it has more than {MAX_SIGNATURE_BYTES} bytes")
    envelope = json.loads(bundle)["dsseEnvelope"]
    if envelope["payloadType"] != _PAYLOAD_TYPE:
        raise ValueError(
            f"its payload is {str(envelope['payloadType'])[:80]!r}, not {_PAYLOAD_TYPE!r}"
        )
    payload = base64.b64decode(envelope["payload"], validate=True)
    (signature,) = envelope["signatures"]
    _verify(base64.b64decode(signature["sig"], validate=True), payload, keys)
    statement = json.loads(payload)
    if statement["predicateType"] != _PREDICATE_TYPE:
        raise ValueError(
            f"its predicate is {str(statement['predicateType'])[:80]!r}, not {_PREDICATE_TYPE!r}"
        )
    predicate = statement["predicate"]
    if predicate["serialization"]["method"] != "files":
        raise ValueError("it is about parts of files, not about files")
    digests: dict[str, str] = {}
    root = hashlib.sha256()
    for resource in predicate["resources"]:
        if resource["algorithm"] != "sha256":
            raise ValueError(f"{str(resource['name'])[:80]!r} is not known by its SHA-256")
        digests[resource["name"]] = f"sha256:{resource['digest']}"
        root.update(bytes.fromhex(resource["digest"]))
    (subject,) = statement["subject"]
    if subject["digest"]["sha256"] != root.hexdigest():
        raise ValueError("its list of files is not the one that its subject names")
    return digests


def _verify(signature: bytes, payload: bytes, keys: Sequence[Any]) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    kind = _PAYLOAD_TYPE.encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    for key in keys:
        algorithm = getattr(hashes, _HASHES[key.curve.name])()
        try:
            key.verify(signature, signed, ec.ECDSA(algorithm))
        except InvalidSignature:
            continue
        return
    raise ValueError("none of the keys that are trusted here made it")
