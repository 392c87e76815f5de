"""Talks to a Lorry server or registry: `Client` blocks, `AsyncClient` awaits, and both offer the same.

Clients and results are looked up on first use, so that `import lorry_client` (and with it `lorry --help`) costs next
to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lorry_client.errors import (
    Aborted,
    AlreadyExists,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    LorryError,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

if TYPE_CHECKING:
    from lorry_client._login import Login
    from lorry_client.aio import AsyncClient
    from lorry_client.client import Client
    from lorry_client.compositions import Composition
    from lorry_client.progress import FileState, Progress
    from lorry_client.results import (
        Adapter,
        AdapterSpec,
        Alias,
        AliasMove,
        AliasTarget,
        Base,
        Chunk,
        Classification,
        Comparison,
        Completion,
        ContinuationScore,
        Dataset,
        Deprecation,
        Embedding,
        Evaluation,
        Event,
        Events,
        FactorComparison,
        File,
        LabelScore,
        Lineage,
        LineageEdge,
        LineageGraph,
        LineageNode,
        Merge,
        MetricComparison,
        Model,
        ModuleComparison,
        NewBase,
        Parameter,
        Pulled,
        Pushed,
        RegistryLink,
        Resident,
        Scores,
        Status,
        Term,
        Timings,
        TokenClassification,
        TokenLabels,
        TokenLogprob,
        TokenLogprobs,
        Tokens,
        TransferredFile,
        Usage,
        ValueDifference,
        Version,
        VersionState,
    )
    from lorry_client.results.access import (
        AuditEvent,
        Caller,
        FreshToken,
        Namespace,
        Quotas,
        Token,
    )
    from lorry_client.sampling import Message, Prompt, Sampling

__all__ = [
    "Aborted",
    "Adapter",
    "AdapterSpec",
    "Alias",
    "AliasMove",
    "AliasTarget",
    "AlreadyExists",
    "AsyncClient",
    "AuditEvent",
    "Base",
    "Caller",
    "Cancelled",
    "Chunk",
    "Classification",
    "Client",
    "Comparison",
    "Completion",
    "Composition",
    "ContinuationScore",
    "DataLoss",
    "Dataset",
    "DeadlineExceeded",
    "Deprecation",
    "Embedding",
    "Evaluation",
    "Event",
    "Events",
    "FactorComparison",
    "FailedPrecondition",
    "File",
    "FileState",
    "FreshToken",
    "Internal",
    "InvalidArgument",
    "LabelScore",
    "Lineage",
    "LineageEdge",
    "LineageGraph",
    "LineageNode",
    "Login",
    "LorryError",
    "Merge",
    "Message",
    "MetricComparison",
    "Model",
    "ModuleComparison",
    "Namespace",
    "NewBase",
    "NotFound",
    "OutOfRange",
    "Parameter",
    "PermissionDenied",
    "Progress",
    "Prompt",
    "Pulled",
    "Pushed",
    "Quotas",
    "RegistryLink",
    "Resident",
    "ResourceExhausted",
    "Sampling",
    "Scores",
    "Status",
    "Term",
    "Timings",
    "Token",
    "TokenClassification",
    "TokenLabels",
    "TokenLogprob",
    "TokenLogprobs",
    "Tokens",
    "TransferredFile",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Usage",
    "ValueDifference",
    "Version",
    "VersionState",
]

_MODULES = {
    "Token": "lorry_client.results.access",
    "Quotas": "lorry_client.results.access",
    "Namespace": "lorry_client.results.access",
    "FreshToken": "lorry_client.results.access",
    "Caller": "lorry_client.results.access",
    "AuditEvent": "lorry_client.results.access",
    "AsyncClient": "lorry_client.aio",
    "Client": "lorry_client.client",
    "Composition": "lorry_client.compositions",
    "FileState": "lorry_client.progress",
    "Login": "lorry_client._login",
    "Progress": "lorry_client.progress",
    "Message": "lorry_client.sampling",
    "Prompt": "lorry_client.sampling",
    "Sampling": "lorry_client.sampling",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "lorry_client.results")), name)


def __dir__() -> list[str]:
    return __all__
