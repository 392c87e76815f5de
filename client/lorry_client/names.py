"""From what a user types to resource names and back. Knows nothing about what exists.

A user writes `[namespace/]name`; the contract says `namespaces/{namespace}/adapters/{adapter}`.
"""

from __future__ import annotations

import re

from lorry_client.errors import InvalidArgument

DEFAULT_NAMESPACE = "default"

_SEPARATORS = re.compile(r"[@:]")


def adapter(name: str) -> str:
    """The resource name of the adapter that `[namespace/]name` names; a resource name is taken as it is."""
    if name.startswith("namespaces/"):
        return name
    if _SEPARATORS.search(name):
        raise InvalidArgument(
            f"{name!r} names a version, and an adapter's name is wanted: [namespace/]name, without '@' and ':'.",
            reason="INVALID_ADAPTER_NAME",
            metadata={"name": name},
        )
    namespace, slash, adapter_id = name.rpartition("/")
    if not adapter_id or (slash and not namespace) or "/" in namespace:
        raise InvalidArgument(
            f"{name!r} is no adapter name; write [namespace/]name.",
            reason="INVALID_ADAPTER_NAME",
            metadata={"name": name},
        )
    return f"namespaces/{namespace or DEFAULT_NAMESPACE}/adapters/{adapter_id}"


def parent_and_id(resource_name: str) -> tuple[str, str]:
    """Splits an adapter's resource name into its parent and its id."""
    parent, _, adapter_id = resource_name.partition("/adapters/")
    return parent, adapter_id


def namespace(name: str | None) -> str:
    """The parent to list in: a namespace, or all of them for None."""
    return f"namespaces/{name or '-'}"


def adapters(name: str | None) -> str:
    """All adapters of a namespace, or of all namespaces for None."""
    return f"{namespace(name)}/adapters/-"


def alias(name: str, alias_id: str) -> str:
    """The resource name of an adapter's alias."""
    return f"{adapter(name)}/aliases/{alias_id}"


def base(fingerprint: str) -> str:
    """The resource name of the base with a fingerprint."""
    return f"bases/{fingerprint}"


def version(name: str, number: int) -> str:
    """The resource name of an adapter's version."""
    return f"{adapter(name)}/versions/{number}"


def short(resource_name: str) -> str:
    """`namespace/name` of an adapter, or of the adapter that a version or an alias belongs to."""
    parts = resource_name.split("/")
    if len(parts) >= 4 and parts[0] == "namespaces" and parts[2] == "adapters":
        return f"{parts[1]}/{parts[3]}"
    return resource_name


def pinned(resource_name: str, digest: str) -> str:
    """The reference that will always mean the same bytes: `namespace/name@sha256:…`."""
    return f"{short(resource_name)}@{digest}"


def reference(name: str, target: str) -> str:
    """What `target` means beside the adapter `name`: a version number, a digest and `@alias` may stand alone."""
    if target.isascii() and target.isdigit():
        return f"{name}:{target}"
    if target.startswith("sha256:"):
        return f"{name}@{target}"
    if target.startswith(("@", ":")):
        return f"{name}{target}"
    return target


def numbered(what: str) -> tuple[str, int | None]:
    """`[namespace/]name:3` in two; without a number, None."""
    name, colon, number = what.partition(":")
    if not colon:
        return name, None
    if not (number.isascii() and number.isdigit()):
        raise InvalidArgument(
            f"{what!r}: {number!r} is no version's number; write NAME, or NAME:3.",
            reason="INVALID_VERSION_NUMBER",
            metadata={"name": what},
        )
    return name, int(number)
