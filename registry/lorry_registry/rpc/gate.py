"""The gate: who calls, may they, and how often; and what they did goes into the log. In front of every service.

It stands behind the interceptor that turns errors into statuses, so that it raises as everybody else does.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import grpc

from lorry_registry.access.authority import TRUST_SECONDS, Authority, Credentials
from lorry_registry.access.entities import AuditEvent, Caller
from lorry_registry.access.limiter import RateLimiter, too_fast
from lorry_registry.access.rights import EVERYWHERE, current_rights
from lorry_registry.errors import (
    LorryError,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from lorry_registry.principal import current_principal
from lorry_registry.rpc.errors import code_of, to_lorry_error
from lorry_registry.rpc.rules import Rule

OPEN_SERVICES = ("/grpc.health.v1.", "/grpc.reflection.")
"""Answered to everybody: they tell nothing of any tenant, and what watches a server has no token."""

_DENIALS_PER_MINUTE = 60  # of one peer into the log; a flood of them must not fill the disk
_MAX_LOGGED_CHARACTERS = 256
_LOG = logging.getLogger(__name__)

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A call that was let in, and what is needed to ask about it again."""

    method: str
    rule: Rule
    credentials: Credentials
    peer: str
    caller: Caller
    namespaces: tuple[str, ...]  # what the call is charged to


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[misc, unused-ignore]
    """Lets a call in by its rule. Handlers find the caller in `current_principal` and `current_rights`."""

    def __init__(
        self,
        rules: Mapping[str, Rule],
        authority: Authority,
        limiter: RateLimiter | None = None,
    ) -> None:
        self._rules = rules
        self._authority = authority
        self._limiter = limiter or RateLimiter()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(OPEN_SERVICES):
            return handler
        rule = self._rules.get(method)
        if handler.unary_unary:
            shape, wrapped = "unary_unary", self._single(method, rule, handler.unary_unary)
        elif handler.unary_stream:
            shape, wrapped = "unary_stream", self._stream(method, rule, handler.unary_stream)
        elif handler.stream_unary:
            shape, wrapped = "stream_unary", self._upload(method, rule, handler.stream_unary)
        else:
            raise NotImplementedError(f"{method} streams both ways, and no rule is for that yet")
        make = getattr(grpc, f"{shape}_rpc_method_handler")
        return make(wrapped, handler.request_deserializer, handler.response_serializer)

    def _single(self, method: str, rule: Rule | None, inner: Any) -> Callable[[Any, Any], Any]:
        async def handle(request: Any, context: Any) -> Any:
            entry = await self._enter(method, rule, request, context)
            answer = await self._recorded(entry, request, inner(request, context))
            await self._charge(entry, answer)
            return answer

        return handle

    def _stream(self, method: str, rule: Rule | None, inner: Any) -> Callable[[Any, Any], Any]:
        async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
            entry = await self._enter(method, rule, request, context)
            messages: AsyncGenerator[Any, None]
            async with (
                aclosing(inner(request, context)) as messages,
                aclosing(self._while_allowed(entry, request, messages)) as allowed,
            ):
                async for message in allowed:
                    await self._charge(entry, message)
                    yield message

        return handle

    def _upload(self, method: str, rule: Rule | None, inner: Any) -> Callable[[Any, Any], Any]:
        async def handle(requests: Any, context: Any) -> Any:
            # Whom nobody knows, nobody waits for. The first piece then says what the stream is about.
            await self._identify(method, rule, None, context)
            pieces = aiter(requests)
            first = await anext(pieces, None)
            entry = await self._enter(method, rule, first, context)
            allowed = self._while_allowed(entry, first, _chain(first, pieces))
            return await self._recorded(entry, first, inner(allowed, context))

        return handle

    async def _enter(self, method: str, rule: Rule | None, request: Any, context: Any) -> _Entry:
        """Lets the call in, or raises why not. `request`: of a stream, its first message; None where it has none."""
        peer = context.peer() or ""
        credentials, caller = await self._identify(method, rule, request, context)
        try:
            if rule is None:
                raise PermissionDenied(
                    f"{method} is offered to nobody: it has no line in the table of rules",
                    reason="RPC_WITHOUT_RULE",
                )
            rule.check(caller.rights, request)
            namespaces = rule.namespaces(request)
        except (PermissionDenied, NotFound) as denial:
            await self._record_denial(method, rule, request, peer, caller, denial)
            raise
        namespaces = namespaces or _home(caller)
        await self._check_rate(rule, namespaces)
        current_principal.set(caller.principal)
        current_rights.set(caller.rights)
        return _Entry(method, rule, credentials, peer, caller, namespaces)

    async def _identify(
        self, method: str, rule: Rule | None, request: Any, context: Any
    ) -> tuple[Credentials, Caller]:
        credentials = _credentials(context)
        try:
            return credentials, await self._authority.identify(credentials)
        except Unauthenticated as denial:
            peer = context.peer() or ""
            await self._record_denial(method, rule, request, peer, None, denial)
            raise

    async def _check_rate(self, rule: Rule, namespaces: tuple[str, ...]) -> None:
        for namespace in namespaces:
            quotas = await self._authority.quotas(namespace)
            bounds = [("requests", quotas.requests_per_minute, 1)]
            if (
                rule.spends is not None
            ):  # what it will spend is known once it has; until then, anything left will do
                bounds.append(("tokens", quotas.tokens_per_minute, 0))
            for what, per_minute, amount in bounds:
                if seconds := self._limiter.take(f"{what} {namespace}", per_minute, amount):
                    raise too_fast(namespace, what, per_minute, seconds)

    async def _charge(self, entry: _Entry, message: Any) -> None:
        if entry.rule.spends is None or not (spent := entry.rule.spends(message)):
            return
        for namespace in entry.namespaces:
            per_minute = (await self._authority.quotas(namespace)).tokens_per_minute
            self._limiter.charge(f"tokens {namespace}", per_minute, spent)

    async def _while_allowed(
        self, entry: _Entry, request: Any, messages: AsyncIterator[M]
    ) -> AsyncGenerator[M, None]:
        """The messages, as long as the caller may: a long stream outlives no token by more than a moment."""
        checked = time.monotonic()
        async for message in messages:
            if time.monotonic() - checked >= TRUST_SECONDS:
                try:
                    caller = await self._authority.identify(entry.credentials)
                    entry.rule.check(caller.rights, request)
                except Unavailable:
                    pass  # who let it in is away: what runs may run on
                checked = time.monotonic()
            yield message

    async def _recorded(self, entry: _Entry, request: Any, answer: Awaitable[M]) -> M:
        """The answer, once the log has that it was given; or the failure, once the log has that."""
        if not entry.rule.changes:
            return await answer
        outcome, reason = "OK", ""
        try:
            return await answer
        except asyncio.CancelledError:
            outcome = "CANCELLED"
            raise
        except Exception as error:
            known = to_lorry_error(error)
            outcome, reason = code_of(known).name, known.reason
            if known is error:
                raise
            raise known from error
        finally:
            event = _event(entry.method, entry.rule, request, entry.peer, entry.caller.principal)
            await asyncio.shield(self._authority.record(event(outcome, reason)))

    async def _record_denial(
        self,
        method: str,
        rule: Rule | None,
        request: Any,
        peer: str,
        caller: Caller | None,
        denial: LorryError,
    ) -> None:
        if self._limiter.take(f"denied {_host(peer)}", _DENIALS_PER_MINUTE):
            return
        who = caller.principal if caller is not None else "unknown"
        event = _event(method, rule, request, peer, who)
        try:
            await self._authority.record(event(code_of(denial).name, denial.reason))
        except Exception:  # the denial stands, whatever becomes of the log
            _LOG.exception("a denial could not be recorded")


