"""The calls of the registry service."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from lorry.registry.v1 import registry_service_pb2 as pb
from lorry.registry.v1 import resources_pb2 as resources
from lorry_client import names
from lorry_client._calls.requests import LOOKUP_SECONDS, PUBLISH_SECONDS, build
from lorry_client._steps import Call, Page, Steps, ask
from lorry_client.errors import AlreadyExists, InvalidArgument, LorryError, NotFound
from lorry_client.results.catalogue import Adapter, Alias, AliasMove, File, Version

if TYPE_CHECKING:
    from google.protobuf.empty_pb2 import Empty

Target = int | str | Mapping[int, int] | Mapping[str, int] | Mapping[int | str, int]
"""What an alias is to point at: a number, a reference, or several of them with their weights."""

_PAGE_SIZE = 1000


def nothing(_: Empty) -> None:
    """Reads an empty answer."""


def list_adapters(
    namespace: str | None, filter_: str, order_by: str, show_deleted: bool, page_token: str
) -> Call[Page[Adapter]]:
    request = build(
        pb.ListAdaptersRequest,
        parent=names.namespace(namespace),
        page_size=_PAGE_SIZE,
        page_token=page_token,
        filter=filter_,
        order_by=order_by,
        show_deleted=show_deleted,
    )
    return Call(
        lambda stubs: stubs.registry.ListAdapters,
        request,
        lambda answer: Page([Adapter.read(one) for one in answer.adapters], answer.next_page_token),
        LOOKUP_SECONDS,
    )


def get_adapter(name: str) -> Call[Adapter]:
    request = build(pb.GetAdapterRequest, name=names.adapter(name))
    return Call(lambda stubs: stubs.registry.GetAdapter, request, Adapter.read, LOOKUP_SECONDS)


def create_adapter(
    name: str,
    description: str = "",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Call[Adapter]:
    parent, adapter_id = names.parent_and_id(names.adapter(name))
    request = build(
        pb.CreateAdapterRequest,
        parent=parent,
        adapter_id=adapter_id,
        adapter=build(
            resources.Adapter, description=description, labels=labels, annotations=annotations
        ),
    )
    return Call(lambda stubs: stubs.registry.CreateAdapter, request, Adapter.read, LOOKUP_SECONDS)


def update_adapter(
    name: str,
    description: str | None,
    labels: Mapping[str, str] | None,
    annotations: Mapping[str, str] | None,
    etag: str | None,
) -> Call[Adapter]:
    """Changes what is not None; the mask says so, because an empty description is a value too."""
    fields = {"description": description, "labels": labels, "annotations": annotations}
    request = build(
        pb.UpdateAdapterRequest,
        adapter=build(resources.Adapter, name=names.adapter(name), etag=etag, **fields),
        update_mask=mask_of(fields),
    )
    return Call(lambda stubs: stubs.registry.UpdateAdapter, request, Adapter.read, LOOKUP_SECONDS)


def mask_of(fields: Mapping[str, object]) -> FieldMask:
    """The fields that are to change."""
    changed = [field for field, value in fields.items() if value is not None]
    if not changed:
        raise InvalidArgument("Nothing to update: give a description, labels or annotations.")
    return FieldMask(paths=changed)


def delete_adapter(name: str, force: bool, etag: str | None) -> Call[Adapter]:
    request = build(pb.DeleteAdapterRequest, name=names.adapter(name), force=force, etag=etag)
    return Call(lambda stubs: stubs.registry.DeleteAdapter, request, Adapter.read, LOOKUP_SECONDS)


def undelete_adapter(name: str) -> Call[Adapter]:
    request = build(pb.UndeleteAdapterRequest, name=names.adapter(name))
    return Call(lambda stubs: stubs.registry.UndeleteAdapter, request, Adapter.read, LOOKUP_SECONDS)


def purge_adapter(name: str) -> Call[None]:
    request = build(pb.PurgeAdapterRequest, name=names.adapter(name))
    return Call(lambda stubs: stubs.registry.PurgeAdapter, request, nothing, LOOKUP_SECONDS)


def delete_version(name: str, number: int, force: bool, etag: str | None) -> Call[Version]:
    request = build(
        pb.DeleteVersionRequest, name=names.version(name, number), force=force, etag=etag
    )
    return Call(lambda stubs: stubs.registry.DeleteVersion, request, Version.read, LOOKUP_SECONDS)


def undelete_version(name: str, number: int) -> Call[Version]:
    request = build(pb.UndeleteVersionRequest, name=names.version(name, number))
    return Call(lambda stubs: stubs.registry.UndeleteVersion, request, Version.read, LOOKUP_SECONDS)


def purge_version(name: str, number: int) -> Call[None]:
    request = build(pb.PurgeVersionRequest, name=names.version(name, number))
    return Call(lambda stubs: stubs.registry.PurgeVersion, request, nothing, LOOKUP_SECONDS)


def create_version(
    name: str,
    files: Sequence[File],
    lineage: resources.Lineage | None,
    description: str,
) -> Call[Version]:
    version = build(
        resources.Version,
        files=[
            resources.File(
                path=file.path,
                digest=file.digest,
                size_bytes=file.size_bytes,
                media_type=file.media_type,
            )
            for file in files
        ],
        lineage=lineage,
        description=description,
    )
    request = pb.CreateVersionRequest(parent=names.adapter(name), version=version)
    return Call(lambda stubs: stubs.registry.CreateVersion, request, Version.read, PUBLISH_SECONDS)


def copy_version(reference: str, name: str) -> Call[Version]:
    """Makes a version of another adapter, where the bytes are."""
    request = build(pb.CopyVersionRequest, reference=reference, parent=names.adapter(name))
    return Call(lambda stubs: stubs.registry.CopyVersion, request, Version.read, PUBLISH_SECONDS)


def copy(reference: str, name: str) -> Steps[Version]:
    """As `copy_version`, and makes the adapter where it is new; it goes again where the copy is refused."""
    is_new = False
    try:
        yield from ask(get_adapter(name))
    except NotFound:
        with contextlib.suppress(AlreadyExists):
            yield from ask(create_adapter(name))
            is_new = True
    try:
        return (yield from ask(copy_version(reference, name)))
    except LorryError:
        if is_new:
            with contextlib.suppress(LorryError):
                yield from ask(delete_adapter(name, force=False, etag=None))
        raise


def list_versions(
    name: str | None,
    namespace: str | None,
    filter_: str,
    order_by: str,
    show_deleted: bool,
    page_token: str,
) -> Call[Page[Version]]:
    """Of one adapter, or where `name` is None of all, in a namespace or in every one."""
    request = build(
        pb.ListVersionsRequest,
        parent=names.adapters(namespace) if name is None else names.adapter(name),
        page_size=_PAGE_SIZE,
        page_token=page_token,
        filter=filter_,
        order_by=order_by,
        show_deleted=show_deleted,
    )
    return Call(
        lambda stubs: stubs.registry.ListVersions,
        request,
        lambda answer: Page([Version.read(one) for one in answer.versions], answer.next_page_token),
        LOOKUP_SECONDS,
    )


def resolve(reference: str, sticky_key: str | None = None) -> Call[Version]:
    request = build(pb.ResolveReferenceRequest, reference=reference, sticky_key=sticky_key)
    return Call(
        lambda stubs: stubs.registry.ResolveReference, request, Version.read, LOOKUP_SECONDS
    )


def get_alias(name: str, alias: str) -> Call[Alias]:
    request = build(pb.GetAliasRequest, name=names.alias(name, alias))
    return Call(lambda stubs: stubs.registry.GetAlias, request, Alias.read, LOOKUP_SECONDS)


def point_alias(
    name: str, alias: str, shares: Mapping[int, int], etag: str | None = None, why: str = ""
) -> Call[Alias]:
    """Points an alias at versions by their numbers, each with its weight."""
    request = pb.SetAliasRequest(
        alias=build(
            resources.Alias,
            name=names.alias(name, alias),
            targets=[
                build(resources.AliasTarget, version=version, weight=weight)
                for version, weight in shares.items()
            ],
            etag=etag,
        ),
        why=why,
    )
    return Call(lambda stubs: stubs.registry.SetAlias, request, Alias.read, LOOKUP_SECONDS)


def set_alias(
    name: str, alias: str, target: Target, etag: str | None, why: str = ""
) -> Steps[Alias]:
    """Points an alias at what a number or a reference means now, or at several of them by weight."""
    wanted = names.short(names.adapter(name))
    weights = target if isinstance(target, Mapping) else {target: 1}
    shares: dict[int, int] = {}
    for one, weight in weights.items():
        number = one
        if isinstance(one, str):
            version = yield from ask(resolve(names.reference(name, one)))
            if version.adapter != wanted:
                raise InvalidArgument(
                    f"{one!r} is a version of {version.adapter}; an alias of {wanted} points at one of its own "
                    "versions.",
                    reason="ALIAS_OF_ANOTHER_ADAPTER",
                    metadata={"adapter": wanted, "target": version.reference},
                )
            number = version.number
        shares[int(number)] = shares.get(int(number), 0) + weight
    return (yield from ask(point_alias(name, alias, shares, etag, why)))


def rollback_alias(
    name: str, alias: str, to: int | None, etag: str | None, why: str
) -> Call[Alias]:
    request = build(
        pb.RollbackAliasRequest, name=names.alias(name, alias), move=to, etag=etag, why=why
    )
    return Call(lambda stubs: stubs.registry.RollbackAlias, request, Alias.read, LOOKUP_SECONDS)


def alias_moves(name: str, alias: str, page_token: str) -> Call[Page[AliasMove]]:
    request = build(
        pb.ListAliasMovesRequest,
        parent=names.alias(name, alias),
        page_size=_PAGE_SIZE,
        page_token=page_token,
    )
    return Call(
        lambda stubs: stubs.registry.ListAliasMoves,
        request,
        lambda answer: Page(
            [AliasMove.read(one) for one in answer.alias_moves], answer.next_page_token
        ),
        LOOKUP_SECONDS,
    )


def list_aliases(name: str, page_token: str) -> Call[Page[Alias]]:
    request = build(
        pb.ListAliasesRequest,
        parent=names.adapter(name),
        page_size=_PAGE_SIZE,
        page_token=page_token,
    )
    return Call(
        lambda stubs: stubs.registry.ListAliases,
        request,
        lambda answer: Page([Alias.read(one) for one in answer.aliases], answer.next_page_token),
        LOOKUP_SECONDS,
    )


def delete_alias(name: str, alias: str, etag: str | None, why: str = "") -> Call[None]:
    request = build(pb.DeleteAliasRequest, name=names.alias(name, alias), etag=etag, why=why)
    return Call(lambda stubs: stubs.registry.DeleteAlias, request, nothing, LOOKUP_SECONDS)
