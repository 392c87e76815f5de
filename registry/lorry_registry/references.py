"""The names that people and programs use: references (`support@production`) and resource names.

    reference      = [namespace "/"] name [ "@" alias | ":" number | "@sha256:" hex ]
                   | "models:/" [namespace "/"] name ( "@" alias | "/" number )         as MLflow writes them
    id             = lower-case letters, digits, "-", "_", "."; starts with a letter or digit; at most 63
    alias          = lower-case letters, digits, "-"; starts with a letter; at most 63

Every parser raises InvalidArgument naming the value, the rule and the way out.
"""

import re
from dataclasses import dataclass

from lorry_registry.digests import is_digest
from lorry_registry.entities import AdapterKey
from lorry_registry.errors import InvalidArgument

DEFAULT_NAMESPACE = "default"
ALL_NAMESPACES = "-"
PRODUCTION = "production"
"""The alias that a bare name means, where the adapter has it."""

_MLFLOW = "models:/"
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ALIAS = re.compile(r"[a-z][a-z0-9-]{0,62}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_ID_RULE = (
    "lower-case letters, digits, '-', '_' and '.', at most 63, starting with a letter or a digit"
)
_ALIAS_RULE = "lower-case letters, digits and '-', at most 63, starting with a letter"


@dataclass(frozen=True, slots=True)
class Reference:
    """What a request calls a version. At most one of `alias`, `number` and `digest` is set; none is a bare name."""

    key: AdapterKey
    alias: str | None = None
    number: int | None = None
    digest: str | None = None

    def __str__(self) -> str:
        namespace = self.key.namespace
        name = self.key.adapter_id if namespace == DEFAULT_NAMESPACE else str(self.key)
        if self.alias is not None:
            return f"{name}@{self.alias}"
        if self.number is not None:
            return f"{name}:{self.number}"
        if self.digest is not None:
            return f"{name}@{self.digest}"
        return name


def parse_reference(text: str) -> Reference:
    """Reads `[namespace/]name`, `…@alias`, `…:3` or `…@sha256:…`, also as MLflow writes them (`models:/name/3`)."""
    if text.startswith(_MLFLOW):
        text = _from_mlflow(text)
    name, at, target = text.partition("@")
    colon = number = ""
    if not at:
        name, colon, number = name.partition(":")
    namespace, slash, adapter_id = name.rpartition("/")
    if slash and not namespace:
        raise _bad_reference(text, "nothing stands before the '/'")
    key = AdapterKey(
        _check(_ID, namespace or DEFAULT_NAMESPACE, text, "the namespace", _ID_RULE),
        _check(_ID, adapter_id, text, "the adapter's name", _ID_RULE),
    )
    if colon:
        if not _NUMBER.fullmatch(number):
            raise _bad_reference(text, "a version's number follows the ':', 1 or more")
        return Reference(key, number=int(number))
    if not at:
        return Reference(key)
    if ":" in target:
        if not is_digest(target):
            raise _bad_reference(text, "a digest is 'sha256:' and 64 lower-case hex digits")
        return Reference(key, digest=target)
    return Reference(key, alias=_check(_ALIAS, target, text, "the alias", _ALIAS_RULE))


def _from_mlflow(text: str) -> str:
    """`models:/name/3` and `models:/name@alias`, with a namespace before the name or not, as references of ours."""
    name = text.removeprefix(_MLFLOW)
    head, slash, last = name.rpartition("/")
    if "@" in name:
        return name
    if slash and _NUMBER.fullmatch(last):
        return f"{head}:{last}"
    raise _bad_reference(
        text,
        "of MLflow's forms, models:/name/3 and models:/name@alias are understood; stages and 'latest' are not: "
        "set an alias",
    )


def parse_namespace_name(name: str, *, all_allowed: bool = False) -> str | None:
    """Reads `namespaces/{namespace}`; None for `namespaces/-` where `all_allowed`."""
    (namespace,) = _segments(name, "namespaces/{namespace}")
    if all_allowed and namespace == ALL_NAMESPACES:
        return None
    return check_id(namespace, "namespace")


def parse_namespace(name: str) -> str:
    """The namespace of any resource name that begins with one: `namespaces/{namespace}` and what follows it."""
    parts = name.split("/")
    if len(parts) < 2 or parts[0] != "namespaces":
        raise _bad_name(name, "write namespaces/{namespace}/…")
    return check_id(parts[1], "namespace")


