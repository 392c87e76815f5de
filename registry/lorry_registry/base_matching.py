"""Which of the known bases an adapter is for."""

import re
from collections.abc import Iterable, Sequence

from lorry_registry.checks import AdapterFiles
from lorry_registry.entities import Base
from lorry_registry.errors import FailedPrecondition, InvalidArgument

_SHOWN_BASES = 8
_SHOWN_CANDIDATES = 5  # with their whole fingerprints, as many as a status can carry
_SHOWN_NAME_CHARACTERS = 40


def match_base(adapter: AdapterFiles, bases: Sequence[Base], fingerprint: str) -> Base:
    """The base with `fingerprint`, which the adapter must fit; without one, the one of `bases` that it fits.

    Where it fits several, the base that `adapter_config.json` names decides.

    Raises:
        FailedPrecondition: `BASE_UNKNOWN`, no base with that fingerprint, or no base at all, is known;
            `BASE_AMBIGUOUS`, the adapter fits several and does not tell which of them it is for.
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
                "no base is known, so the adapter cannot be checked: make the one that it was trained on known with "
                "`lorry announce BASE`, or start `lorry serve --base BASE` against this registry once",
                reason="BASE_UNKNOWN",
            )
    fitting: list[Base] = []
    faults: list[tuple[Base, InvalidArgument]] = []
    for base in candidates:
        try:
            adapter.check_fit(base)
        except InvalidArgument as fault:
            faults.append((base, fault))
        else:
            fitting.append(base)
    if fitting:
        return _choose(fitting, adapter.config.base_model_name)
    if len(faults) == 1:
        raise faults[0][1]
    raise InvalidArgument(
        "the adapter fits none of the known bases; "
        + "; ".join(f"{_name(base)}: {fault.message}" for base, fault in faults[:_SHOWN_BASES])
        + ". Where it was trained on another, `lorry announce BASE` makes that one known",
        reason="BASE_MISMATCH",
        bases=",".join(base.fingerprint for base, _ in faults[:_SHOWN_BASES]),
    )


def _choose(fitting: Sequence[Base], trained_on: str) -> Base:
    """The one that fits; of several, the one with the name that the adapter was trained on, whole or its last part."""
    if len(fitting) == 1:
        return fitting[0]
    named: list[Base] = []
    if trained_on:
        last = _last_part(trained_on)
        named = [base for base in fitting if base.display_name == trained_on] or [
            base for base in fitting if last and _last_part(base.display_name) == last
        ]
    if len(named) == 1:
        return named[0]
    raise _ambiguous(named or fitting, trained_on, named=bool(named))


def _last_part(name: str) -> str:
    """`Qwen2.5-7B` of `Qwen/Qwen2.5-7B`, `/models/Qwen2.5-7B/` or `C:\\models\\Qwen2.5-7B`."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _ambiguous(candidates: Sequence[Base], trained_on: str, *, named: bool) -> FailedPrecondition:
    shown = candidates[:_SHOWN_CANDIDATES]
    said = repr(trained_on[:_SHOWN_NAME_CHARACTERS]) if trained_on else "nothing"
    why = (
        f"{len(candidates)} known bases that the adapter fits have the name in its base_model_name_or_path, {said}"
        if named
        else f"the adapter fits {len(candidates)} known bases, and its base_model_name_or_path says {said}"
    )
    more = len(candidates) - len(shown)
    return FailedPrecondition(
        f"{why}: say which one it was trained on with `lorry push --base FINGERPRINT`. Newest first: "
        + "; ".join(_described(base) for base in shown)
        + (f"; and {more} more" if more else ""),
        reason="BASE_AMBIGUOUS",
        base_model_name=trained_on,
        **{f"base_{number}": base.fingerprint for number, base in enumerate(shown, start=1)},
    )


def _described(base: Base) -> str:
    facts = [_name(base)[:_SHOWN_NAME_CHARACTERS]]
    if base.quantization:
        facts.append(base.quantization[:_SHOWN_NAME_CHARACTERS])
    if base.create_time is not None:
        facts.append(f"known since {base.create_time:%Y-%m-%d}")
    return f"{base.fingerprint} ({', '.join(facts)})"


def _unknown(fingerprint: str, bases: Iterable[Base]) -> FailedPrecondition:
    known = [f"{_name(base)} {base.fingerprint}" for base in bases][:_SHOWN_BASES]
    return FailedPrecondition(
        f"the lineage names base {fingerprint}, which is not known here; known: "
        f"{', '.join(known) or 'none'}. Make it known with `lorry announce BASE`, or by `lorry serve --base BASE` "
        "against this registry, or leave base_fingerprint empty to have the base found",
        reason="BASE_UNKNOWN",
        base_fingerprint=fingerprint,
    )


def _name(base: Base) -> str:
    return base.display_name or "unnamed"
