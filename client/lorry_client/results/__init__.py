"""What calls return: frozen dataclasses, read from the contract's messages. Nothing here talks to a server."""

from lorry_client.results.admin import Merge, RegistryLink, Resident, Status
from lorry_client.results.catalogue import (
    Adapter,
    AdapterSpec,
    Alias,
    AliasMove,
    AliasTarget,
    Dataset,
    Deprecation,
    Evaluation,
    File,
    Lineage,
    Version,
    VersionState,
)
from lorry_client.results.events import Event, Events
from lorry_client.results.generation import (
    Chunk,
    Completion,
    Model,
    Term,
    Timings,
    TokenLogprob,
    TokenLogprobs,
    Tokens,
    Usage,
)
from lorry_client.results.prompts import ContinuationScore, Embedding, Scores
from lorry_client.results.transfer import Pulled, Pushed, TransferredFile

__all__ = [
    "Adapter",
    "AdapterSpec",
    "Alias",
    "AliasMove",
    "AliasTarget",
    "Chunk",
    "Completion",
    "ContinuationScore",
    "Dataset",
    "Deprecation",
    "Embedding",
    "Evaluation",
    "Event",
    "Events",
    "File",
    "Lineage",
    "Merge",
    "Model",
    "Pulled",
    "Pushed",
    "RegistryLink",
    "Resident",
    "Scores",
    "Status",
    "Term",
    "Timings",
    "TokenLogprob",
    "TokenLogprobs",
    "Tokens",
    "TransferredFile",
    "Usage",
    "Version",
    "VersionState",
]
