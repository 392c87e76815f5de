"""A server that keeps the whole contract in memory, with switches for what goes wrong on real networks."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest
from google.protobuf import any_pb2, empty_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from lorry.admin.v1 import admin_service_pb2 as admin
from lorry.admin.v1 import admin_service_pb2_grpc
from lorry.inference.v1 import inference_service_pb2 as inference
from lorry.inference.v1 import inference_service_pb2_grpc
from lorry.registry.v1 import blob_service_pb2 as blobs
from lorry.registry.v1 import (
    blob_service_pb2_grpc,
    registry_service_pb2_grpc,
    watch_service_pb2_grpc,
)
from lorry.registry.v1 import insight_pb2 as insight
from lorry.registry.v1 import registry_service_pb2 as registry
from lorry.registry.v1 import resources_pb2 as resources
from lorry.registry.v1 import watch_service_pb2 as watch

PAGE_SIZE = 2  # small, so that every list takes several pages


def abort(
    context: grpc.ServicerContext, code: grpc.StatusCode, reason: str, **metadata: str
) -> NoReturn:
    info = error_details_pb2.ErrorInfo(reason=reason, domain="lorry", metadata=metadata)
    detail = any_pb2.Any()
    detail.Pack(info)
    status = status_pb2.Status(
        code=code.value[0], message=f"{reason} for the test.", details=[detail]
    )
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort returns")


def page(items: list[Any], token: str) -> tuple[list[Any], str]:
    start = int(token or 0)
    end = start + PAGE_SIZE
    return items[start:end], str(end) if end < len(items) else ""


class Registry(registry_service_pb2_grpc.RegistryServiceServicer):
    def __init__(self, blob_service: Blobs) -> None:
        self.blobs = blob_service
        self.adapters: dict[str, resources.Adapter] = {}
        self.versions: dict[str, list[resources.Version]] = {}
        self.aliases: dict[str, resources.Alias] = {}
        self.moves: dict[str, list[resources.AliasMove]] = {}
        self.searches: list[Any] = []
        self.bases: list[Any] = []
        self.evaluations: dict[str, list[resources.Evaluation]] = {}
        self.unavailable_times = 0
        self.refuse_versions = False

    def _adapter(self, name: str, context: grpc.ServicerContext) -> resources.Adapter:
        if name not in self.adapters:
            abort(context, grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND", adapter=name)
        return self.adapters[name]

    def CreateAdapter(self, request, context):  # type: ignore[no-untyped-def]
        name = f"{request.parent}/adapters/{request.adapter_id}"
        if name in self.adapters:
            abort(context, grpc.StatusCode.ALREADY_EXISTS, "ADAPTER_EXISTS", adapter=name)
        adapter = resources.Adapter()
        adapter.CopyFrom(request.adapter)
        adapter.name, adapter.etag = name, "1"
        adapter.create_time.GetCurrentTime()
        self.adapters[name] = adapter
        return adapter

    def GetBase(self, request, context):  # type: ignore[no-untyped-def]
        fingerprint = request.name.removeprefix("bases/")
        if fingerprint != f"sha256:{'b' * 64}":
            abort(context, grpc.StatusCode.NOT_FOUND, "BASE_NOT_FOUND", base=request.name)
        return resources.Base(fingerprint=fingerprint, display_name="lorry-tiny", max_rank=64)

    def CreateBase(self, request, context):  # type: ignore[no-untyped-def]
        self.bases.append(request.base)
        return request.base

    def GetAdapter(self, request, context):  # type: ignore[no-untyped-def]
        if self.unavailable_times > 0:
            self.unavailable_times -= 1
            abort(context, grpc.StatusCode.UNAVAILABLE, "RESTARTING")
        return self._adapter(request.name, context)

    def ListAdapters(self, request, context):  # type: ignore[no-untyped-def]
        self.searches.append(request)
        items, token = page(
            [self.adapters[name] for name in sorted(self.adapters)], request.page_token
        )
        return registry.ListAdaptersResponse(adapters=items, next_page_token=token)

    def UpdateAdapter(self, request, context):  # type: ignore[no-untyped-def]
        adapter = self._adapter(request.adapter.name, context)
        if request.adapter.etag and request.adapter.etag != adapter.etag:
            abort(context, grpc.StatusCode.ABORTED, "STALE_ETAG")
        for field in request.update_mask.paths:
            if field == "description":
                adapter.description = request.adapter.description
            else:
                getattr(adapter, field).clear()
                getattr(adapter, field).update(getattr(request.adapter, field))
        adapter.etag = str(int(adapter.etag) + 1)
        return adapter

    def DeleteAdapter(self, request, context):  # type: ignore[no-untyped-def]
        self._adapter(request.name, context)
        if self.versions.get(request.name) and not request.force:
            abort(context, grpc.StatusCode.FAILED_PRECONDITION, "ADAPTER_HAS_VERSIONS")
        self.versions.pop(request.name, None)
        return self.adapters.pop(request.name)

    def CreateVersion(self, request, context):  # type: ignore[no-untyped-def]
        adapter = self._adapter(request.parent, context)
        if self.refuse_versions:
            abort(context, grpc.StatusCode.INVALID_ARGUMENT, "NON_FINITE_VALUES", tensor="lora_A")
        if any(file.digest not in self.blobs.complete for file in request.version.files):
            abort(context, grpc.StatusCode.FAILED_PRECONDITION, "BLOB_MISSING")
        manifest = repr(sorted((file.path, file.digest) for file in request.version.files))
        digest = f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}"
        versions = self.versions.setdefault(request.parent, [])
        for version in versions:
            if version.digest == digest:
                return version
        version = resources.Version()
        version.CopyFrom(request.version)
        version.number, version.digest = len(versions) + 1, digest
        version.name = f"{request.parent}/versions/{version.number}"
        version.spec.max_rank = 8
        version.create_time.GetCurrentTime()
        versions.append(version)
        adapter.latest_version = version.number
        return version

    def ListVersions(self, request, context):  # type: ignore[no-untyped-def]
        self.searches.append(request)
        if request.parent.endswith("/adapters/-"):
            newest_first = [one for versions in self.versions.values() for one in versions][::-1]
        else:
            newest_first = self.versions.get(self._adapter(request.parent, context).name, [])[::-1]
        items, token = page(newest_first, request.page_token)
        return registry.ListVersionsResponse(versions=items, next_page_token=token)

    def ResolveReference(self, request, context):  # type: ignore[no-untyped-def]
        name, at, target = request.reference.partition("@")
        name, _, number = name.partition(":")
        namespace, _, adapter_id = name.rpartition("/")
        full = f"namespaces/{namespace or 'default'}/adapters/{adapter_id}"
        versions = self.versions.get(self._adapter(full, context).name, [])
        alias = self.aliases.get(f"{full}/aliases/{target}")
        for version in reversed(versions):
            wanted = (
                version.digest == target
                or (alias is not None and alias.targets[0].version == version.number)
                if at
                else not number or version.number == int(number)
            )
            if wanted:
                return version
        return abort(context, grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")

    def SetAlias(self, request, context):  # type: ignore[no-untyped-def]
        return self._move(request.alias, request.alias.targets, request.why, context)

    def RollbackAlias(self, request, context):  # type: ignore[no-untyped-def]
        moves = self.moves.get(request.name, [])
        number = request.move or len(moves) - 1
        if not 1 <= number <= len(moves):
            abort(context, grpc.StatusCode.FAILED_PRECONDITION, "NOTHING_TO_ROLL_BACK")
        back = resources.Alias(name=request.name, etag=request.etag)
        targets = moves[number - 1].to_targets
        return self._move(back, targets, request.why, context, restores=number)

    def ListAliasMoves(self, request, context):  # type: ignore[no-untyped-def]
        items, token = page(self.moves.get(request.parent, [])[::-1], request.page_token)
        return registry.ListAliasMovesResponse(alias_moves=items, next_page_token=token)

    def _move(self, wanted, targets, why, context, restores=0):  # type: ignore[no-untyped-def]
        current = self.aliases.get(wanted.name)
        if wanted.etag and (current is None or current.etag != wanted.etag):
            abort(context, grpc.StatusCode.ABORTED, "STALE_ETAG")
        versions = self.versions[wanted.name.partition("/aliases/")[0]]
        alias = resources.Alias(name=wanted.name, etag=str(int(current.etag) + 1 if current else 1))
        for target in targets:
            digest = versions[target.version - 1].digest
            alias.targets.add(version=target.version, digest=digest, weight=target.weight or 1)
        moves = self.moves.setdefault(wanted.name, [])
        move = resources.AliasMove(number=len(moves) + 1, principal="alice", why=why)
        move.from_targets.extend(current.targets if current else [])
        move.to_targets.extend(alias.targets)
        move.restores = restores
        moves.append(move)
        self.aliases[wanted.name] = alias
        return alias

    def GetAlias(self, request, context):  # type: ignore[no-untyped-def]
        if not request.name.rpartition("/")[2].islower():
            abort(context, grpc.StatusCode.INVALID_ARGUMENT, "NAME_INVALID")
        if request.name not in self.aliases:
            abort(context, grpc.StatusCode.NOT_FOUND, "ALIAS_NOT_FOUND")
        return self.aliases[request.name]

    def ListAliases(self, request, context):  # type: ignore[no-untyped-def]
        mine = [
            alias
            for name, alias in sorted(self.aliases.items())
            if name.startswith(f"{request.parent}/")
        ]
        items, token = page(mine, request.page_token)
        return registry.ListAliasesResponse(aliases=items, next_page_token=token)

    def DeleteAlias(self, request, context):  # type: ignore[no-untyped-def]
        if self.aliases.pop(request.name, None) is None:
            abort(context, grpc.StatusCode.NOT_FOUND, "ALIAS_NOT_FOUND")
        return empty_pb2.Empty()

    def _version(self, name: str, context: grpc.ServicerContext) -> resources.Version:
        parent, _, number = name.partition("/versions/")
        for version in self.versions.get(parent, []):
            if version.number == int(number):
                return version
        return abort(context, grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")

    def UpdateVersion(self, request, context):  # type: ignore[no-untyped-def]
        version = self._version(request.version.name, context)
        if request.version.etag and request.version.etag != version.etag:
            abort(context, grpc.StatusCode.ABORTED, "STALE_ETAG")
        for field in request.update_mask.paths:
            if field == "description":
                version.description = request.version.description
            else:
                getattr(version, field).clear()
                getattr(version, field).update(getattr(request.version, field))
        version.etag = str(int(version.etag or 1) + 1)
        return version

    def CreateEvaluation(self, request, context):  # type: ignore[no-untyped-def]
        self._version(request.parent, context)
        found = self.evaluations.setdefault(request.parent, [])
        evaluation = resources.Evaluation()
        evaluation.CopyFrom(request.evaluation)
        evaluation.number, evaluation.principal = len(found) + 1, "alice"
        found.append(evaluation)
        return evaluation

    def ListEvaluations(self, request, context):  # type: ignore[no-untyped-def]
        newest_first = self.evaluations.get(request.parent, [])[::-1]
        items, token = page(newest_first, request.page_token)
        return registry.ListEvaluationsResponse(evaluations=items, next_page_token=token)

    def GetLineageGraph(self, request, context):  # type: ignore[no-untyped-def]
        version = self._version(request.name, context)
        graph = insight.LineageGraph()
        graph.nodes.add(
            id="v", kind=insight.LINEAGE_NODE_KIND_VERSION, label="default/intent:1",
            digest=version.digest, version=request.name, metrics={"exact": 0.5},
        )  # fmt: skip
        graph.nodes.add(id="b", kind=insight.LINEAGE_NODE_KIND_BASE, label="tiny")
        graph.nodes.add(
            id="e", kind=insight.LINEAGE_NODE_KIND_EVALUATION, label="exam", metrics={"f1": 0.25}
        )
        graph.edges.add(source="v", target="b", relation="base")
        graph.edges.add(source="e", target="v", relation="evaluation")
        return graph

    def CompareVersions(self, request, context):  # type: ignore[no-untyped-def]
        parent = "namespaces/default/adapters/intent/versions"
        found = insight.Comparison(first=f"{parent}/1", second=f"{parent}/2")
        found.values.add(path="config.r", first="4", second="8")
        found.metrics.add(name="exact", first=0.5, second=0.75)
        found.metrics.add(name="loss", second=1)
        module = found.modules.add(module="q_proj", first_effect=2, effect_difference=0.5)
        module.factors.add(name="lora_A.weight", first_norm=1.5)
        return found

    def DeprecateVersion(self, request, context):  # type: ignore[no-untyped-def]
        version = self._version(request.name, context)
        version.state = resources.VERSION_STATE_DEPRECATED
        version.deprecation.CopyFrom(request.deprecation)
        return version

    def UndeprecateVersion(self, request, context):  # type: ignore[no-untyped-def]
        version = self._version(request.name, context)
        version.state = resources.VERSION_STATE_ACTIVE
        version.ClearField("deprecation")
        return version

    def BlockVersion(self, request, context):  # type: ignore[no-untyped-def]
        if not request.why:
            abort(context, grpc.StatusCode.INVALID_ARGUMENT, "REASON_MISSING")
        version = self._version(request.name, context)
        version.state, version.block_reason = resources.VERSION_STATE_BLOCKED, request.why
        return version

    def UnblockVersion(self, request, context):  # type: ignore[no-untyped-def]
        version = self._version(request.name, context)
        version.state, version.block_reason = resources.VERSION_STATE_ACTIVE, ""
        return version


class Watching(watch_service_pb2_grpc.WatchServiceServicer):
    """Tells of three moves, and then nothing until the client has gone."""

    def __init__(self) -> None:
        self.requests: list[watch.WatchRequest] = []
        self.left = threading.Event()

    def Watch(self, request, context):  # type: ignore[no-untyped-def]
        self.requests.append(request)
        context.add_callback(self.left.set)
        if request.resume_token == "old":
            abort(context, grpc.StatusCode.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED")
        seen = int(request.resume_token or 0)
        yield watch.WatchResponse(resume_token=str(seen), position=seen)
        for position in range(seen + 1, 4):
            event = watch.Event(
                position=position,
                kind=watch.EVENT_KIND_ALIAS_MOVED,
                principal="alice",
                adapter="namespaces/default/adapters/intent",
                alias="production",
                targets=[resources.AliasTarget(version=position, digest=f"sha256:{'a' * 64}")],
                why="better",
            )
            yield watch.WatchResponse(resume_token=str(position), position=position, events=[event])
        self.left.wait(20)


class Blobs(blob_service_pb2_grpc.BlobServiceServicer):
    def __init__(self) -> None:
        self.complete: dict[str, bytes] = {}
        self.partial: dict[str, bytearray] = {}
        self.away = False  # no write gets anywhere
        self.breaks = 0  # so many streams end in UNAVAILABLE after one message
        self.lost_answers = 0  # so many writes end well and nobody hears of it
        self.rivals = 0  # so many times another client writes first
        self.damaged = False  # reads give other bytes
        self.bytes_received = 0
        self.streams = 0
        self.arrived = threading.Event()

    def FindMissingBlobs(self, request, context):  # type: ignore[no-untyped-def]
        missing = [digest for digest in request.digests if digest not in self.complete]
        return blobs.FindMissingBlobsResponse(
            missing=[
                blobs.MissingBlob(digest=one, committed_size=len(self.partial.get(one, b"")))
                for one in missing
            ]
        )

    def WriteBlob(self, request_iterator, context):  # type: ignore[no-untyped-def]
        self.streams += 1
        self.arrived.set()
        if self.away:
            abort(context, grpc.StatusCode.UNAVAILABLE, "AWAY")
        digest = ""
        kept = bytearray()
        for message in request_iterator:
            digest = digest or message.digest
            if digest in self.complete:
                return blobs.WriteBlobResponse(
                    committed_size=len(self.complete[digest]), complete=True
                )
            kept = self.partial.setdefault(digest, bytearray())
            if self.rivals > 0:
                self.rivals -= 1
                kept.extend(message.data)
            if message.write_offset != len(kept):
                abort(
                    context,
                    grpc.StatusCode.OUT_OF_RANGE,
                    "WRONG_OFFSET",
                    committed_size=str(len(kept)),
                )
            assert len(message.data) <= 1024 * 1024
            kept.extend(message.data)
            self.bytes_received += len(message.data)
            if self.breaks > 0 and not message.finish_write:
                self.breaks -= 1
                abort(context, grpc.StatusCode.UNAVAILABLE, "CONNECTION_LOST")
            if message.finish_write:
                data = bytes(self.partial.pop(digest))
                if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
                    abort(context, grpc.StatusCode.DATA_LOSS, "DIGEST_MISMATCH")
                self.complete[digest] = data
                if self.lost_answers > 0:
                    self.lost_answers -= 1
                    abort(context, grpc.StatusCode.UNAVAILABLE, "CONNECTION_LOST")
                return blobs.WriteBlobResponse(committed_size=len(data), complete=True)
        return blobs.WriteBlobResponse(committed_size=len(kept))

    def GetBlobWrite(self, request, context):  # type: ignore[no-untyped-def]
        if request.digest in self.complete:
            size = len(self.complete[request.digest])
            return blobs.WriteBlobResponse(committed_size=size, complete=True)
        if request.digest not in self.partial:
            abort(context, grpc.StatusCode.NOT_FOUND, "BLOB_NOT_FOUND")
        return blobs.WriteBlobResponse(committed_size=len(self.partial[request.digest]))

    def ReadBlob(self, request, context):  # type: ignore[no-untyped-def]
        data = self.complete[request.digest]
        if self.damaged:
            data = bytes(len(data))
        for start in range(request.read_offset, len(data), 1024 * 1024):
            yield blobs.ReadBlobResponse(data=data[start : start + 1024 * 1024])
            if self.breaks > 0:
                self.breaks -= 1
                abort(context, grpc.StatusCode.UNAVAILABLE, "CONNECTION_LOST")


class Inference(inference_service_pb2_grpc.InferenceServiceServicer):
    """Says the prompt again, word by word; some prompts are orders."""

    def __init__(self) -> None:
        self.requests: list[inference.GenerateRequest] = []
        self.arrived = threading.Event()
        self.cancelled = threading.Event()

    def Generate(self, request, context):  # type: ignore[no-untyped-def]
        self.requests.append(request)
        self.arrived.set()
        digest = ""
        if request.adapter:
            if request.adapter.startswith("unknown"):
                abort(
                    context, grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND", adapter=request.adapter
                )
            digest = f"sha256:{'a' * 64}"
        if request.text == "full":
            abort(
                context, grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_after_seconds="1"
            )
        if request.text == "hang":
            over = threading.Event()
            context.add_callback(over.set)
            context.add_callback(self.cancelled.set)  # nothing else ends this call
            yield inference.GenerateResponse(text="first ", token_ids=[1])
            over.wait(20)
            return
        words = request.text.split(" ") or [""]
        for number, word in enumerate(words):
            message = inference.GenerateResponse(
                text=word if number == 0 else f" {word}", token_ids=[number]
            )
            if request.sampling.HasField("logprobs"):
                chosen = inference.TokenLogprob(token_id=number, logprob=-0.5)
                hopeless = inference.TokenLogprob(token_id=9, logprob=float("-inf"))
                message.logprobs.add(chosen=chosen, top=[chosen, hopeless])
            yield message
        if request.text == "no end":
            return
        end = inference.Completion(
            finish_reason=inference.FINISH_REASON_STOP,
            stop="\n",
            usage=inference.Usage(
                prompt_tokens=7, cached_prompt_tokens=4, completion_tokens=len(words)
            ),
            adapter_digest=digest,
            adapter=f"default/intent@{digest}" if digest else "",
        )
        if request.adapter == "old":
            end.warnings.append("default/old:1 is deprecated: it is old.")
        end.timings.total.FromMilliseconds(1500)
        yield inference.GenerateResponse(completion=end)

    def GenerateUnary(self, request, context):  # type: ignore[no-untyped-def]
        whole = inference.GenerateResponse()
        for message in self.Generate(request, context):
            text = whole.text + message.text
            whole.MergeFrom(message)
            whole.text = text
        for index in range(1, request.sampling.n):
            other = whole.alternatives.add(text=f"{whole.text} {index}", index=index)
            other.completion.CopyFrom(whole.completion)
        return whole

    def Score(self, request, context):  # type: ignore[no-untyped-def]
        """A continuation is as likely as it is short."""
        self.requests.append(request)
        answer = inference.ScoreResponse(usage=inference.Usage(prompt_tokens=9))
        for continuation in request.continuations:
            size = len(continuation.text) or len(continuation.tokens.token_ids)
            score = answer.scores.add(logprob=-float(size), greedy=size == 1)
            for number in range(size):
                score.tokens.add(chosen=inference.TokenLogprob(token_id=number, logprob=-1.0))
        return answer

    def Classify(self, request, context):  # type: ignore[no-untyped-def]
        self.requests.append(request)
        answer = inference.ClassifyResponse(adapter=request.adapter)
        for index, logit in enumerate((0.5, 2.0, -1.0)):
            name = ("low", "high", "none")[index] if request.adapter == "named" else ""
            answer.labels.add(index=index, logit=logit, probability=0.25, name=name)
        return answer

    def Embed(self, request, context):  # type: ignore[no-untyped-def]
        self.requests.append(request)
        return inference.EmbedResponse(embedding=[0.5, -0.25], adapter=request.adapter)

    def Tokenize(self, request, context):  # type: ignore[no-untyped-def]
        return inference.TokenizeResponse(token_ids=[5, 6], text="<s>hi", context_length=512)

    def ListModels(self, request, context):  # type: ignore[no-untyped-def]
        models = [
            inference.Model(display_name="lorry-tiny", resident=True),
            *(inference.Model(reference=f"default/a{number}") for number in range(3)),
        ]
        items, token = page(models, request.page_token)
        return inference.ListModelsResponse(models=items, next_page_token=token)


class Admin(admin_service_pb2_grpc.AdminServiceServicer):
    def __init__(self) -> None:
        self.connected = True
        self.resident = admin.Resident(
            digest=f"sha256:{'a' * 64}",
            references=["default/intent:1"],
            tier=admin.TIER_SLOT,
            rank=8,
            size_bytes=2048,
        )

        self.merge: admin.Merge | None = None

    def GetStatus(self, request, context):  # type: ignore[no-untyped-def]
        status = admin.Status(
            version="0.1.0", base="lorry-tiny", device="cpu", slots_total=8, merge=self.merge
        )
        status.registry.address, status.registry.connected = "registry:7071", self.connected
        status.registry.position = 12
        status.registry.silence.FromMilliseconds(3500)
        return status

    def MergeAdapter(self, request, context):  # type: ignore[no-untyped-def]
        name = request.adapter or "+".join(term.adapter for term in request.composition.terms)
        self.merge = admin.Merge(
            digest=self.resident.digest,
            references=[name],
            cause=admin.MERGE_CAUSE_OPERATOR,
            active=True,
            size_bytes=1 << 20,
        )
        self.merge.merge_duration.FromMilliseconds(1500)
        return self.merge

    def UnmergeAdapter(self, request, context):  # type: ignore[no-untyped-def]
        self.merge = None
        return admin.UnmergeAdapterResponse()

    def ListResidents(self, request, context):  # type: ignore[no-untyped-def]
        return admin.ListResidentsResponse(residents=[self.resident])

    def LoadAdapter(self, request, context):  # type: ignore[no-untyped-def]
        self.resident.pinned = request.pin
        return self.resident

    def PinAdapter(self, request, context):  # type: ignore[no-untyped-def]
        self.resident.pinned = request.pinned
        return self.resident

    def UnloadAdapter(self, request, context):  # type: ignore[no-untyped-def]
        if self.resident.pinned:
            abort(context, grpc.StatusCode.FAILED_PRECONDITION, "ADAPTER_PINNED")
        return admin.UnloadAdapterResponse(digest=self.resident.digest)


class Server:
    """The services behind one port of this machine."""

    def __init__(self) -> None:
        self.blobs = Blobs()
        self.registry = Registry(self.blobs)
        self.inference = Inference()
        self.admin = Admin()
        self.watching = Watching()
        self._grpc = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        add = registry_service_pb2_grpc.add_RegistryServiceServicer_to_server
        add(self.registry, self._grpc)
        blob_service_pb2_grpc.add_BlobServiceServicer_to_server(self.blobs, self._grpc)
        inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(
            self.inference, self._grpc
        )
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(self.admin, self._grpc)
        watch_service_pb2_grpc.add_WatchServiceServicer_to_server(self.watching, self._grpc)
        self.address = f"127.0.0.1:{self._grpc.add_insecure_port('127.0.0.1:0')}"
        self._grpc.start()

    def stop(self) -> None:
        self._grpc.stop(0).wait()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    from lorry_client import _transfer

    monkeypatch.setattr(_transfer, "FIRST_PAUSE_SECONDS", 0.001)
    started = Server()
    monkeypatch.setenv("LORRY_SERVER", started.address)
    yield started
    started.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter folder of three files, the weights being 2.5 MiB: three messages."""
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (made / "adapter_model.safetensors").write_bytes(os.urandom(2 * 1024 * 1024 + 512 * 1024))
    (made / "README.md").write_text("# intent\n")
    return made


@pytest.fixture
def lorry() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `lorry` in a process of its own."""

    def run(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **extra}
        return subprocess.run(
            [sys.executable, "-m", "lorry_client", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def one_json() -> Callable[[str], Any]:
    """Reads what must be exactly one JSON object, and strict JSON at that."""

    def forbid(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    def read(text: str) -> Any:
        assert text.endswith("\n")
        assert text.count("\n") == 1
        value = json.loads(text, parse_constant=forbid)
        assert isinstance(value, dict)
        return value

    return read
