"""Which of the known bases an adapter is for."""

from collections.abc import Iterable, Sequence

from lorry_registry.checks import AdapterFiles
from lorry_registry.entities import Base
from lorry_registry.errors import FailedPrecondition, InvalidArgument

_SHOWN_BASES = 8


def match_base(adapter: AdapterFiles, bases: Sequence[Base], fingerprint: str) -> Base:
    """The base with `fingerprint`, which the adapter must fit; without one, the first of `bases` that it fits.

    Raises:
        FailedPrecondition: `BASE_UNKNOWN`, no base with that fingerprint, or no base at all, is known.
        InvalidArgument: the adapter does not fit; where one base was in question, what was wrong with that one,
            else `BASE_MISMATCH` with the first fault for each.
    """
    if fingerprint:
        candidates = [base for base in bases if base.fingerprint == fingerprint]
        if not candidates:
            raise _unknown(fingerprint, bases)
    else:
        candidates = list(bases)
        if not candidates:
            raise FailedPrecondition(
                "no base is known, so the adapter cannot be checked: start `lorry serve` against this "
                "registry once, which makes its base known",
                reason="BASE_UNKNOWN",
            )
    faults: list[tuple[Base, InvalidArgument]] = []
    for base in candidates:
        try:
            adapter.check_fit(base)
        except InvalidArgument as fault:
            faults.append((base, fault))
        else:
            return base
    if len(faults) == 1:
        raise faults[0][1]
    raise InvalidArgument(
        "the adapter fits none of the known bases; "
        + "; ".join(f"{_name(base)}: {fault.message}" for base, fault in faults[:_SHOWN_BASES]),
        reason="BASE_MISMATCH",
        bases=",".join(base.fingerprint for base, _ in faults[:_SHOWN_BASES]),
    )


def _unknown(fingerprint: str, bases: Iterable[Base]) -> FailedPrecondition:
    known = [f"{_name(base)} {base.fingerprint}" for base in bases][:_SHOWN_BASES]
    return FailedPrecondition(
        f"the lineage names base {fingerprint}, which is not known here; known: "
        f"{', '.join(known) or 'none'}. Start `lorry serve` with that base against this registry, or leave "
        "base_fingerprint empty to have the base found",
        reason="BASE_UNKNOWN",
        base_fingerprint=fingerprint,
    )


def _name(base: Base) -> str:
    return base.display_name or "unnamed"
