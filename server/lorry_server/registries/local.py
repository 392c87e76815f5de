"""The registry of this process, called without a network between."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from lorry_registry.catalogue import Catalogue
from lorry_registry.entities import Base, File, Version
from lorry_server.registries import AdapterNames, Published


class LocalRegistry:
    """A catalogue that somebody else opens and closes."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def resolve(self, reference: str) -> Published:
        return _published(await asyncio.to_thread(self._catalogue.resolve, reference))

    async def adapters_for(
        self, base_fingerprint: str, *, limit: int, page_token: str
    ) -> AdapterNames:
        page = await asyncio.to_thread(
            self._catalogue.list_adapters,
            None,
            page_size=limit,
            page_token=page_token,
            filter_text=f'base = "{base_fingerprint}"',
        )
        return AdapterNames(tuple(adapter.key for adapter in page.items), page.next_token)

    async def create_base(self, base: Base) -> None:
        await asyncio.to_thread(self._catalogue.put_base, base)

    def fetch_blob(self, file: File, target: Path) -> None:
        """A link where the file system has them: a blob was held against its digest when it came, and is read-only."""
        with self._catalogue.blobs.local_file(file.digest) as blob:
            try:
                os.link(blob, target)
            except OSError:
                shutil.copyfile(blob, target)


def _published(version: Version) -> Published:
    return Published(
        key=version.key,
        number=version.number,
        digest=version.digest,
        base_fingerprint=version.lineage.base_fingerprint,
        base_name=version.lineage.base_name,
        max_rank=version.spec.max_rank,
        files=version.files,
    )
