"""What may be said of a version after it was published. What it consists of, and where it comes from, never changes."""

from collections.abc import Mapping

from lorry_registry import references
from lorry_registry.entities import AdapterKey, Dataset, Deprecation, Evaluation, Version
from lorry_registry.limits import (
    check_annotations,
    check_description,
    check_evaluation,
    check_labels,
    check_reason,
    check_why,
)
from lorry_registry.paging import Page, clip_page_size, decode_token, make_page
from lorry_registry.store import ANY_ETAG, Store


class VersionNotes:
    """A part of the catalogue."""

    _store: Store

    def update_version(
        self,
        key: AdapterKey,
        number: int,
        *,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        etag: str = ANY_ETAG,
    ) -> Version:
        """Changes what is not None. Raises Aborted where `etag` is stale."""
        return self._store.update_version(
            key,
            number,
            description=None if description is None else check_description(description),
            labels=None if labels is None else check_labels(labels),
            annotations=None if annotations is None else check_annotations(annotations),
            etag=etag,
        )

    def deprecate(self, key: AdapterKey, number: int, deprecation: Deprecation) -> Version:
        """Says why a version should not be used any more."""
        check_reason(deprecation.reason, "deprecation.reason")
        if deprecation.replacement:
            references.parse_reference(deprecation.replacement)
        return self._store.set_deprecation(key, number, deprecation)

    def undeprecate(self, key: AdapterKey, number: int, *, why: str = "") -> Version:
        return self._store.set_deprecation(key, number, None, why=check_why(why))

    def block(self, key: AdapterKey, number: int, why: str) -> Version:
        """Forbids the use of a version, on every server that follows the events."""
        return self._store.set_block(key, number, check_reason(why, "why"))

    def unblock(self, key: AdapterKey, number: int, *, why: str = "") -> Version:
        return self._store.set_block(key, number, None, why=check_why(why))

    def add_evaluation(
        self,
        key: AdapterKey,
        number: int,
        *,
        title: str,
        metrics: Mapping[str, float],
        dataset: Dataset | None = None,
        description: str = "",
    ) -> Evaluation:
        """Adds an evaluation, which then stays. Raises InvalidArgument where it says nothing."""
        dataset = dataset or Dataset("")
        check_evaluation(title, metrics, dataset, description)
        return self._store.add_evaluation(
            key, number, title=title, metrics=metrics, dataset=dataset, description=description
        )

    def list_evaluations(
        self, key: AdapterKey, number: int, *, page_size: int = 0, page_token: str = ""
    ) -> Page[Evaluation]:
        """A page, newest first."""
        size = clip_page_size(page_size)
        arguments = ("evaluations", key.resource_name, str(number))
        after = decode_token(page_token, arguments, types=(int,))
        found = self._store.list_evaluations(
            key, number, after=None if after is None else int(after[0]), limit=size + 1
        )
        return make_page(found, size, lambda evaluation: [evaluation.number], arguments)
