"""How the services, the engine and the registry are put together. What they are made of is known here only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import grpc
from prometheus_client import CollectorRegistry

from lorry.admin.v1.admin_service_pb2_grpc import add_AdminServiceServicer_to_server
from lorry.inference.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from lorry_server.adapters import AdapterDirectory
from lorry_server.base import ServedBase
from lorry_server.cache import AdapterCache
from lorry_server.consequences import Consequences, ExpellingEngine
from lorry_server.engine.request import GenerationRequest, SamplingParams
from lorry_server.labels import LabelNames
from lorry_server.metrics.engine import EngineCollector
from lorry_server.metrics.registry import RegistryCollector
from lorry_server.metrics.requests import RequestMetrics
from lorry_server.registries.following import Follower
from lorry_server.services.admin import AdminService, ManagedEngine
from lorry_server.services.forms import FormCompiler
from lorry_server.services.inference import InferenceService
from lorry_server.services.outputs import OutputDispatcher
from lorry_server.services.prompts import PromptReader
from lorry_server.services.submission import GeneratingEngine, House

SERVICE_NAMES = ("lorry.inference.v1.InferenceService", "lorry.admin.v1.AdminService")


class ServedEngine(GeneratingEngine, ManagedEngine, ExpellingEngine, Protocol):
    """What the services need of the engine."""


@dataclass(frozen=True, slots=True)
class Services:
    """The services in front of one engine."""

    inference: InferenceService
    admin: AdminService
    prompts: PromptReader
    forms: FormCompiler

    def add_to(self, server: grpc.aio.Server) -> None:
        add_InferenceServiceServicer_to_server(self.inference, server)
        add_AdminServiceServicer_to_server(self.admin, server)

    def close(self) -> None:
        self.prompts.close()
        self.forms.close()


def build_services(
    *,
    base: ServedBase,
    engine: ServedEngine,
    adapters: AdapterDirectory,
    cache: AdapterCache,
    dispatcher: OutputDispatcher,
    max_rank: int,
    max_requests: int,
    collectors: CollectorRegistry,
    follower: Follower,
) -> Services:
    """The services, and in `collectors` what they and the engine report.

    What the follower hears has its consequences from now on.

    Args:
        max_requests: generations in the house at once, from their arrival to their last token.
    """
    metrics = RequestMetrics(collectors)
    collectors.register(
        EngineCollector(
            base=base,
            stats=engine.stats,
            tallies=metrics.tallies,
            references=adapters.references,
            on_disk=cache.on_disk,
        )
    )
    collectors.register(RegistryCollector(follower))
    prompts, forms = PromptReader(base), FormCompiler(base)
    house = House(engine, dispatcher, metrics)
    inference = InferenceService(
        base=base,
        adapters=adapters,
        house=house,
        prompts=prompts,
        forms=forms,
        labels=LabelNames(cache),
        max_requests=max_requests,
    )
    consequences = Consequences(adapters=adapters, inference=house, engine=engine, cache=cache)
    follower.on_events, follower.on_gap = consequences.on_events, consequences.on_gap
    admin = AdminService(
        base=base,
        engine=engine,
        adapters=adapters,
        cache=cache,
        max_rank=max_rank,
        follower=follower,
    )
    return Services(inference, admin, prompts, forms)


async def warm_up(engine: GeneratingEngine, dispatcher: OutputDispatcher, base: ServedBase) -> None:
    """Generates two tokens, or reads one, so that the first client does not pay for what happens once.

    Raises what goes wrong.
    """
    request_id = "warm-up"
    outputs = dispatcher.open(request_id)
    try:
        engine.submit(
            GenerationRequest(request_id, (0,), SamplingParams(max_tokens=0), pool_from=0)
            if base.is_encoder
            else GenerationRequest(request_id, (0,), SamplingParams(max_tokens=2))
        )
        while not (output := (await outputs.get()).output).finished:
            pass
        if output.error is not None:
            raise output.error
    finally:
        dispatcher.close(request_id)
