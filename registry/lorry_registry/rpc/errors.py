"""The one table from exceptions to gRPC statuses, and the interceptor that applies it to every call.

Every failing call ends with a google.rpc.Status that carries ErrorInfo: a reason for programs, the domain `lorry`,
and the variable parts of the message as metadata; and RetryInfo, where waiting helps and it is known how long. What
is nobody's fault but ours becomes INTERNAL; its trace goes to the log, under an id that the caller is given, and
never over the wire.
"""

import asyncio
import errno
import inspect
import logging
import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from lorry_registry import errors

DOMAIN = "lorry"

CODES: Mapping[type[errors.LorryError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DataLoss: grpc.StatusCode.DATA_LOSS,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}

_LOG = logging.getLogger(__name__)

# A status travels in the trailers, twice (percent-encoded text, base64 of the whole), and peers may refuse
# trailers beyond 8 KiB: what does not fit would arrive as another error altogether.
_MAX_MESSAGE_BYTES = 1000
_MAX_METADATA_BYTES = 200
_MAX_METADATA_ENTRIES = 6


def to_lorry_error(error: Exception) -> errors.LorryError:
    """The domain's error for any exception: itself where it is one, else by what the system said, else Internal."""
    if isinstance(error, errors.LorryError):
        return error
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return errors.ResourceExhausted(
                "the server's disk is full: free space, then retry", reason="DISK_FULL"
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return errors.FailedPrecondition(
                "the server may not write to its home: correct its permissions",
                reason="HOME_UNWRITABLE",
            )
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return errors.Unavailable(
                "the server has too many files open: retry", reason="TOO_MANY_OPEN_FILES"
            )
    error_id = secrets.token_hex(4)
    _LOG.error("unexpected failure %s", error_id, exc_info=error)
    return errors.Internal(
        f"unexpected failure; the server's log has it under {error_id}",
        reason="INTERNAL",
        error_id=error_id,
    )


def code_of(error: errors.LorryError) -> grpc.StatusCode:
    """The table's code for an error."""
    kind = next(kind for kind in type(error).__mro__ if kind in CODES or kind is errors.LorryError)
    return CODES.get(kind, grpc.StatusCode.UNKNOWN)


def to_status(error: errors.LorryError) -> grpc.Status:
    """The status that a call ends with."""
    code = code_of(error)
    info = ErrorInfo(
        reason=error.reason,
        domain=DOMAIN,
        metadata={
            key: _clip(value, _MAX_METADATA_BYTES)
            for key, value in list(error.metadata.items())[:_MAX_METADATA_ENTRIES]
        },
    )
    detail = AnyMessage()
    detail.Pack(info)
    details = [detail]
    if (seconds := error.metadata.get("retry_after_seconds")) is not None:
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(math.ceil(float(seconds) * 1000))
        detail = AnyMessage()
        detail.Pack(retry)
        details.append(detail)
    status: grpc.Status = rpc_status.to_status(
        Status(
            code=code.value[0],
            message=_clip(error.message, _MAX_MESSAGE_BYTES),
            details=details,
        )
    )
    return status


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc, unused-ignore]
    """Ends every call that raises with the status that the table has for it.

    Cancellation passes through untouched, and so does a handler's own `context.abort`.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        if handler is None:  # a method that nobody serves: UNIMPLEMENTED
            return None
        for shape, wrap in _WRAPPERS.items():
            inner = getattr(handler, shape)
            if inner is not None:
                if inspect.iscoroutinefunction(inner):
                    wrap = _wrap_single  # streams by `context.write`, as the health service's Watch does
                make = getattr(grpc, f"{shape}_rpc_method_handler")
                read = _reader(handler.request_deserializer)
                check = _check_each if shape.startswith("stream") else _check
                return make(wrap(inner, check), read, handler.response_serializer)
        return handler


@dataclass(frozen=True, slots=True)
class _Malformed:
    """Stands for bytes that are no message of the kind that was called for."""

    why: str


def _reader(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """As `deserialize`, and raises nothing: gRPC would answer UNKNOWN, with words of its own."""
    if deserialize is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception as error:
            return _Malformed(str(error))

    return read


def _check(request: Any) -> Any:
    if isinstance(request, _Malformed):
        raise errors.InvalidArgument(
            f"the request is no message of this call ({request.why}): generate the client from the current contract",
            reason="REQUEST_MALFORMED",
        )
    return request


async def _check_each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _check(request)


def _wrap_single(
    inner: Callable[[Any, Any], Awaitable[Any]], check: Callable[[Any], Any]
) -> Callable[[Any, Any], Any]:
    async def handle(request: Any, context: Any) -> Any:
        try:
            return await inner(check(request), context)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            await context.abort_with_status(to_status(to_lorry_error(error)))

    return handle


def _wrap_stream(
    inner: Callable[[Any, Any], AsyncIterator[Any]], check: Callable[[Any], Any]
) -> Callable[[Any, Any], Any]:
    async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            # Closed at once when the call ends early, so that its `finally` blocks do not wait for the collector.
            async with aclosing(inner(check(request), context)) as messages:  # type: ignore[type-var]
                async for message in messages:
                    yield message
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            await context.abort_with_status(to_status(to_lorry_error(error)))

    return handle


_WRAPPERS: Mapping[str, Callable[[Any, Callable[[Any], Any]], Callable[[Any, Any], Any]]] = {
    "unary_unary": _wrap_single,
    "stream_unary": _wrap_single,
    "unary_stream": _wrap_stream,
    "stream_stream": _wrap_stream,
}


def _clip(text: str, max_bytes: int) -> str:
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= max_bytes else raw[: max_bytes - 3].decode("utf-8", "ignore") + "..."
