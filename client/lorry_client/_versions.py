"""What both clients do with versions that are published."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from typing import TYPE_CHECKING

from lorry_client._calls import versions
from lorry_client.results import Comparison, Dataset, Evaluation, Events, LineageGraph, Version

if TYPE_CHECKING:
    from lorry_client._awaiting import AwaitingDriver
    from lorry_client._blocking import BlockingDriver


class VersionVerbs:
    """What is said of versions after they were published."""

    _driver: BlockingDriver

    def update_version(
        self,
        reference: str,
        *,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        etag: str | None = None,
    ) -> Version:
        """Changes what is said of a version: what is given, as a whole; with an etag, only where nobody else has."""
        return self._driver.run(versions.update(reference, description, labels, annotations, etag))

    def add_evaluation(
        self,
        reference: str,
        title: str,
        metrics: Mapping[str, float],
        *,
        dataset: Dataset | None = None,
        description: str = "",
    ) -> Evaluation:
        """Adds what a version was found to be good for; it stays."""
        return self._driver.run(
            versions.add_evaluation(reference, title, metrics, dataset, description)
        )

    def evaluations(self, reference: str) -> list[Evaluation]:
        """Lists a version's evaluations, newest first."""
        return self._driver.run(versions.evaluations(reference))

    def lineage(self, reference: str) -> LineageGraph:
        """Returns where a version comes from: bases, parents, data, recipes, code and evaluations, as a graph."""
        return self._driver.run(versions.lineage(reference))

    def compare(self, first: str, second: str, *, timeout: float | None = None) -> Comparison:
        """Returns how two versions differ: what is said of them, their figures, and what they do to each module."""
        return self._driver.call(versions.compare(first, second), timeout)

    def card(self, reference: str) -> str:
        """Returns a version's model card, Markdown as hubs read it, made of its lineage and its evaluations."""
        return self._driver.run(versions.card(reference))

    def deprecate(self, reference: str, reason: str, *, replacement: str = "") -> Version:
        """Says why a version should not be used any more: its answers carry a warning.

        Args:
            replacement: what to use instead: a version's number, its digest, or any reference.
        """
        return self._driver.run(versions.deprecate(reference, reason, replacement))

    def undeprecate(self, reference: str, *, why: str = "") -> Version:
        """Takes a deprecation back."""
        return self._driver.run(versions.undeprecate(reference, why))

    def block(self, reference: str, why: str) -> Version:
        """Forbids the use of a version: servers refuse it, end what runs with it, and unload it."""
        return self._driver.run(versions.block(reference, why))

    def unblock(self, reference: str, *, why: str = "") -> Version:
        """Takes a block back."""
        return self._driver.run(versions.unblock(reference, why))

    def watch(
        self,
        namespace: str | None = None,
        *,
        resume_token: str = "",
        filter: str = "",
        heartbeat_seconds: float | None = None,
        timeout: float | None = None,
    ) -> Generator[Events, None, None]:
        """Yields what happens in the catalogue, in order, until it is closed; the first message comes at once.

        Args:
            namespace: only what happens there; None for everywhere.
            resume_token: that of the last message that was seen, after which it goes on; empty begins now. `OutOfRange`
                where it is too old: read anew, then watch without one.
            filter: such as `kind = ALIAS_MOVED AND adapter = "support"`.
            heartbeat_seconds: how often at least a message comes, 0.1 to 60.
        """
        return self._driver.events(
            versions.watch(namespace, resume_token, filter, heartbeat_seconds), timeout
        )


class AsyncVersionVerbs:
    """As `VersionVerbs`, awaited."""

    _driver: AwaitingDriver

    async def update_version(
        self,
        reference: str,
        *,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        etag: str | None = None,
    ) -> Version:
        """Changes what is said of a version: what is given, as a whole; with an etag, only where nobody else has."""
        return await self._driver.run(
            versions.update(reference, description, labels, annotations, etag)
        )

    async def add_evaluation(
        self,
        reference: str,
        title: str,
        metrics: Mapping[str, float],
        *,
        dataset: Dataset | None = None,
        description: str = "",
    ) -> Evaluation:
        """Adds what a version was found to be good for; it stays."""
        return await self._driver.run(
            versions.add_evaluation(reference, title, metrics, dataset, description)
        )

    async def evaluations(self, reference: str) -> list[Evaluation]:
        """Lists a version's evaluations, newest first."""
        return await self._driver.run(versions.evaluations(reference))

    async def lineage(self, reference: str) -> LineageGraph:
        """Returns where a version comes from: bases, parents, data, recipes, code and evaluations, as a graph."""
        return await self._driver.run(versions.lineage(reference))

    async def compare(self, first: str, second: str, *, timeout: float | None = None) -> Comparison:
        """Returns how two versions differ: what is said of them, their figures, and what they do to each module."""
        return await self._driver.call(versions.compare(first, second), timeout)

    async def card(self, reference: str) -> str:
        """Returns a version's model card, Markdown as hubs read it, made of its lineage and its evaluations."""
        return await self._driver.run(versions.card(reference))

    async def deprecate(self, reference: str, reason: str, *, replacement: str = "") -> Version:
        """Says why a version should not be used any more: its answers carry a warning.

        Args:
            replacement: what to use instead: a version's number, its digest, or any reference.
        """
        return await self._driver.run(versions.deprecate(reference, reason, replacement))

    async def undeprecate(self, reference: str, *, why: str = "") -> Version:
        """Takes a deprecation back."""
        return await self._driver.run(versions.undeprecate(reference, why))

    async def block(self, reference: str, why: str) -> Version:
        """Forbids the use of a version: servers refuse it, end what runs with it, and unload it."""
        return await self._driver.run(versions.block(reference, why))

    async def unblock(self, reference: str, *, why: str = "") -> Version:
        """Takes a block back."""
        return await self._driver.run(versions.unblock(reference, why))

    def watch(
        self,
        namespace: str | None = None,
        *,
        resume_token: str = "",
        filter: str = "",
        heartbeat_seconds: float | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Events, None]:
        """Yields what happens in the catalogue, in order, until it is closed; the first message comes at once.

        Args:
            namespace: only what happens there; None for everywhere.
            resume_token: that of the last message that was seen, after which it goes on; empty begins now. `OutOfRange`
                where it is too old: read anew, then watch without one.
            filter: such as `kind = ALIAS_MOVED AND adapter = "support"`.
            heartbeat_seconds: how often at least a message comes, 0.1 to 60.
        """
        return self._driver.events(
            versions.watch(namespace, resume_token, filter, heartbeat_seconds), timeout
        )
