"""The calls of the access service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from lorry.registry.v1 import access_service_pb2 as pb
from lorry_client import names
from lorry_client._calls.registry import nothing
from lorry_client._calls.requests import LOOKUP_SECONDS, build
from lorry_client._steps import Call, Page
from lorry_client.errors import InvalidArgument
from lorry_client.results.access import AuditEvent, Caller, FreshToken, Namespace, Quotas, Token

_PAGE_SIZE = 1000


def caller() -> Call[Caller]:
    return Call(
        lambda stubs: stubs.access.GetCaller, pb.GetCallerRequest(), Caller.read, LOOKUP_SECONDS
    )


def create_token(
    grants: Sequence[str], display_name: str, lifetime: timedelta | None
) -> Call[FreshToken]:
    request = pb.CreateTokenRequest(
        token=build(
            pb.Token, grants=grants, display_name=display_name, expire_time=_from_now(lifetime)
        )
    )
    return Call(lambda stubs: stubs.access.CreateToken, request, FreshToken.read, LOOKUP_SECONDS)


def list_tokens(page_token: str) -> Call[Page[Token]]:
    return Call(
        lambda stubs: stubs.access.ListTokens,
        pb.ListTokensRequest(page_size=_PAGE_SIZE, page_token=page_token),
        lambda answer: Page([Token.read(one) for one in answer.tokens], answer.next_page_token),
        LOOKUP_SECONDS,
    )


def revoke_token(token_id: str) -> Call[Token]:
    request = build(pb.RevokeTokenRequest, name=f"tokens/{token_id.removeprefix('tokens/')}")
    return Call(lambda stubs: stubs.access.RevokeToken, request, Token.read, LOOKUP_SECONDS)


def create_namespace(name: str, description: str, quotas: Quotas | None) -> Call[Namespace]:
    request = build(
        pb.CreateNamespaceRequest,
        namespace_id=name,
        namespace=build(pb.Namespace, description=description, quotas=_message(quotas)),
    )
    return Call(lambda stubs: stubs.access.CreateNamespace, request, Namespace.read, LOOKUP_SECONDS)


def get_namespace(name: str) -> Call[Namespace]:
    request = build(pb.GetNamespaceRequest, name=names.namespace(name))
    return Call(lambda stubs: stubs.access.GetNamespace, request, Namespace.read, LOOKUP_SECONDS)


def list_namespaces(page_token: str) -> Call[Page[Namespace]]:
    return Call(
        lambda stubs: stubs.access.ListNamespaces,
        pb.ListNamespacesRequest(page_size=_PAGE_SIZE, page_token=page_token),
        lambda answer: Page(
            [Namespace.read(one) for one in answer.namespaces], answer.next_page_token
        ),
        LOOKUP_SECONDS,
    )


def update_namespace(
    name: str, description: str | None, quotas: Quotas | None, etag: str | None
) -> Call[Namespace]:
    """Changes what is not None; the mask says so, because an empty description is a value too."""
    given = (("description", description), ("quotas", quotas))
    changed = [field for field, value in given if value is not None]
    if not changed:
        raise InvalidArgument("Nothing to update: give a description or quotas.")
    request = pb.UpdateNamespaceRequest(
        namespace=build(
            pb.Namespace,
            name=names.namespace(name),
            description=description,
            quotas=_message(quotas),
            etag=etag,
        ),
        update_mask=FieldMask(paths=changed),
    )
    return Call(lambda stubs: stubs.access.UpdateNamespace, request, Namespace.read, LOOKUP_SECONDS)


def delete_namespace(name: str) -> Call[None]:
    request = build(pb.DeleteNamespaceRequest, name=names.namespace(name))
    return Call(lambda stubs: stubs.access.DeleteNamespace, request, nothing, LOOKUP_SECONDS)


def audit(
    namespace: str | None, principal: str, page_size: int, page_token: str
) -> Call[Page[AuditEvent]]:
    request = build(
        pb.ListAuditEventsRequest,
        parent=names.namespace(namespace),
        principal=principal,
        page_size=min(page_size, _PAGE_SIZE),
        page_token=page_token,
    )
    return Call(
        lambda stubs: stubs.access.ListAuditEvents,
        request,
        lambda answer: Page(
            [AuditEvent.read(one) for one in answer.events], answer.next_page_token
        ),
        LOOKUP_SECONDS,
    )


def _message(quotas: Quotas | None) -> pb.Quotas | None:
    return None if quotas is None else build(pb.Quotas, **asdict(quotas))


def _from_now(lifetime: timedelta | None) -> Timestamp | None:
    if lifetime is None:
        return None
    end = Timestamp()
    try:
        end.FromDatetime(datetime.now(UTC) + lifetime)
    except OverflowError as error:
        raise InvalidArgument(
            f"A lifetime of {lifetime} ends beyond the year 9999.", reason="INVALID_LIFETIME"
        ) from error
    return end
