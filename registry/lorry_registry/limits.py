"""How much of what callers write is kept: bounds on texts, labels and lineages, and what no text may hold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lorry_registry.canaries import MAX_TARGETS, MAX_WEIGHT
from lorry_registry.digests import parse_digest
from lorry_registry.entities import AliasTarget, Base, Dataset, Lineage
from lorry_registry.errors import InvalidArgument

MAX_DESCRIPTION_CHARACTERS = 4096
MAX_REASON_CHARACTERS = 500  # it travels in statuses
MAX_LABELS = 64
MAX_LABEL_KEY_CHARACTERS = 63
MAX_LABEL_VALUE_CHARACTERS = 255
MAX_EVALUATIONS = 10_000  # of one version; they are never removed
MAX_ANNOTATION_CHARACTERS = 16 << 10
MAX_ANNOTATIONS_BYTES = 64 << 10
MAX_NAME_CHARACTERS = 512
MAX_RECIPE_CHARACTERS = 256 << 10
MAX_LINEAGE_ENTRIES = 1000
MAX_LINEAGE_BYTES = 1 << 20
MAX_BASE_MODULES = 100_000
MAX_PARAMETER_DIMENSIONS = 4
MAX_BASE_MODULE_BYTES = (4 << 20) - (64 << 10)
MAX_MEDIA_TYPE_CHARACTERS = 255

# A version, or a base, is one message at most: with these bounds none is beyond the 4 MiB that a client takes.
_MODULE_OVERHEAD_BYTES = 18  # of a module's or a parameter's message, beside its paths


def check_text(text: str, what: str, max_characters: int) -> str:
    """Returns `text` where it is short enough and holds no NUL, which databases differ about."""
    if len(text) > max_characters:
        raise InvalidArgument(
            f"{what} has {len(text)} characters, more than {max_characters}: shorten it",
            reason="FIELD_TOO_LONG",
            field=what,
            max_characters=max_characters,
        )
    if "\0" in text:
        raise InvalidArgument(
            f"{what} holds a NUL character: leave it out", reason="FIELD_INVALID", field=what
        )
    return text


def check_description(text: str) -> str:
    return check_text(text, "description", MAX_DESCRIPTION_CHARACTERS)


def check_why(text: str) -> str:
    return check_text(text, "why", MAX_DESCRIPTION_CHARACTERS)


def check_reason(text: str, what: str) -> str:
    """As `check_why`, where a reason is owed to whoever meets with the consequences."""
    if not text.strip():
        raise InvalidArgument(
            f"{what} is empty: say why, those who use the version are told",
            reason="REASON_MISSING",
            field=what,
        )
    return check_text(text, what, MAX_REASON_CHARACTERS)


def check_targets(targets: Sequence[AliasTarget]) -> list[AliasTarget]:
    """The targets of an alias with their weights, where 0 stands for 1."""
    if not 1 <= len(targets) <= MAX_TARGETS:
        raise _bad_targets(f"an alias has 1 to {MAX_TARGETS} targets, not {len(targets)}")
    for target in targets:
        if not 0 <= target.weight <= MAX_WEIGHT:
            raise _bad_targets(
                f"version {target.version} has the weight {target.weight}; weights go from 1 to {MAX_WEIGHT}"
            )
    if len({target.version for target in targets}) < len(targets):
        raise _bad_targets("a version stands among the targets twice: add its weights up")
    return [replace(target, weight=target.weight or 1) for target in targets]


def check_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    _check_count(len(labels), "labels", MAX_LABELS)
    for key, value in labels.items():
        if not key:
            raise InvalidArgument(
                "a label's key is empty: name it", reason="FIELD_INVALID", field="labels"
            )
        check_text(key, "a label's key", MAX_LABEL_KEY_CHARACTERS)
        check_text(value, f"labels.{key}", MAX_LABEL_VALUE_CHARACTERS)
    return labels


def check_annotations(annotations: Mapping[str, str]) -> Mapping[str, str]:
    _check_count(len(annotations), "annotations", MAX_LABELS)
    for key, value in annotations.items():
        if not key:
            raise InvalidArgument(
                "an annotation's key is empty: name it", reason="FIELD_INVALID", field="annotations"
            )
        check_text(key, "an annotation's key", MAX_LABEL_KEY_CHARACTERS)
        check_text(value, f"annotations.{key}", MAX_ANNOTATION_CHARACTERS)
    _check_bytes(
        sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()),
        "annotations",
        MAX_ANNOTATIONS_BYTES,
    )
    return annotations


def check_evaluation(
    title: str, metrics: Mapping[str, float], dataset: Dataset, description: str
) -> None:
    check_text(title, "evaluation.title", MAX_NAME_CHARACTERS)
    if not title.strip() or not metrics:
        raise InvalidArgument(
            "an evaluation needs a title and at least one metric", reason="EVALUATION_INVALID"
        )
    check_text(description, "evaluation.description", MAX_DESCRIPTION_CHARACTERS)
    _check_count(len(metrics), "evaluation.metrics", MAX_LABELS)
    for name, value in metrics.items():
        check_text(name, "a metric's name", MAX_LABEL_KEY_CHARACTERS)
        if not name or not math.isfinite(value):
            raise InvalidArgument(
                f"evaluation.metrics: {name!r} is {value}: a metric has a name and a finite value",
                reason="EVALUATION_INVALID",
                metric=name,
            )
    for what in ("name", "split"):
        check_text(getattr(dataset, what), f"evaluation.dataset.{what}", MAX_NAME_CHARACTERS)
    if dataset.digest:
        parse_digest(dataset.digest, what="evaluation.dataset.digest")
    if not 0 <= dataset.row_count < 1 << 63:
        raise InvalidArgument(
            f"evaluation.dataset.row_count {dataset.row_count} is negative",
            reason="EVALUATION_INVALID",
        )


def check_lineage(lineage: Lineage) -> Lineage:
    if lineage.base_fingerprint:
        parse_digest(lineage.base_fingerprint, what="lineage.base_fingerprint")
    check_text(lineage.recipe, "lineage.recipe", MAX_RECIPE_CHARACTERS)
    for what in ("base_name", "producer", "code_revision"):
        check_text(getattr(lineage, what), f"lineage.{what}", MAX_NAME_CHARACTERS)
    for what in ("datasets", "metrics", "parents"):
        _check_count(len(getattr(lineage, what)), f"lineage.{what}", MAX_LINEAGE_ENTRIES)
    for parent in lineage.parents:
        parse_digest(parent, what="a digest in lineage.parents")
    for dataset in lineage.datasets:
        check_text(dataset.name, "a data set's name", MAX_NAME_CHARACTERS)
        check_text(dataset.split, "a data set's split", MAX_NAME_CHARACTERS)
        if dataset.digest:
            parse_digest(dataset.digest, what=f"the digest of data set {dataset.name[:80]!r}")
    for name, value in lineage.metrics.items():
        check_text(name, "a metric's name", MAX_NAME_CHARACTERS)
        if not math.isfinite(value):
            raise InvalidArgument(
                f"lineage.metrics[{name!r}] is {value}: leave out what could not be measured",
                reason="FIELD_INVALID",
                field=f"lineage.metrics.{name}",
            )
    _check_bytes(_text_bytes(lineage), "lineage", MAX_LINEAGE_BYTES)
    return lineage


def check_base(base: Base) -> Base:
    parse_digest(base.fingerprint, what="the base's fingerprint")
    for what in ("display_name", "architecture", "quantization"):
        check_text(getattr(base, what), f"base.{what}", MAX_NAME_CHARACTERS)
    _check_count(len(base.modules), "base.modules", MAX_BASE_MODULES)
    _check_bytes(
        sum(len(module.path.encode()) + _MODULE_OVERHEAD_BYTES for module in base.modules)
        + sum(
            len(each.path.encode()) + len(each.tied_to.encode()) + _MODULE_OVERHEAD_BYTES
            for each in base.parameters
        ),
        "base.modules and base.parameters",
        MAX_BASE_MODULE_BYTES,
    )
    if not base.modules:
        raise InvalidArgument(
            "base.modules is empty: list every linear layer of the base",
            reason="FIELD_INVALID",
            field="base.modules",
        )
    if min(base.max_rank, base.context_length) < 0:
        raise InvalidArgument(
            "base.max_rank and base.context_length must not be negative: 0 says nothing",
            reason="FIELD_INVALID",
            field="base",
        )
    paths = set()
    for module in base.modules:
        check_text(module.path, "a module's path", MAX_NAME_CHARACTERS)
        if (
            not module.path
            or module.path in paths
            or module.in_features < 1
            or module.out_features < 1
        ):
            raise InvalidArgument(
                f"base.modules: {module.path!r} ({module.in_features} → {module.out_features}) needs a path "
                "of its own and at least one feature on either side",
                reason="FIELD_INVALID",
                field="base.modules",
            )
        paths.add(module.path)
    _check_parameters(base)
    return base


def _bad_targets(rule: str) -> InvalidArgument:
    return InvalidArgument(rule, reason="ALIAS_TARGETS_INVALID")


def _check_parameters(base: Base) -> None:
    _check_count(len(base.parameters), "base.parameters", MAX_BASE_MODULES)
    paths: set[str] = set()
    for parameter in base.parameters:
        check_text(parameter.path, "a parameter's path", MAX_NAME_CHARACTERS)
        check_text(parameter.tied_to, "a parameter's path", MAX_NAME_CHARACTERS)
        if (
            not parameter.path
            or parameter.path in paths
            or not 1 <= len(parameter.shape) <= MAX_PARAMETER_DIMENSIONS
            or parameter.shape[0] < 0
            or min(parameter.shape[1:], default=1) < 1
        ):
            raise InvalidArgument(
                f"base.parameters: {parameter.path!r} {list(parameter.shape)} needs a path of its own and a shape of "
                f"at most {MAX_PARAMETER_DIMENSIONS} sizes from 1 on, the first of a head's 0",
                reason="FIELD_INVALID",
                field="base.parameters",
            )
        paths.add(parameter.path)


def _text_bytes(lineage: Lineage) -> int:
    texts = [lineage.base_name, lineage.recipe, lineage.producer, lineage.code_revision]
    texts += [*lineage.parents, *lineage.metrics]
    for dataset in lineage.datasets:
        texts += [dataset.name, dataset.digest, dataset.split]
    return sum(len(text.encode()) for text in texts)


def _check_bytes(count: int, what: str, maximum: int) -> None:
    if count > maximum:
        raise InvalidArgument(
            f"{what} has {count} bytes, more than {maximum}: keep what matters",
            reason="FIELD_TOO_LONG",
            field=what,
            max_bytes=maximum,
        )


def _check_count(count: int, what: str, maximum: int) -> None:
    if count > maximum:
        raise InvalidArgument(
            f"{what} has {count} entries, more than {maximum}: keep the ones that matter",
            reason="FIELD_TOO_LONG",
            field=what,
            max_entries=maximum,
        )
