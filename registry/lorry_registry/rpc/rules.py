"""What each RPC asks of its caller: one table, by full method name. A method without a line here is answered to nobody.

What a request names is found by the path of a field: a resource name, a reference, or a namespace. Permission comes
before existence: it is judged by the namespace in the name alone, before anything is looked up.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.message import Message

from lorry_registry.access.rights import Rights, Role
from lorry_registry.references import ALL_NAMESPACES, parse_namespace, parse_reference

_ALL = f"namespaces/{ALL_NAMESPACES}"
_REGISTRY = "/lorry.registry.v1.RegistryService/"
_BLOBS = "/lorry.registry.v1.BlobService/"
_WATCH = "/lorry.registry.v1.WatchService/"
_ACCESS = "/lorry.registry.v1.AccessService/"


def holds_reference(path: str) -> bool:
    """Whether the field holds a reference: `adapter`, `reference`, `…_reference`. All others hold resource names."""
    last = path.rpartition(".")[2]
    return last in ("adapter", "reference") or last.endswith("_reference")


@dataclass(frozen=True, slots=True)
class Need:
    """A role: in every namespace that the fields `at` name, over all (`everywhere`), or else in any one.

    A field's path may lead through repeated ones. Empty fields and `namespaces/-` name none: the role in any namespace
    is enough to ask, and the answer is made of what the caller may see.
    """

    role: Role
    at: tuple[str, ...] = ()
    everywhere: bool = False

    def namespaces(self, request: Any) -> Iterator[str]:
        """Those that the request names. Raises InvalidArgument where a field holds what is no name."""
        for path in self.at:
            for name in values_at(request, path):
                if namespace := namespace_of(name, is_reference=holds_reference(path)):
                    yield namespace


@dataclass(frozen=True, slots=True)
class Rule:
    """What an RPC asks: every need, or nothing of whoever is known. `changes`: its calls go into the audit log."""

    needs: tuple[Need, ...] = ()
    changes: bool = False
    about: tuple[str, ...] = ()  # fields that the log shows beside those
    spends: Callable[[Any], int] | None = (
        None  # how many of the namespace's tokens a message of the answer used
    )

    def namespaces(self, request: Any) -> tuple[str, ...]:
        """Those that the request names, each once. Raises InvalidArgument where a field holds what is no name."""
        return tuple(
            dict.fromkeys(name for need in self.needs for name in need.namespaces(request))
        )

    def check(self, rights: Rights, request: Any) -> None:
        """Whether the caller may.

        Raises:
            NotFound, PermissionDenied: as `Rights.check`.
            InvalidArgument: the request names nothing that a name can be.
        """
        for need in self.needs:
            if need.everywhere:
                rights.check_everywhere(need.role)
                continue
            namespaces = tuple(need.namespaces(request))
            if not namespaces:
                rights.check_somewhere(need.role)
            for namespace in namespaces:
                rights.check(need.role, namespace)

    def resource(self, request: Any) -> str:
        """What the request is about, for the log."""
        fields = [*(path for need in self.needs for path in need.at), *self.about]
        return " ".join(value for path in fields for value in values_at(request, path) if value)


def anyone() -> Rule:
    return Rule()


def somewhere(role: Role, *at: str) -> Rule:
    return Rule((Need(role, at),))


def everywhere(role: Role, *about: str) -> Rule:
    return Rule((Need(role, everywhere=True),), about=about)


def changing(rule: Rule, *about: str) -> Rule:
    return replace(rule, changes=True, about=about or rule.about)


RULES: Mapping[str, Rule] = {
    _REGISTRY + "CreateAdapter": changing(somewhere(Role.PUBLISH, "parent"), "adapter_id"),
    _REGISTRY + "GetAdapter": somewhere(Role.READ, "name"),
    _REGISTRY + "ListAdapters": somewhere(Role.READ, "parent"),
    _REGISTRY + "UpdateAdapter": changing(somewhere(Role.PUBLISH, "adapter.name")),
    _REGISTRY + "DeleteAdapter": changing(somewhere(Role.PUBLISH, "name")),
    _REGISTRY + "UndeleteAdapter": changing(somewhere(Role.PUBLISH, "name")),
    _REGISTRY + "PurgeAdapter": changing(somewhere(Role.ADMIN, "name")),
    _REGISTRY + "DeleteVersion": changing(somewhere(Role.PUBLISH, "name")),
    _REGISTRY + "UndeleteVersion": changing(somewhere(Role.PUBLISH, "name")),
    _REGISTRY + "PurgeVersion": changing(somewhere(Role.ADMIN, "name")),
    _REGISTRY + "CreateVersion": changing(somewhere(Role.PUBLISH, "parent")),
    # Where the copy goes stands first: it is that namespace's log that tells of it.
    _REGISTRY + "CopyVersion": changing(
        Rule((Need(Role.PUBLISH, ("parent",)), Need(Role.READ, ("reference",))))
    ),
    _REGISTRY + "GetVersion": somewhere(Role.READ, "name"),
    _REGISTRY + "ListVersions": somewhere(Role.READ, "parent"),
    _REGISTRY + "UpdateVersion": changing(somewhere(Role.PUBLISH, "version.name")),
    _REGISTRY + "CreateEvaluation": changing(somewhere(Role.PUBLISH, "parent")),
    _REGISTRY + "ListEvaluations": somewhere(Role.READ, "parent"),
    _REGISTRY + "GetLineageGraph": somewhere(Role.READ, "name"),
    _REGISTRY + "CompareVersions": somewhere(Role.READ, "first_reference", "second_reference"),
    _REGISTRY + "DeprecateVersion": changing(somewhere(Role.PROMOTE, "name")),
    _REGISTRY + "UndeprecateVersion": changing(somewhere(Role.PROMOTE, "name")),
    _REGISTRY + "BlockVersion": changing(somewhere(Role.PROMOTE, "name")),
    _REGISTRY + "UnblockVersion": changing(somewhere(Role.PROMOTE, "name")),
    _REGISTRY + "ResolveReference": somewhere(Role.READ, "reference"),
    _REGISTRY + "ExpandReference": somewhere(Role.READ, "reference"),
    _REGISTRY + "SetAlias": changing(somewhere(Role.PROMOTE, "alias.name")),
    _REGISTRY + "GetAlias": somewhere(Role.READ, "name"),
    _REGISTRY + "ListAliases": somewhere(Role.READ, "parent"),
    _REGISTRY + "DeleteAlias": changing(somewhere(Role.PROMOTE, "name")),
    _REGISTRY + "ListAliasMoves": somewhere(Role.READ, "parent"),
    _REGISTRY + "RollbackAlias": changing(somewhere(Role.PROMOTE, "name")),
    # Bases are everybody's: what one tenant announces, the uploads of all are checked against.
    _REGISTRY + "CreateBase": changing(everywhere(Role.PUBLISH, "base.fingerprint")),
    _REGISTRY + "GetBase": anyone(),
    _REGISTRY + "ListBases": anyone(),
    # A digest names no namespace: which blobs a caller may see is the service's to judge.
    _BLOBS + "FindMissingBlobs": somewhere(Role.PUBLISH),
    _BLOBS + "WriteBlob": changing(somewhere(Role.PUBLISH), "digest"),
    _BLOBS + "GetBlobWrite": somewhere(Role.PUBLISH),
    _BLOBS + "ReadBlob": somewhere(Role.READ),
    _BLOBS + "GetBlobDownload": somewhere(Role.READ),
    _BLOBS + "GetBlobUpload": changing(somewhere(Role.PUBLISH), "digest"),
    _WATCH + "Watch": somewhere(Role.READ, "parent"),
    _WATCH + "GetPosition": anyone(),  # a number that tells of nobody
    _ACCESS + "GetCaller": anyone(),
    # Whose tokens a caller administers is the service's to judge: by their grants, not by a name.
    _ACCESS + "CreateToken": changing(somewhere(Role.ADMIN), "token.display_name"),
    _ACCESS + "GetToken": somewhere(Role.ADMIN),
    _ACCESS + "ListTokens": somewhere(Role.ADMIN),
    _ACCESS + "RevokeToken": changing(somewhere(Role.ADMIN), "name"),
    _ACCESS + "CreateNamespace": changing(everywhere(Role.ADMIN, "namespace_id")),
    _ACCESS + "GetNamespace": somewhere(Role.READ, "name"),
    _ACCESS + "ListNamespaces": anyone(),
    _ACCESS + "UpdateNamespace": changing(everywhere(Role.ADMIN, "namespace.name")),
    _ACCESS + "DeleteNamespace": changing(everywhere(Role.ADMIN, "name")),
    _ACCESS + "ListAuditEvents": somewhere(Role.ADMIN, "parent"),
}
"""The registry's own services."""


def values_at(request: Any, path: str) -> list[str]:
    """What stands in a field; of repeated ones on the way, in each of them."""
    values = [request]
    for name in path.split("."):
        found = [getattr(value, name) for value in values]
        values = []
        for value in found:
            values += [value] if isinstance(value, str | Message) else value
    return values


def namespace_of(name: str, *, is_reference: bool) -> str:
    """The namespace in a reference, or else in a resource name; empty where it names none.

    Which of the two a text is, is the field's to say and never the text's: the reference `namespaces/x` is the adapter
    `x` in a namespace called `namespaces`. Raises InvalidArgument where it is none of its kind.
    """
    if not name:
        return ""
    if is_reference:
        return parse_reference(name).key.namespace
    if name in (_ALL, f"{_ALL}/adapters/{ALL_NAMESPACES}"):
        return ""
    return parse_namespace(name)
