"""A registry elsewhere, over gRPC."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from lorry.registry.v1 import (
    access_service_pb2,
    blob_service_pb2,
    registry_service_pb2,
    resources_pb2,
    watch_service_pb2,
)
from lorry.registry.v1.access_service_pb2_grpc import AccessServiceStub
from lorry.registry.v1.blob_service_pb2_grpc import BlobServiceStub
from lorry.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from lorry.registry.v1.watch_service_pb2_grpc import WatchServiceStub
from lorry_registry.access.entities import Caller, Quotas
from lorry_registry.entities import AdapterKey, Base, Deprecation, File
from lorry_registry.errors import (
    DataLoss,
    Internal,
    InvalidArgument,
    LorryError,
    PermissionDenied,
    Unavailable,
)
from lorry_registry.references import parse_version_name
from lorry_registry.rpc.access_service import quotas_from_proto
from lorry_registry.rpc.convert import base_to_proto, event_from_proto
from lorry_registry.rpc.errors import CODES
from lorry_registry.security import read_pem
from lorry_registry.watching import Batch
from lorry_server.config import RegistryLogin
from lorry_server.registries import AdapterNames, Meaning, Published
from lorry_server.registries.authority import read_caller

_ANSWER_SECONDS = 5.0  # for one call; a registry that takes longer is away
_QUIET_SECONDS = 30.0  # without a byte, and a read is given up; with some, it may take its time
# A registry that is back is noticed within these, however long it was away.
_CHANNEL_OPTIONS = [("grpc.max_reconnect_backoff_ms", 1000)]
_BROKE_OFF = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)


class RemoteRegistry:
    """A registry at HOST:PORT."""

    def __init__(
        self, address: str, *, token: str = "", credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        self.name = self._address = address
        self._metadata = bearer(token)
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, _CHANNEL_OPTIONS)
            self._blob_channel = grpc.insecure_channel(
                address, _CHANNEL_OPTIONS
            )  # blocking: for threads
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, _CHANNEL_OPTIONS)
            self._blob_channel = grpc.secure_channel(address, credentials, _CHANNEL_OPTIONS)
        self._registry: Any = RegistryServiceStub(self._channel)
        self._access: Any = AccessServiceStub(self._channel)
        self._watch: Any = WatchServiceStub(self._channel)
        self._blobs = BlobServiceStub(self._blob_channel)

    async def ready(self) -> None:
        """Returns once there is a connection. Raises Unavailable where none comes about in time."""
        try:
            await asyncio.wait_for(self._channel.channel_ready(), _ANSWER_SECONDS)
        except TimeoutError as error:
            raise self._away("no connection") from error

    async def expand(self, reference: str) -> Meaning:
        request = registry_service_pb2.ExpandReferenceRequest(reference=reference)
        answer = await self._call(self._registry.ExpandReference, request)
        return Meaning(
            tuple((_published(one.version), one.weight) for one in answer.versions), answer.salt
        )

    async def position(self) -> int:
        request = watch_service_pb2.GetPositionRequest()
        return int((await self._call(self._watch.GetPosition, request)).position)

    async def watch(self, resume_token: str, heartbeat_seconds: float) -> AsyncIterator[Batch]:
        request = watch_service_pb2.WatchRequest(resume_token=resume_token)
        request.heartbeat.FromNanoseconds(int(heartbeat_seconds * 1e9))
        answers = self._watch.Watch(request, metadata=self._metadata)
        try:
            async for answer in answers:
                yield Batch(
                    answer.resume_token,
                    answer.position,
                    tuple(event_from_proto(event) for event in answer.events),
                )
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error
        finally:
            answers.cancel()

    async def adapters_for(
        self, base_fingerprint: str, *, namespace: str | None, limit: int, page_token: str
    ) -> AdapterNames:
        request = registry_service_pb2.ListAdaptersRequest(
            parent=f"namespaces/{namespace or '-'}",
            page_size=limit,
            page_token=page_token,
            filter=f'base = "{base_fingerprint}"',
        )
        page = await self._call(self._registry.ListAdapters, request)
        keys = tuple(AdapterKey(*adapter.name.split("/")[1::2]) for adapter in page.adapters)
        return AdapterNames(keys, page.next_page_token)

    async def create_base(self, base: Base) -> None:
        request = registry_service_pb2.CreateBaseRequest(base=base_to_proto(base))
        try:
            await self._call(self._registry.CreateBase, request)
        except PermissionDenied:
            # A server that may only read can serve a base that is known already.
            name = f"bases/{base.fingerprint}"
            await self._call(self._registry.GetBase, registry_service_pb2.GetBaseRequest(name=name))

    async def caller_of(self, token: str) -> Caller:
        """Whose token that is. Raises Unauthenticated as the registry does."""
        request = access_service_pb2.GetCallerRequest()
        return read_caller(
            await self._call(self._access.GetCaller, request, metadata=bearer(token))
        )

    async def quotas_of(self, namespace: str) -> Quotas:
        """Those in force. Raises NotFound where there is no such namespace, or this server may not see it."""
        request = access_service_pb2.GetNamespaceRequest(name=f"namespaces/{namespace}")
        return quotas_from_proto((await self._call(self._access.GetNamespace, request)).quotas)

    def fetch_blob(self, file: File, target: Path) -> None:
        hasher = hashlib.sha256()
        with target.open("wb") as stream:
            for piece in self._read_blob(file):
                hasher.update(piece)
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
        actual = f"sha256:{hasher.hexdigest()}"
        if actual != file.digest:
            raise DataLoss(
                f"{file.path} came from the registry at {self._address} with the digest {actual}, not {file.digest}; "
                "ask again.",
                reason="DIGEST_MISMATCH",
                path=file.path,
                digest=file.digest,
                actual=actual,
            )

    def interrupt(self) -> None:
        self._blob_channel.close()  # which cancels what goes over it

    async def close(self) -> None:
        self.interrupt()
        await self._channel.close()

    def _read_blob(self, file: File) -> Iterator[bytes]:
        """Each call has a short deadline and the next goes on where it broke off, as long as any byte came."""
        offset = 0
        while offset < file.size_bytes:
            request = blob_service_pb2.ReadBlobRequest(digest=file.digest, read_offset=offset)
            received = 0
            try:
                for piece in self._blobs.ReadBlob(
                    request, timeout=_QUIET_SECONDS, metadata=self._metadata
                ):
                    received += len(piece.data)
                    yield piece.data
                    if offset + received > file.size_bytes:
                        return  # not the file's bytes, as its digest will tell
            except grpc.RpcError as error:
                if received == 0 or error.code() not in _BROKE_OFF:
                    raise self._translated(error) from error
            except ValueError as error:  # the channel is closed
                raise self._away("the server stops") from error
            else:
                if received == 0:
                    return  # the other side has no more
            offset += received

    async def _call(self, method: Any, request: Any, metadata: Any = None) -> Any:
        try:
            return await method(
                request, timeout=_ANSWER_SECONDS, metadata=metadata or self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error

    def _translated(self, error: Any) -> LorryError:
        """The other registry's own error, or that it is away."""
        if error.code() in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.CANCELLED,
        ):
            return self._away(error.details())
        return _own_error(error)

    def _away(self, why: str) -> Unavailable:
        return Unavailable(
            f"The registry at {self._address} does not answer ({why}); try again later.",
            reason="REGISTRY_UNAVAILABLE",
            registry=self._address,
        )


