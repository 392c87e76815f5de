"""Takes calls and steps to a server and awaits the answers. File work runs in a thread, so that the loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, closing
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from grpc import aio

from lorry_client import _channel, errors
from lorry_client._calls import inference
from lorry_client._login import Login
from lorry_client._steps import Call, Done, Download, Pause, Step, Steps, Upload, advance
from lorry_client.results import Chunk

if TYPE_CHECKING:
    from google.protobuf.message import Message

Result = TypeVar("Result")


class AwaitingDriver:
    """One channel, opened at the first call and used in that call's event loop only."""

    def __init__(
        self, server: str | None, credentials: grpc.ChannelCredentials | None, login: Login
    ) -> None:
        self.server = _channel.server_address(server)
        credentials = credentials or login.credentials()
        self._metadata = login.metadata(self.server, secure=credentials is not None)
        self._credentials = credentials

    @cached_property
    def _grpc(self) -> aio.Channel:
        options = _channel.CHANNEL_OPTIONS
        if self._credentials is None:
            return aio.insecure_channel(self.server, options)
        return aio.secure_channel(self.server, self._credentials, options)

    @cached_property
    def _stubs(self) -> _channel.Stubs:
        return _channel.Stubs.over(self._grpc)

    async def close(self) -> None:
        """Ends the channel; what is in flight is cancelled."""
        if "_grpc" in self.__dict__:
            await self._grpc.close()

    async def call(self, call: Call[Result], timeout: float | None = None) -> Result:
        """Asks once."""
        deadline = call.timeout if timeout is None else timeout
        try:
            answer = await call.method(self._stubs)(
                call.request, timeout=deadline, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise errors.from_rpc(error, self.server) from error
        return call.read(answer)

    async def chunks(
        self, call: Call[Chunk], timeout: float | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """A generation's chunks; closing them early cancels the request."""
        last = None
        async with aclosing(self._messages(call, timeout)) as messages:
            async for message in messages:
                last = call.read(message)
                yield last
        inference.completed(last)

    async def events(
        self, call: Call[Result], timeout: float | None = None
    ) -> AsyncGenerator[Result, None]:
        """A stream's answers, as they come; closing them early cancels the request."""
        async with aclosing(self._messages(call, timeout)) as messages:
            async for message in messages:
                yield call.read(message)

    async def run(self, steps: Steps[Result]) -> Result:
        """Takes every step in turn."""
        answer: object = None
        failure: Exception | None = None
        with closing(steps):
            while True:
                step: Step | Done[Result] = await _in_thread(advance, steps, answer, failure)
                if isinstance(step, Done):
                    return step.result
                answer, failure = None, None
                try:
                    answer = await self._take(step)
                except errors.LorryError as error:
                    failure = error

    async def _take(self, step: Step) -> object:
        match step:
            case Call():
                return await self.call(step)
            case Upload():
                try:
                    return await step.method(self._stubs)(
                        _pieces(step), timeout=step.timeout, metadata=self._metadata
                    )
                except grpc.RpcError as error:
                    if _broke_off(error):
                        raise errors.Unavailable(
                            f"{self.server} ended the write before its last piece was sent.",
                            reason="CONNECTION_LOST",
                        ) from error
                    raise errors.from_rpc(error, self.server) from error
            case Download():
                async with aclosing(self._messages(step, None)) as messages:
                    async for message in messages:
                        await _in_thread(step.take, message)
                return None
            case Pause():
                await asyncio.sleep(step.seconds)
                return None

    async def _messages(
        self, call: Call[Any] | Download, timeout: float | None
    ) -> AsyncGenerator[Any, None]:
        deadline = call.timeout if timeout is None else timeout
        answers = call.method(self._stubs)(call.request, timeout=deadline, metadata=self._metadata)
        try:
            async for message in answers:
                yield message
        except grpc.RpcError as error:
            raise errors.from_rpc(error, self.server) from error
        finally:
            answers.cancel()


async def _pieces(upload: Upload) -> AsyncGenerator[Message, None]:
    while (piece := await _in_thread(next, upload.pieces, None)) is not None:
        yield piece


def _broke_off(error: grpc.RpcError) -> bool:
    """Whether a piece met a stream that the server had just ended.

    grpc.aio then reports its own failed send, as INTERNAL, and drops the status that the server gave.
    """
    return (
        isinstance(error, aio.AioRpcError)
        and error.code() is grpc.StatusCode.INTERNAL
        and "SendMessageOperation" in (error.debug_error_string() or "")
    )


async def _in_thread(work: Callable[..., Result], *arguments: object) -> Result:
    """Runs work in a thread; when cancelled, it waits for the work's end first, so that nothing runs on unseen."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
