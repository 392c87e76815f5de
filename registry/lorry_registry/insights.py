"""What can be told of versions from what is kept: where they come from, and how two of them differ."""

import json
from contextlib import ExitStack

from lorry_registry import resolution
from lorry_registry.access.rights import Role, current_rights
from lorry_registry.blobs import BlobStore
from lorry_registry.checks import CONFIG_FILE, WEIGHTS_FILE, read_adapter_files
from lorry_registry.comparison import Comparison, Side, compare
from lorry_registry.entities import AdapterKey, Evaluation, Version
from lorry_registry.errors import NotFound
from lorry_registry.filters import Compare
from lorry_registry.lineage_graph import LineageGraph, lineage_graph
from lorry_registry.searches import NEWEST_FIRST, Search
from lorry_registry.store import Store

_MAX_EVALUATIONS = 50  # in a graph, of one version: the newest
_MAX_NAMESAKES = 20  # versions with one digest that are looked at


class Insights:
    """A part of the catalogue."""

    _store: Store
    blobs: BlobStore

    def lineage_graph(self, key: AdapterKey, number: int) -> LineageGraph:
        """Where a version comes from. What the caller may not see is told by its digest alone."""
        return lineage_graph(
            self._store.get_version(key, number), self._parent, self._newest_evaluations
        )

    def compare_versions(self, first: str, second: str) -> Comparison:
        """How what two references mean differs; reads the files of both.

        Raises:
            NotFound, InvalidArgument: as `resolution.resolve`.
        """
        versions = [resolution.resolve(self._store, reference) for reference in (first, second)]
        with ExitStack() as stack:
            return compare(*(self._side(version, stack) for version in versions))

    def _side(self, version: Version, stack: ExitStack) -> Side:
        by_path = {file.path: file.digest for file in version.files}
        config, weights = (
            stack.enter_context(self.blobs.local_file(by_path[name]))
            for name in (CONFIG_FILE, WEIGHTS_FILE)
        )
        return Side(version, read_adapter_files(config, weights), json.loads(config.read_bytes()))

    def _parent(self, digest: str, child: Version) -> Version | None:
        """The version with a digest: of the same adapter, else in the same namespace, else wherever it is seen."""
        try:
            return self._store.get_version_by_digest(child.key, digest)
        except NotFound:
            pass
        found = self._store.search_versions(
            current_rights.get().namespaces(Role.READ),
            Search(Compare("digest", "=", digest), NEWEST_FIRST),
            after=None,
            limit=_MAX_NAMESAKES,
        )
        near = [version for version in found if version.key.namespace == child.key.namespace]
        return next(iter(near or found), None)

    def _newest_evaluations(self, version: Version) -> list[Evaluation]:
        return self._store.list_evaluations(
            version.key, version.number, after=None, limit=_MAX_EVALUATIONS
        )
