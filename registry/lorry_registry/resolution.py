"""What a reference means now: one version, or several that share the requests."""

from lorry_registry import references
from lorry_registry.canaries import check_sticky_key, choose, heaviest
from lorry_registry.entities import Alias, Meaning, Version
from lorry_registry.errors import NotFound
from lorry_registry.store import Store


def expand(store: Store, reference: str) -> Meaning:
    """Everything that a reference means.

    A bare name means the alias `production` where the adapter has it, else the newest version.

    Raises:
        InvalidArgument: it is no reference.
        NotFound: the adapter, alias, number or digest is not there, or nothing was published yet.
    """
    wanted = references.parse_reference(reference)
    key = wanted.key
    if wanted.digest is not None:
        return _one(store.get_version_by_digest(key, wanted.digest))
    if wanted.number is not None:
        return _one(_living(store.get_version(key, wanted.number)))
    if wanted.alias is not None:
        return _follow(store, store.get_alias(key, wanted.alias))
    try:
        return _follow(store, store.get_alias(key, references.PRODUCTION))
    except NotFound as error:
        if error.reason != "ALIAS_NOT_FOUND":
            raise
    newest = store.list_versions(key, after=None, limit=1)
    if not newest:
        raise NotFound(
            f"adapter {key} has no version yet: publish one with `lorry push`",
            reason="VERSION_NOT_FOUND",
            adapter=key,
        )
    return _one(newest[0])


def resolve(store: Store, reference: str, sticky_key: str | None = None) -> Version:
    """The one version that a request with the key gets; without a key, the one that most requests get."""
    key = None if sticky_key is None else check_sticky_key(sticky_key)
    meaning = expand(store, reference)
    if key is None:
        at = heaviest([weight for _, weight in meaning.versions])
    else:
        shares = [(version.digest, weight) for version, weight in meaning.versions]
        at = choose(shares, salt=meaning.salt, key=key)
    return meaning.versions[at][0]


def _living(version: Version) -> Version:
    if version.delete_time is None:
        return version
    raise NotFound(
        f"version {version.key}:{version.number} is deleted: `lorry adapters undelete {version.key}:{version.number}` "
        "brings it back",
        reason="VERSION_DELETED",
        adapter=version.key,
        version=version.number,
    )


def _one(version: Version) -> Meaning:
    return Meaning(((version, 1),), str(version.key))


def _follow(store: Store, alias: Alias) -> Meaning:
    # By digest: were the adapter deleted and made anew in between, its numbers would mean other versions.
    return Meaning(
        tuple(
            (store.get_version_by_digest(alias.key, target.digest), target.weight)
            for target in alias.targets
        ),
        f"{alias.key}@{alias.alias_id}",
    )