async def _chain(first: M | None, rest: AsyncIterator[M]) -> AsyncIterator[M]:
    if first is not None:
        yield first
    async for message in rest:
        yield message


def _event(
    method: str, rule: Rule | None, request: Any, peer: str, principal: str
) -> Callable[[str, str], AuditEvent]:
    resource = namespace = ""
    if rule is not None and request is not None:
        resource = rule.resource(request)
        with suppress(LorryError):  # what is no name is about no namespace
            namespace = next(iter(rule.namespaces(request)), "")

    def make(outcome: str, reason: str) -> AuditEvent:
        return AuditEvent(
            time=datetime.now(UTC),
            principal=principal,
            peer=peer[:_MAX_LOGGED_CHARACTERS],
            action=method.lstrip("/"),
            namespace=namespace,
            resource=resource[:_MAX_LOGGED_CHARACTERS].replace("\0", "?"),
            outcome=outcome,
            reason=reason,
        )

    return make


def _credentials(context: Any) -> Credentials:
    bearer = ""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str):
            scheme, _, text = value.partition(" ")
            bearer = text.strip() if scheme.lower() == "bearer" else ""
    return Credentials(bearer, _certificate_names(context.auth_context()))


def _certificate_names(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    names = [
        *attributes.get("x509_subject_alternative_name", ()),
        *attributes.get("x509_common_name", ()),
    ]
    return tuple(name.decode("utf-8", "replace") for name in names)


def _home(caller: Caller) -> tuple[str, ...]:
    """The namespace that is charged for what names none: the caller's, where it has but one."""
    named = {grant.namespace for grant in caller.rights.grants}
    return tuple(named) if len(named) == 1 and EVERYWHERE not in named else ()


def _host(peer: str) -> str:
    """`ipv4:10.0.0.7` of `ipv4:10.0.0.7:51234`."""
    return peer.rpartition(":")[0]