def channel_credentials(login: RegistryLogin) -> grpc.ChannelCredentials | None:
    """TLS as the options say; None for a plain channel.

    Raises:
        FailedPrecondition: `TLS_FILE_UNREADABLE`.
        InvalidArgument: `TLS_INCOMPLETE`.
    """
    if (login.tls_cert is None) != (login.tls_key is None):
        raise InvalidArgument(
            "--registry-tls-cert and --registry-tls-key go together: give both, or neither",
            reason="TLS_INCOMPLETE",
        )
    if login.tls_ca is None and login.tls_cert is None:
        return None
    ca, key, cert = (
        None if path is None else read_pem(path, f"registry-tls-{name}")
        for name, path in (("ca", login.tls_ca), ("key", login.tls_key), ("cert", login.tls_cert))
    )
    return grpc.ssl_channel_credentials(ca, key, cert)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call that shows the token."""
    return (("authorization", f"Bearer {token}"),) if token else ()


def _published(version: resources_pb2.Version) -> Published:
    key, number = parse_version_name(version.name)
    return Published(
        key=key,
        number=number,
        digest=version.digest,
        base_fingerprint=version.lineage.base_fingerprint,
        base_name=version.lineage.base_name,
        max_rank=version.spec.max_rank,
        files=tuple(File(file.path, file.digest, file.size_bytes) for file in version.files),
        deprecation=Deprecation(version.deprecation.reason, version.deprecation.replacement)
        if version.HasField("deprecation")
        else None,
        block_reason=version.block_reason or None,
    )


def _own_error(error: Any) -> LorryError:
    """The error that the other side raised, out of the status it was turned into."""
    kind = next((kind for kind, code in CODES.items() if code is error.code()), Internal)
    info = ErrorInfo()
    status = rpc_status.from_call(error)
    if status is None or not any(detail.Unpack(info) for detail in status.details):
        return Internal(f"The registry failed: {error.details()}", reason="REGISTRY_FAILED")
    return kind(error.details(), reason=info.reason, **info.metadata)
