"""From the reference in a request to the digest that the engine runs."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeVar

from lorry_registry.access.rights import Role, current_rights
from lorry_registry.entities import AdapterKey
from lorry_registry.errors import (
    FailedPrecondition,
    InvalidArgument,
    LorryError,
    NotFound,
    Unavailable,
)
from lorry_registry.references import parse_reference
from lorry_server.base import ServedBase
from lorry_server.cache import AdapterCache
from lorry_server.compositions import RequestedComposition, expression
from lorry_server.engine.adapters.recipe import Recipe, Term
from lorry_server.registries import Meaning, Published, Registry
from lorry_server.registries.patience import PatientRegistry

_T = TypeVar("_T")
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


@dataclass(frozen=True, slots=True)
class ListedAdapter:
    """An adapter that a request may name, and what its bare name means now."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class ListedPage:
    adapters: list[ListedAdapter]
    next_page_token: str


class AdapterDirectory:
    """Asks the registry for every request, so that an alias that moves takes effect at once.

    Where the registry is away, a reference keeps the meaning it had last, and a digest whose files are here means them:
    what could be served keeps being served, and the log says so.
    """

    def __init__(
        self, registry: Registry, base: ServedBase, *, max_rank: int, cache: AdapterCache
    ) -> None:
        self._registry = registry
        self._lookups = PatientRegistry(registry)
        self._listing = asyncio.Semaphore(_LISTED_AT_ONCE)
        self._base = base
        self._max_rank = max_rank
        self._cache = cache
        self._last_known: OrderedDict[str, Meaning] = (
            OrderedDict()
        )  # by reference, least recently used first
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
        return ResolvedAdapter(published.digest, published.reference)

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
        return ResolvedAdapter(recipe.digest, expression(recipe, pinned), terms)

    async def page(self, limit: int, page_token: str) -> ListedPage:
        """The adapters that have a version for this base and that the caller may use, in the order of their names."""
        names = await self._registry.adapters_for(
            self._base.fingerprint, limit=limit, page_token=page_token
        )
        rights = current_rights.get()
        allowed = [key for key in names.keys if rights.allows(Role.INFER, key.namespace)]
        listed = await asyncio.gather(*(self._listed(str(key)) for key in allowed))
        return ListedPage(
            [adapter for adapter in listed if adapter is not None], names.next_page_token
        )

    def references(self, digest: str) -> tuple[str, ...]:
        """`namespace/name:3`, for each name by which requests asked for the digest; any thread."""
        return tuple(self._references.get(digest, ()))

    async def _resolve(self, reference: str, sticky_key: bytes | None) -> Published:
        try:
            meaning = await self._lookups.expand(reference)
        except Unavailable as error:
            meaning = self._without_registry(reference, error)
        except NotFound as error:
            self._forget(reference, error)
            raise
        else:
            self._note_registry(away=False)
        published = meaning.choose(sticky_key)
        self._check(published)
        self._remember(reference, meaning, published)
        return published

    async def _listed(self, name: str) -> ListedAdapter | None:
        try:
            async with self._listing:
                published = (await self._lookups.expand(name)).choose(None)
            self._check(published)
        except Unavailable:
            raise
        except LorryError:  # its production version is for another base, or it is gone since
            return None
        return ListedAdapter(name, published.digest)

    def _check(self, published: Published) -> None:
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
        meaning = self._last_known.get(reference)
        if meaning is None and written:
            published = self._cache.published(written, name)
            meaning = None if published is None else Meaning(((published, 1),), name)
        if meaning is None:
            raise error
        self._note_registry(away=True, error=error)
        return meaning

    def _forget(self, reference: str, error: NotFound) -> None:
        """What is gone must not come back when the registry goes away."""
        self._last_known.pop(reference, None)
        try:
            asked = parse_reference(reference)
        except LorryError:
            return
        if error.reason == "ADAPTER_NOT_FOUND":
            for other in [r for r, m in self._last_known.items() if m.key == asked.key]:
                del self._last_known[other]
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

    def _remember(self, reference: str, meaning: Meaning, published: Published) -> None:
        self._cache.expect(published)
        _put(self._last_known, reference, meaning)
        self._note_reference(published.digest, published.short_reference)

    def _note_reference(self, digest: str, reference: str) -> None:
        references = self._references.get(digest, {})
        if len(references) < _MAX_REFERENCES:
            # A fresh dict each time: scrapes read the old one on their own threads.
            references = {**references, reference: None}
        _put(self._references, digest, references)


def _put(entries: OrderedDict[str, _T], key: str, value: _T) -> None:
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > _MAX_REMEMBERED:
        entries.popitem(last=False)
