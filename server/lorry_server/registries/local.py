"""The registry of this process, called without a network between."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from lorry_registry.catalogue import Catalogue
from lorry_registry.entities import Base, File, Version
from lorry_registry.watching import Batch
from lorry_server.cached import check_digest
from lorry_server.registries import AdapterNames, Meaning, Published

P = ParamSpec("P")
T = TypeVar("T")


class LocalRegistry:
    """A catalogue that somebody else opens and closes."""

    name = "here"

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        # Threads of its own: whoever keeps the loop's shared ones busy holds up no request, and no list holds one up.
        self._lookups = ThreadPoolExecutor(4, thread_name_prefix="lorry-lookup")
        self._lists = ThreadPoolExecutor(1, thread_name_prefix="lorry-list")

    async def expand(self, reference: str) -> Meaning:
        meaning = await _on(self._lookups, self._catalogue.expand, reference)
        return Meaning(
            tuple((_published(version), weight) for version, weight in meaning.versions),
            meaning.salt,
        )

    async def position(self) -> int:
        return await _on(self._lookups, self._catalogue.position)

    def watch(self, resume_token: str, heartbeat_seconds: float) -> AsyncIterator[Batch]:
        return self._catalogue.watch(resume_token=resume_token, heartbeat_seconds=heartbeat_seconds)

    async def adapters_for(
        self, base_fingerprint: str, *, namespace: str | None, limit: int, page_token: str
    ) -> AdapterNames:
        page = await _on(
            self._lists,
            self._catalogue.list_adapters,
            namespace,
            page_size=limit,
            page_token=page_token,
            filter_text=f'base = "{base_fingerprint}"',
        )
        return AdapterNames(tuple(adapter.key for adapter in page.items), page.next_token)

    async def create_base(self, base: Base) -> None:
        await _on(self._lookups, self._catalogue.put_base, base)

    def fetch_blob(self, file: File, target: Path) -> None:
        """A link where the file system has them: a blob was held against its digest when it came, and is read-only."""
        with self._catalogue.blobs.local_file(file.digest) as blob:
            try:
                os.link(blob, target)
            except OSError:
                shutil.copyfile(blob, target)
                check_digest(target, file)

    def interrupt(self) -> None:
        """Nothing waits for bytes here; but others may watch, and a server that stops does not wait for them."""
        self._catalogue.end_watches()

    def close(self) -> None:
        for threads in (self._lookups, self._lists):
            threads.shutdown(cancel_futures=True)


async def _on(
    threads: ThreadPoolExecutor, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    work = functools.partial(call, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(threads, work)


def _published(version: Version) -> Published:
    return Published(
        key=version.key,
        number=version.number,
        digest=version.digest,
        base_fingerprint=version.lineage.base_fingerprint,
        base_name=version.lineage.base_name,
        max_rank=version.spec.max_rank,
        files=version.files,
        deprecation=version.deprecation,
        block_reason=version.block_reason,
    )
