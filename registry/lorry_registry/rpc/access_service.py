"""AccessService over the verbs of access. Handlers convert and delegate; what may block runs in a thread."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from google.protobuf import empty_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from lorry.registry.v1 import access_service_pb2 as pb
from lorry.registry.v1 import access_service_pb2_grpc
from lorry_registry import references
from lorry_registry.access.access import Access
from lorry_registry.access.entities import AuditEvent, Namespace, Quotas
from lorry_registry.access.rights import current_rights
from lorry_registry.access.tokens import Token
from lorry_registry.errors import InvalidArgument
from lorry_registry.principal import current_principal

Context = Any  # grpc.aio.ServicerContext; nothing here needs it


class AccessService(access_service_pb2_grpc.AccessServiceServicer):
    """Tokens, namespaces and the audit log."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def GetCaller(self, request: pb.GetCallerRequest, context: Context) -> pb.Caller:
        rights = current_rights.get()
        return pb.Caller(
            principal=current_principal.get(),
            grants=map(str, rights.grants),
            expire_time=_timestamp(rights.expire_time),
        )

    # Tokens.

    async def CreateToken(
        self, request: pb.CreateTokenRequest, context: Context
    ) -> pb.CreateTokenResponse:
        wanted = request.token
        token, text = await asyncio.to_thread(
            self._access.create_token,
            list(wanted.grants),
            display_name=wanted.display_name,
            expire_time=_moment(wanted.expire_time) if wanted.HasField("expire_time") else None,
        )
        return pb.CreateTokenResponse(token=_token(token), text=text)

    async def GetToken(self, request: pb.GetTokenRequest, context: Context) -> pb.Token:
        token_id = references.parse_token_name(request.name)
        return _token(await asyncio.to_thread(self._access.get_token, token_id))

    async def ListTokens(
        self, request: pb.ListTokensRequest, context: Context
    ) -> pb.ListTokensResponse:
        page = await asyncio.to_thread(
            self._access.list_tokens, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListTokensResponse(
            tokens=map(_token, page.items), next_page_token=page.next_token
        )

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Context) -> pb.Token:
        token_id = references.parse_token_name(request.name)
        return _token(await asyncio.to_thread(self._access.revoke_token, token_id))

    # Namespaces.

    async def CreateNamespace(
        self, request: pb.CreateNamespaceRequest, context: Context
    ) -> pb.Namespace:
        namespace = await asyncio.to_thread(
            self._access.create_namespace,
            request.namespace_id,
            description=request.namespace.description,
            quotas=quotas_from_proto(request.namespace.quotas),
        )
        return _namespace(namespace)

    async def GetNamespace(self, request: pb.GetNamespaceRequest, context: Context) -> pb.Namespace:
        name = _one_namespace(request.name)
        return _namespace(await asyncio.to_thread(self._access.get_namespace, name))

    async def ListNamespaces(
        self, request: pb.ListNamespacesRequest, context: Context
    ) -> pb.ListNamespacesResponse:
        page = await asyncio.to_thread(
            self._access.list_namespaces, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListNamespacesResponse(
            namespaces=map(_namespace, page.items), next_page_token=page.next_token
        )

    async def UpdateNamespace(
        self, request: pb.UpdateNamespaceRequest, context: Context
    ) -> pb.Namespace:
        wanted, paths = request.namespace, set(request.update_mask.paths)
        if unknown := paths - {"description", "quotas", "*"}:
            raise InvalidArgument(
                f"update_mask: {min(unknown)[:80]!r} cannot be updated; use description, quotas or *",
                reason="UPDATE_MASK_INVALID",
                path=min(unknown)[:80],
            )
        by_value = not paths
        description = bool({"*", "description"} & paths) or (by_value and bool(wanted.description))
        quotas = bool({"*", "quotas"} & paths) or (by_value and wanted.HasField("quotas"))
        namespace = await asyncio.to_thread(
            self._access.update_namespace,
            _one_namespace(wanted.name),
            description=wanted.description if description else None,
            quotas=quotas_from_proto(wanted.quotas) if quotas else None,
            etag=wanted.etag,
        )
        return _namespace(namespace)

    async def DeleteNamespace(
        self, request: pb.DeleteNamespaceRequest, context: Context
    ) -> empty_pb2.Empty:
        await asyncio.to_thread(self._access.delete_namespace, _one_namespace(request.name))
        return empty_pb2.Empty()

    # The audit log.

    async def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, context: Context
    ) -> pb.ListAuditEventsResponse:
        page = await asyncio.to_thread(
            self._access.list_audit_events,
            references.parse_namespace_name(request.parent, all_allowed=True),
            principal=request.principal,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListAuditEventsResponse(
            events=map(_event, page.items), next_page_token=page.next_token
        )


def _one_namespace(name: str) -> str:
    namespace = references.parse_namespace_name(name)
    assert namespace is not None  # only `namespaces/-` is None, and it is not allowed here
    return namespace


def _token(token: Token) -> pb.Token:
    return pb.Token(
        name=f"tokens/{token.token_id}",
        display_name=token.display_name,
        grants=map(str, token.grants),
        create_time=_timestamp(token.create_time),
        created_by=token.created_by,
        expire_time=_timestamp(token.expire_time),
        revoke_time=_timestamp(token.revoke_time),
    )


def _namespace(namespace: Namespace) -> pb.Namespace:
    quotas = {field: getattr(namespace.quotas, field) for field in Quotas.__slots__}
    return pb.Namespace(
        name=f"namespaces/{namespace.name}",
        description=namespace.description,
        quotas=pb.Quotas(**quotas),
        create_time=_timestamp(namespace.create_time),
        etag=namespace.etag,
    )


def quotas_from_proto(quotas: pb.Quotas) -> Quotas:
    return Quotas(**{field: getattr(quotas, field) for field in Quotas.__slots__})


def _event(event: AuditEvent) -> pb.AuditEvent:
    return pb.AuditEvent(
        number=event.number,
        time=_timestamp(event.time),
        principal=event.principal,
        peer=event.peer,
        action=event.action,
        resource=event.resource,
        outcome=event.outcome,
        reason=event.reason,
    )


def _moment(timestamp: Timestamp) -> datetime:
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument(
            f"expire_time {timestamp.seconds} s is no moment between the years 1 and 9999: correct it",
            reason="EXPIRE_TIME_INVALID",
        ) from None


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
