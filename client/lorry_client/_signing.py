"""Signs what is published: OpenSSF model signing, by a key. The signature is a file of the version, `model.sig`."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lorry_client._folder import AdapterFolder, LocalFile
from lorry_client.errors import FailedPrecondition, InvalidArgument
from lorry_client.results.catalogue import File

SIGNATURE_FILE = "model.sig"
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@contextmanager
def signed(folder: Path, local: AdapterFolder, key: Path | None) -> Iterator[AdapterFolder]:
    """The folder's files, with a signature over all of them where there is a key: a PEM file of an elliptic one."""
    if key is None:
        yield local
        return
    try:
        from model_signing import hashing, signing
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"Signing needs the Python module {error.name}; pip install 'lorry[signing]'.",
            reason="MODULE_MISSING",
        ) from error
    files = tuple(one for one in local.files if one.file.path != SIGNATURE_FILE)
    with tempfile.TemporaryDirectory() as aside:
        # A folder with what is published and nothing else: a signature also names what it leaves out.
        published = Path(aside) / (folder.resolve().name or "adapter")
        published.mkdir()
        for one in files:
            (published / one.file.path).symlink_to(one.source.resolve())
        made = published / SIGNATURE_FILE
        config = signing.Config().set_hashing_config(
            hashing.Config().set_ignored_paths(paths=[made]).set_allow_symlinks(True)
        )
        try:
            config.use_elliptic_key_signer(private_key=key).sign(published, made)
        except (
            OSError,
            ValueError,
            TypeError,
            AttributeError,
        ) as error:  # the last: of another kind of key
            raise InvalidArgument(
                f"{key} cannot sign ({error}); give a PEM file of an elliptic private key (P-256, P-384 or P-521) "
                "without a password.",
                reason="INVALID_SIGN_KEY",
            ) from error
        data = made.read_bytes()
        file = File(
            SIGNATURE_FILE,
            f"sha256:{hashlib.sha256(data).hexdigest()}",
            len(data),
            _MEDIA_TYPE,
        )
        yield replace(local, files=(*files, LocalFile(made, file)))