def parse_adapter_name(name: str) -> AdapterKey:
    """Reads `namespaces/{namespace}/adapters/{adapter}`."""
    namespace, adapter_id = _segments(name, "namespaces/{namespace}/adapters/{adapter}")
    return AdapterKey(check_id(namespace, "namespace"), check_id(adapter_id, "adapter"))


def parse_adapters_name(name: str) -> tuple[str | None, AdapterKey | None]:
    """Reads `namespaces/{namespace}/adapters/{adapter}`, where `-` stands for all: the namespace, and the adapter.

    All adapters are None; so are all namespaces, which have all of their adapters.
    """
    namespace, adapter_id = _segments(name, "namespaces/{namespace}/adapters/{adapter}")
    if adapter_id != ALL_NAMESPACES:
        return namespace, parse_adapter_name(name)
    return parse_namespace_name(f"namespaces/{namespace}", all_allowed=True), None


def parse_version_name(name: str) -> tuple[AdapterKey, int]:
    """Reads `namespaces/{namespace}/adapters/{adapter}/versions/{number}`."""
    namespace, adapter_id, number = _segments(
        name, "namespaces/{namespace}/adapters/{adapter}/versions/{number}"
    )
    if not _NUMBER.fullmatch(number):
        raise _bad_name(name, "a version's number is 1 or more, without leading zeros")
    return AdapterKey(check_id(namespace, "namespace"), check_id(adapter_id, "adapter")), int(
        number
    )


def parse_alias_name(name: str) -> tuple[AdapterKey, str]:
    """Reads `namespaces/{namespace}/adapters/{adapter}/aliases/{alias}`."""
    namespace, adapter_id, alias = _segments(
        name, "namespaces/{namespace}/adapters/{adapter}/aliases/{alias}"
    )
    key = AdapterKey(check_id(namespace, "namespace"), check_id(adapter_id, "adapter"))
    return key, check_alias(alias)


def parse_base_name(name: str) -> str:
    """Reads `bases/{fingerprint}` and returns the fingerprint."""
    (fingerprint,) = _segments(name, "bases/{fingerprint}")
    if not is_digest(fingerprint):
        raise _bad_name(name, "a fingerprint is 'sha256:' and 64 lower-case hex digits")
    return fingerprint


def parse_token_name(name: str) -> str:
    """Reads `tokens/{id}`."""
    (token_id,) = _segments(name, "tokens/{id}")
    return token_id


def check_id(value: str, what: str) -> str:
    """Returns `value` where it is an id."""
    return _check(_ID, value, value, f"the {what} id", _ID_RULE)


def check_alias(value: str) -> str:
    """Returns `value` where it is an alias."""
    return _check(_ALIAS, value, value, "the alias", _ALIAS_RULE)


def _segments(name: str, template: str) -> list[str]:
    """The variable parts of `name`, which must have the form of `template`."""
    parts, form = name.split("/"), template.split("/")
    if len(parts) != len(form) or parts[::2] != form[::2]:
        raise _bad_name(name, f"write {template}")
    return parts[1::2]


def _check(pattern: re.Pattern[str], value: str, within: str, what: str, rule: str) -> str:
    if not pattern.fullmatch(value):
        place = "" if value == within else f" of {_short(within)!r}"
        raise InvalidArgument(
            f"{what} {_short(value)!r}{place} is not allowed: it is made of {rule}",
            reason="NAME_INVALID",
            value=_short(value),
        )
    return value


def _bad_reference(text: str, rule: str) -> InvalidArgument:
    return InvalidArgument(
        f"{_short(text)!r} is no reference: {rule}. Write name, name@alias, name:3 or name@sha256:…, "
        "with namespace/ before it where it is not 'default'",
        reason="REFERENCE_INVALID",
        reference=_short(text),
    )


def _bad_name(name: str, rule: str) -> InvalidArgument:
    return InvalidArgument(
        f"{_short(name)!r} is no resource name of this kind: {rule}",
        reason="NAME_INVALID",
        value=_short(name),
    )


def _short(text: str) -> str:
    # What a stranger wrote is quoted, but never at length.
    return text if len(text) <= 120 else text[:117] + "..."
