"""RegistryService over the catalogue. Handlers convert and delegate; everything that may block runs in a thread."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf import empty_pb2

from lorry.registry.v1 import insight_pb2, registry_service_pb2_grpc, resources_pb2
from lorry.registry.v1 import registry_service_pb2 as pb
from lorry_registry import references
from lorry_registry.catalogue import Catalogue
from lorry_registry.entities import AdapterKey, Deprecation
from lorry_registry.errors import ResourceExhausted
from lorry_registry.paging import clip_page_size
from lorry_registry.rpc import convert
from lorry_registry.rpc.convert_insights import comparison_to_proto, graph_to_proto

T = TypeVar("T")

_MAX_PAGE_BYTES = 3 << 20
"""Well below the message limit: a page of long recipes or wide bases is cut short, and its token goes on."""

Context = Any  # grpc.aio.ServicerContext; nothing here needs it


class RegistryService(registry_service_pb2_grpc.RegistryServiceServicer):
    """The catalogue's verbs."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._comparing = asyncio.Semaphore(
            1
        )  # one at a time: it reads files as large as they come

    # Adapters.

    async def CreateAdapter(
        self, request: pb.CreateAdapterRequest, context: Context
    ) -> resources_pb2.Adapter:
        namespace = references.parse_namespace_name(request.parent)
        assert namespace is not None  # only `namespaces/-` is None, and it is not allowed here
        key = AdapterKey(namespace, references.check_id(request.adapter_id, "adapter"))
        adapter = await asyncio.to_thread(
            self._catalogue.create_adapter,
            key,
            description=request.adapter.description,
            labels=dict(request.adapter.labels),
            annotations=dict(request.adapter.annotations),
        )
        return convert.adapter_to_proto(adapter)

    async def GetAdapter(
        self, request: pb.GetAdapterRequest, context: Context
    ) -> resources_pb2.Adapter:
        key = references.parse_adapter_name(request.name)
        return convert.adapter_to_proto(await asyncio.to_thread(self._catalogue.get_adapter, key))

    async def ListAdapters(
        self, request: pb.ListAdaptersRequest, context: Context
    ) -> pb.ListAdaptersResponse:
        namespace = references.parse_namespace_name(request.parent, all_allowed=True)

        def answer(page_size: int) -> pb.ListAdaptersResponse:
            page = self._catalogue.list_adapters(
                namespace,
                page_size=page_size,
                page_token=request.page_token,
                filter_text=request.filter,
                order_by=request.order_by,
                show_deleted=request.show_deleted,
            )
            return pb.ListAdaptersResponse(
                adapters=map(convert.adapter_to_proto, page.items), next_page_token=page.next_token
            )

        return await asyncio.to_thread(_fit_page, answer, request.page_size)

    async def UpdateAdapter(
        self, request: pb.UpdateAdapterRequest, context: Context
    ) -> resources_pb2.Adapter:
        key = references.parse_adapter_name(request.adapter.name)
        changes = convert.changes(request.adapter, request.update_mask.paths)
        adapter = await asyncio.to_thread(
            self._catalogue.update_adapter, key, etag=request.adapter.etag, **changes
        )
        return convert.adapter_to_proto(adapter)

    async def DeleteAdapter(
        self, request: pb.DeleteAdapterRequest, context: Context
    ) -> resources_pb2.Adapter:
        key = references.parse_adapter_name(request.name)
        deleted = await asyncio.to_thread(
            self._catalogue.delete_adapter, key, force=request.force, etag=request.etag
        )
        return convert.adapter_to_proto(deleted)

    async def UndeleteAdapter(
        self, request: pb.UndeleteAdapterRequest, context: Context
    ) -> resources_pb2.Adapter:
        key = references.parse_adapter_name(request.name)
        return convert.adapter_to_proto(
            await asyncio.to_thread(self._catalogue.undelete_adapter, key)
        )

    async def PurgeAdapter(
        self, request: pb.PurgeAdapterRequest, context: Context
    ) -> empty_pb2.Empty:
        key = references.parse_adapter_name(request.name)
        await asyncio.to_thread(self._catalogue.purge_adapter, key)
        return empty_pb2.Empty()

    # Versions.

    async def CreateVersion(
        self, request: pb.CreateVersionRequest, context: Context
    ) -> resources_pb2.Version:
        key = references.parse_adapter_name(request.parent)
        version = await asyncio.to_thread(
            self._catalogue.publish,
            key,
            convert.files_from_proto(request.version.files),
            lineage=convert.lineage_from_proto(request.version.lineage),
            description=request.version.description,
            validate_only=request.validate_only,
        )
        return convert.version_to_proto(version)

    async def CopyVersion(
        self, request: pb.CopyVersionRequest, context: Context
    ) -> resources_pb2.Version:
        key = references.parse_adapter_name(request.parent)
        return convert.version_to_proto(
            await asyncio.to_thread(self._catalogue.copy, request.reference, key)
        )

    async def GetVersion(
        self, request: pb.GetVersionRequest, context: Context
    ) -> resources_pb2.Version:
        key, number = references.parse_version_name(request.name)
        return convert.version_to_proto(
            await asyncio.to_thread(self._catalogue.get_version, key, number)
        )

    async def ListVersions(
        self, request: pb.ListVersionsRequest, context: Context
    ) -> pb.ListVersionsResponse:
        namespace, key = references.parse_adapters_name(request.parent)

        def answer(page_size: int) -> pb.ListVersionsResponse:
            page = self._catalogue.list_versions(
                key,
                namespace=namespace,
                page_size=page_size,
                page_token=request.page_token,
                filter_text=request.filter,
                order_by=request.order_by,
                show_deleted=request.show_deleted,
            )
            return pb.ListVersionsResponse(
                versions=map(convert.version_to_proto, page.items), next_page_token=page.next_token
            )

        return await asyncio.to_thread(_fit_page, answer, request.page_size)

    async def DeleteVersion(
        self, request: pb.DeleteVersionRequest, context: Context
    ) -> resources_pb2.Version:
        key, number = references.parse_version_name(request.name)
        deleted = await asyncio.to_thread(
            self._catalogue.delete_version, key, number, force=request.force, etag=request.etag
        )
        return convert.version_to_proto(deleted)

    async def UndeleteVersion(
        self, request: pb.UndeleteVersionRequest, context: Context
    ) -> resources_pb2.Version:
        key, number = references.parse_version_name(request.name)
        return convert.version_to_proto(
            await asyncio.to_thread(self._catalogue.undelete_version, key, number)
        )

    async def PurgeVersion(
        self, request: pb.PurgeVersionRequest, context: Context
    ) -> empty_pb2.Empty:
        key, number = references.parse_version_name(request.name)
        await asyncio.to_thread(self._catalogue.purge_version, key, number)
        return empty_pb2.Empty()

    async def UpdateVersion(
        self, request: pb.UpdateVersionRequest, context: Context
    ) -> resources_pb2.Version:
        key, number = references.parse_version_name(request.version.name)
        changes = convert.changes(request.version, request.update_mask.paths)
        return convert.version_to_proto(
            await asyncio.to_thread(
                self._catalogue.update_version, key, number, etag=request.version.etag, **changes
            )
        )

    async def CreateEvaluation(
        self, request: pb.CreateEvaluationRequest, context: Context
    ) -> resources_pb2.Evaluation:
        key, number = references.parse_version_name(request.parent)
        evaluation = await asyncio.to_thread(
            self._catalogue.add_evaluation,
            key,
            number,
            title=request.evaluation.title,
            metrics=dict(request.evaluation.metrics),
            dataset=convert.dataset_from_proto(request.evaluation.dataset),
            description=request.evaluation.description,
        )
        return convert.evaluation_to_proto(evaluation)

    async def ListEvaluations(
        self, request: pb.ListEvaluationsRequest, context: Context
    ) -> pb.ListEvaluationsResponse:
        key, number = references.parse_version_name(request.parent)

        def answer(page_size: int) -> pb.ListEvaluationsResponse:
            page = self._catalogue.list_evaluations(
                key, number, page_size=page_size, page_token=request.page_token
            )
            return pb.ListEvaluationsResponse(
                evaluations=map(convert.evaluation_to_proto, page.items),
                next_page_token=page.next_token,
            )

        return await asyncio.to_thread(_fit_page, answer, request.page_size)

    async def GetLineageGraph(
        self, request: pb.GetLineageGraphRequest, context: Context
    ) -> insight_pb2.LineageGraph:
        key, number = references.parse_version_name(request.name)
        return graph_to_proto(await asyncio.to_thread(self._catalogue.lineage_graph, key, number))

    async def CompareVersions(
        self, request: pb.CompareVersionsRequest, context: Context
    ) -> insight_pb2.Comparison:
        async with self._comparing:
            comparison = await asyncio.to_thread(
                self._catalogue.compare_versions,
                request.first_reference,
                request.second_reference,
            )
        answer = comparison_to_proto(comparison)
        if answer.ByteSize() > _MAX_PAGE_BYTES:
            raise ResourceExhausted(
                f"the comparison has {answer.ByteSize()} bytes, more than a message may have: pull both versions and "
                "compare their files",
                reason="RESPONSE_TOO_LARGE",
                max_bytes=_MAX_PAGE_BYTES,
            )
        return answer

    async def DeprecateVersion(
        self, request: pb.DeprecateVersionRequest, context: Context
    ) -> resources_pb2.Version:
        key, number = references.parse_version_name(request.name)
        deprecation = Deprecation(request.deprecation.reason, request.deprecation.replacement)
        return convert.version_to_proto(
            await asyncio.to_thread(self._catalogue.deprecate, key, number, deprecation)
        )

    async def UndeprecateVersion(
        self, request: pb.UndeprecateVersionRequest, context: Context
    ) -> resources_pb2.Version:
        key, number = references.parse_version_name(request.name)
        return convert.version_to_proto(
            await asyncio.to_thread(self._catalogue.undeprecate, key, number, why=request.why)
        )

    async def BlockVersion(
        self, request: pb.BlockVersionRequest, context: Context
    ) -> resources_pb2.Version:
        key, number = references.parse_version_name(request.name)
        return convert.version_to_proto(
            await asyncio.to_thread(self._catalogue.block, key, number, request.why)
        )

    async def UnblockVersion(
        self, request: pb.UnblockVersionRequest, context: Context
    ) -> resources_pb2.Version:
        key, number = references.parse_version_name(request.name)
        return convert.version_to_proto(
            await asyncio.to_thread(self._catalogue.unblock, key, number, why=request.why)
        )

    async def ResolveReference(
        self, request: pb.ResolveReferenceRequest, context: Context
    ) -> resources_pb2.Version:
        return convert.version_to_proto(
            await asyncio.to_thread(
                self._catalogue.resolve,
                request.reference,
                request.sticky_key if request.HasField("sticky_key") else None,
            )
        )

    async def ExpandReference(
        self, request: pb.ExpandReferenceRequest, context: Context
    ) -> pb.ExpandReferenceResponse:
        meaning = await asyncio.to_thread(self._catalogue.expand, request.reference)
        return pb.ExpandReferenceResponse(
            versions=[convert.weighted_to_proto(*one) for one in meaning.versions],
            salt=meaning.salt,
        )

    # Aliases.

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> resources_pb2.Alias:
        key, alias_id = references.parse_alias_name(request.alias.name)
        alias = await asyncio.to_thread(
            self._catalogue.set_alias,
            key,
            alias_id,
            convert.targets_from_proto(request.alias.targets),
            etag=request.alias.etag,
            why=request.why,
        )
        return convert.alias_to_proto(alias)

    async def RollbackAlias(
        self, request: pb.RollbackAliasRequest, context: Context
    ) -> resources_pb2.Alias:
        key, alias_id = references.parse_alias_name(request.name)
        alias = await asyncio.to_thread(
            self._catalogue.rollback_alias,
            key,
            alias_id,
            move=request.move,
            etag=request.etag,
            why=request.why,
        )
        return convert.alias_to_proto(alias)

    async def ListAliasMoves(
        self, request: pb.ListAliasMovesRequest, context: Context
    ) -> pb.ListAliasMovesResponse:
        key, alias_id = references.parse_alias_name(request.parent)

        def answer(page_size: int) -> pb.ListAliasMovesResponse:
            page = self._catalogue.list_alias_moves(
                key, alias_id, page_size=page_size, page_token=request.page_token
            )
            return pb.ListAliasMovesResponse(
                alias_moves=map(convert.move_to_proto, page.items), next_page_token=page.next_token
            )

        return await asyncio.to_thread(_fit_page, answer, request.page_size)

    async def GetAlias(self, request: pb.GetAliasRequest, context: Context) -> resources_pb2.Alias:
        key, alias_id = references.parse_alias_name(request.name)
        return convert.alias_to_proto(
            await asyncio.to_thread(self._catalogue.get_alias, key, alias_id)
        )

    async def ListAliases(
        self, request: pb.ListAliasesRequest, context: Context
    ) -> pb.ListAliasesResponse:
        key = references.parse_adapter_name(request.parent)

        def answer(page_size: int) -> pb.ListAliasesResponse:
            page = self._catalogue.list_aliases(
                key, page_size=page_size, page_token=request.page_token
            )
            return pb.ListAliasesResponse(
                aliases=map(convert.alias_to_proto, page.items), next_page_token=page.next_token
            )

        return await asyncio.to_thread(_fit_page, answer, request.page_size)

    async def DeleteAlias(
        self, request: pb.DeleteAliasRequest, context: Context
    ) -> empty_pb2.Empty:
        key, alias_id = references.parse_alias_name(request.name)
        await asyncio.to_thread(
            self._catalogue.delete_alias, key, alias_id, etag=request.etag, why=request.why
        )
        return empty_pb2.Empty()

    # Bases.

    async def CreateBase(
        self, request: pb.CreateBaseRequest, context: Context
    ) -> resources_pb2.Base:
        base = convert.base_from_proto(request.base)
        return convert.base_to_proto(await asyncio.to_thread(self._catalogue.put_base, base))

    async def GetBase(self, request: pb.GetBaseRequest, context: Context) -> resources_pb2.Base:
        fingerprint = references.parse_base_name(request.name)
        return convert.base_to_proto(await asyncio.to_thread(self._catalogue.get_base, fingerprint))

    async def ListBases(
        self, request: pb.ListBasesRequest, context: Context
    ) -> pb.ListBasesResponse:
        def answer(page_size: int) -> pb.ListBasesResponse:
            page = self._catalogue.list_bases(page_size=page_size, page_token=request.page_token)
            return pb.ListBasesResponse(
                bases=map(convert.base_to_proto, page.items), next_page_token=page.next_token
            )

        return await asyncio.to_thread(_fit_page, answer, request.page_size)


def _fit_page(answer: Callable[[int], T], page_size: int) -> T:
    """The answer for the largest page, of `page_size` or a half, a quarter … of it, that fits in a message."""
    size = clip_page_size(page_size)
    while True:
        response: Any = answer(size)
        if response.ByteSize() <= _MAX_PAGE_BYTES or size == 1:
            return response  # type: ignore[no-any-return]
        size //= 2
