"""What both clients do with versions that are published."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING

from lorry_client._calls import versions
from lorry_client.results import Events, Version

if TYPE_CHECKING:
    from lorry_client._awaiting import AwaitingDriver
    from lorry_client._blocking import BlockingDriver


class VersionVerbs:
    """What is said of versions after they were published."""

    _driver: BlockingDriver

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
        heartbeat_seconds: float | None = None,
        timeout: float | None = None,
    ) -> Generator[Events, None, None]:
        """Yields what happens in the catalogue, in order, until it is closed; the first message comes at once.

        Args:
            namespace: only what happens there; None for everywhere.
            resume_token: that of the last message that was seen, after which it goes on; empty begins now. `OutOfRange`
                where it is too old: read anew, then watch without one.
            heartbeat_seconds: how often at least a message comes, 0.1 to 60.
        """
        return self._driver.events(
            versions.watch(namespace, resume_token, heartbeat_seconds), timeout
        )


class AsyncVersionVerbs:
    """As `VersionVerbs`, awaited."""

    _driver: AwaitingDriver

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
        heartbeat_seconds: float | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Events, None]:
        """Yields what happens in the catalogue, in order, until it is closed; the first message comes at once.

        Args:
            namespace: only what happens there; None for everywhere.
            resume_token: that of the last message that was seen, after which it goes on; empty begins now. `OutOfRange`
                where it is too old: read anew, then watch without one.
            heartbeat_seconds: how often at least a message comes, 0.1 to 60.
        """
        return self._driver.events(
            versions.watch(namespace, resume_token, heartbeat_seconds), timeout
        )
