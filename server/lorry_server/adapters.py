"""From the reference in a request to the digest that the engine runs."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass, replace

from lorry_registry.access.rights import Role, current_rights
from lorry_registry.entities import AdapterKey
from lorry_registry.errors import (
    FailedPrecondition,
    InvalidArgument,
    LorryError,
    NotFound,
    Unavailable,
)
from lorry_registry.events import Event, EventKind
from lorry_registry.references import parse_reference
from lorry_server.base import ServedBase
from lorry_server.cache import AdapterCache
from lorry_server.compositions import RequestedComposition, expression
from lorry_server.engine.adapters.recipe import Recipe, Term
from lorry_server.meanings import Meanings
from lorry_server.registries import AdapterNames, Meaning, Published, Registry
from lorry_server.registries.following import Follower
from lorry_server.registries.patience import PatientRegistry
from lorry_server.registries.positions import Positions
from lorry_server.remembering import remember

_log = logging.getLogger(__name__)

_MAX_REMEMBERED = 10_000
_MAX_REFERENCES = 16  # by digest
_LISTED_AT_ONCE = (
    2  # look-ups for lists, all lists together: most of the registry's threads are for requests
)


@dataclass(frozen=True, slots=True)
class ResolvedTerm:
    """A term of a composition."""

    digest: str
    reference: str  # `namespace/name@sha256:…`
    weight: float


@dataclass(frozen=True, slots=True)
class ResolvedAdapter:
    """What a reference, or a composition of several, meant at the moment of the request."""

    digest: str
    reference: str  # `namespace/name@sha256:…`; of a composition, its terms: `ns/a@sha256:…*0.7+…`
    terms: tuple[ResolvedTerm, ...] = ()  # of a composition, in the order of their digests
    warnings: tuple[str, ...] = ()  # what speaks against its use

    def consists_of(self, reference: str) -> bool:
        """Whether a version acts in it, named by `namespace/name@sha256:…`."""
        return reference == self.reference or any(
            term.reference == reference for term in self.terms
        )


@dataclass(frozen=True, slots=True)
class _Block:
    """A block that an event told of."""

    number: int  # in the order in which they were heard of
    why: str


@dataclass(frozen=True, slots=True)
class ListedAdapter:
    """An adapter that a request may name, and what its bare name means now."""

    name: str
    digest: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ListedPage:
    adapters: list[ListedAdapter]
    next_page_token: str


class AdapterDirectory:
    """What a reference means is what it means in the registry when the request arrives, never something older.

    While the registry's events are followed, a meaning is asked for once and then remembered until an event says that
    its adapter changed. A request needs no look-up then, only to know that no event is on its way: how far the events
    go is asked once for all requests of that moment. Without events the registry is asked for every request.

    Where the registry is away, a reference keeps the meaning it had last, and a digest whose files are here means them:
    what could be served keeps being served, and the log says so.
    """

    def __init__(
        self,
        registry: Registry,
        base: ServedBase,
        *,
        max_rank: int,
        cache: AdapterCache,
        follower: Follower | None = None,
    ) -> None:
        self._registry = registry
        self._lookups = PatientRegistry(registry)
        self._positions = Positions(self._lookups.position)
        self._follower = follower
        self._listing = asyncio.Semaphore(_LISTED_AT_ONCE)
        self._base = base
        self._max_rank = max_rank
        self._cache = cache
        self._meanings = Meanings()
        self._blocked: dict[tuple[AdapterKey, str], _Block] = {}  # by adapter and digest
        self._num_blocks = 0
        self._references: OrderedDict[str, dict[str, None]] = (
            OrderedDict()
        )  # by digest; an ordered set each
        self._registry_is_away = False

    async def resolve(self, reference: str, sticky_key: bytes | None = None) -> ResolvedAdapter:
        """What a reference means now, for a request with the key where it means several versions.

        Without a key it is the one that most requests get. Raises NotFound and InvalidArgument as the registry does,
        FailedPrecondition for a version that does not fit.
        """
        published = await self._resolve(reference, sticky_key)
        return ResolvedAdapter(published.digest, published.reference, warnings=_warnings(published))

    async def compose(
        self, requested: RequestedComposition, sticky_key: bytes | None = None
    ) -> ResolvedAdapter:
        """What a composition means now. Raises as `resolve` does for each term, and where two mean the same version."""
        found = await asyncio.gather(
            *(self._resolve(term.adapter, sticky_key) for term in requested.terms)
        )
        asked: dict[str, str] = {}
        for published, term in zip(found, requested.terms, strict=True):
            if published.digest in asked:
                raise InvalidArgument(
                    f"{asked[published.digest]} and {term.adapter} are the same version "
                    f"({published.short_reference}): name it once, with the sum of the weights.",
                    reason="COMPOSITION_DUPLICATE",
                    adapter=term.adapter,
                    digest=published.digest,
                )
            asked[published.digest] = term.adapter
        weights = {p.digest: term.weight for p, term in zip(found, requested.terms, strict=True)}
        recipe = Recipe(
            tuple(Term(digest, weight) for digest, weight in weights.items()),
            requested.method,
            requested.density,
            requested.seed,
            requested.rank,
        )
        pinned = {published.digest: published.reference for published in found}
        short = {published.digest: published.short_reference for published in found}
        self._cache.expect_composition(recipe)
        self._note_reference(recipe.digest, expression(recipe, short))
        terms = tuple(
            ResolvedTerm(term.digest, pinned[term.digest], term.weight) for term in recipe.terms
        )
        warnings = tuple(warning for published in found for warning in _warnings(published))
        return ResolvedAdapter(recipe.digest, expression(recipe, pinned), terms, warnings)

    async def page(self, limit: int, page_token: str) -> ListedPage:
        """The adapters that have a version for this base and that the caller may use, in the order of their names."""
        names = await self._names(limit, page_token)
        listed = await asyncio.gather(*(self._listed(str(key)) for key in names.keys))
        return ListedPage(
            [adapter for adapter in listed if adapter is not None], names.next_page_token
        )

    async def _names(self, limit: int, page_token: str) -> AdapterNames:
        """A page; where the caller may not use all namespaces, of one at a time.

        A page of all of them would end at an adapter that may be another's, and its token would name it.
        """
        fingerprint = self._base.fingerprint
        among = current_rights.get().namespaces(Role.INFER)
        if among is None:
            return await self._registry.adapters_for(
                fingerprint, namespace=None, limit=limit, page_token=page_token
            )
        start, _, rest = page_token.partition("/")
        keys: list[AdapterKey] = []
        for namespace in sorted(name for name in among if name >= start):
            if len(keys) >= limit:
                return AdapterNames(tuple(keys), f"{namespace}/")
            page = await self._registry.adapters_for(
                fingerprint,
                namespace=namespace,
                limit=limit - len(keys),
                page_token=rest if namespace == start else "",
            )
            keys += page.keys
            if page.next_page_token:
                return AdapterNames(tuple(keys), f"{namespace}/{page.next_page_token}")
        return AdapterNames(tuple(keys), "")

    def references(self, digest: str) -> tuple[str, ...]:
        """`namespace/name:3`, for each name by which requests asked for the digest; any thread."""
        return tuple(self._references.get(digest, ()))

    def notice(self, event: Event) -> None:
        """Something happened in the registry."""
        self._meanings.changed(event.key, event.position)
        version = (event.key, event.digest)
        if event.kind is EventKind.VERSION_BLOCKED:
            self._num_blocks += 1
            self._blocked[version] = _Block(self._num_blocks, event.why)
            # With the registry away, nothing here must bring it back.
            self._disown(*version)
        elif event.kind is EventKind.VERSION_UNBLOCKED:
            self._blocked.pop(version, None)
        elif event.kind is EventKind.VERSION_DELETED:
            self._meanings.forget_version(*version)
            self._disown(*version)
        elif event.kind is EventKind.ADAPTER_DELETED:
            self._meanings.forget_adapter(event.key)
            self._disown(event.key, None)
            for blocked in [one for one in self._blocked if one[0] == event.key]:
                del self._blocked[blocked]

    def missed_events(self) -> None:
        """What is remembered may not hold any more."""
        self._meanings.all_changed()
        self._blocked.clear()

    async def _resolve(self, reference: str, sticky_key: bytes | None) -> Published:
        try:
            meaning = await self._meaning(reference)
        except Unavailable as error:
            meaning = self._as_blocked(self._without_registry(reference, error), since=0)
        except NotFound as error:
            self._forget(reference, error)
            raise
        else:
            self._note_registry(away=False)
        published = meaning.choose(sticky_key)
        self._check(published)
        self._cache.expect(published)
        self._note_reference(published.digest, published.short_reference)
        return published

    async def _meaning(self, reference: str) -> Meaning:
        """What a reference means now: from memory where it is certain that nothing has happened, else asked for."""
        as_of = None
        if self._follower is not None and self._follower.connected:
            position = await self._positions.now()
            if position <= self._follower.position:
                meaning = self._meanings.holding(reference)
                if meaning is not None:
                    return meaning
            as_of = self._meanings.moment(position)
        num_blocks = self._num_blocks
        meaning = await self._lookups.expand(reference)
        self._meanings.put(reference, meaning, as_of)
        return self._as_blocked(meaning, since=num_blocks)

    def _as_blocked(self, meaning: Meaning, *, since: int) -> Meaning:
        """With the blocks that were heard of after the first `since`: what was read before them does not know them."""
        versions = []
        for version, weight in meaning.versions:
            block = self._blocked.get((version.key, version.digest))
            if block is not None and block.number > since:
                version = replace(version, block_reason=block.why)
            versions.append((version, weight))
        return Meaning(tuple(versions), meaning.salt)

    async def _listed(self, name: str) -> ListedAdapter | None:
        try:
            async with self._listing:
                published = (await self._meaning(name)).choose(None)
            self._check(published)
        except Unavailable:
            raise
        except (
            LorryError
        ):  # its production version is for another base, or it is blocked or gone since
            return None
        return ListedAdapter(name, published.digest, _warnings(published))

    def _check(self, published: Published) -> None:
        if published.block_reason is not None:
            raise version_blocked(published.short_reference, published.block_reason)
        if published.base_fingerprint != self._base.fingerprint:
            theirs = published.base_name or published.base_fingerprint
            raise FailedPrecondition(
                f"{published.short_reference} is for the base {theirs} ({published.base_fingerprint}); "
                f"this server runs {self._base.name} ({self._base.fingerprint}). Train it on this base, or ask a "
                "server that runs its own.",
                reason="ADAPTER_BASE_MISMATCH",
                adapter=published.reference,
                adapter_base=published.base_fingerprint,
                server_base=self._base.fingerprint,
            )
        if published.max_rank > self._max_rank:
            raise FailedPrecondition(
                f"{published.short_reference} has rank {published.max_rank}; this server takes ranks up to "
                f"{self._max_rank}. Start it with --max-rank {published.max_rank}.",
                reason="RANK_ABOVE_CAP",
                adapter=published.reference,
                rank=published.max_rank,
                max_rank=self._max_rank,
            )

    def _without_registry(self, reference: str, error: Unavailable) -> Meaning:
        name, _, written = reference.partition("@")
        meaning = self._meanings.last(reference)
        if meaning is None and written:
            published = self._cache.published(written, name)
            meaning = None if published is None else Meaning(((published, 1),), name)
        if meaning is None:
            raise error
        self._note_registry(away=True, error=error)
        return meaning

    def _forget(self, reference: str, error: NotFound) -> None:
        """What is gone must not come back when the registry goes away."""
        self._meanings.forget(reference)
        try:
            asked = parse_reference(reference)
        except LorryError:
            return
        if error.reason in ("ADAPTER_NOT_FOUND", "ADAPTER_DELETED"):
            self._meanings.forget_adapter(asked.key)
            self._disown(asked.key, None)
        elif asked.digest is not None:
            self._disown(asked.key, asked.digest)

    def _disown(self, key: AdapterKey, digest: str | None) -> None:
        self._cache.disown(key, digest)
        for known, names in self._references.items():
            if digest in (None, known):
                self._references[known] = {
                    name: None for name in names if name.rpartition(":")[0] != str(key)
                }

    def _note_registry(self, *, away: bool, error: Unavailable | None = None) -> None:
        if away and not self._registry_is_away:
            _log.warning("%s Adapters that are known are served as they were last resolved.", error)
        elif self._registry_is_away and not away:
            _log.warning("The registry answers again.")
        self._registry_is_away = away

    def _note_reference(self, digest: str, reference: str) -> None:
        references = self._references.get(digest, {})
        if len(references) < _MAX_REFERENCES:
            # A fresh dict each time: scrapes read the old one on their own threads.
            references = {**references, reference: None}
        remember(self._references, digest, references, _MAX_REMEMBERED)


def version_blocked(reference: str, why: str) -> FailedPrecondition:
    """What whoever asked for a blocked version, or runs with it, is told."""
    return FailedPrecondition(
        f"{reference} is blocked: {why}. Use another version.",
        reason="VERSION_BLOCKED",
        version=reference,
        why=why,
    )


def _warnings(published: Published) -> tuple[str, ...]:
    if published.deprecation is None:
        return ()
    instead = published.deprecation.replacement
    use = f" Use {instead}." if instead else ""
    return (f"{published.short_reference} is deprecated: {published.deprecation.reason}.{use}",)
