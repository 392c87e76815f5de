"""Takes calls and steps to a server and waits for the answers."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from typing import Any, TypeVar

import grpc

from lorry_client import _channel, errors
from lorry_client._calls import inference
from lorry_client._login import Login
from lorry_client._steps import Call, Done, Download, Pause, Step, Steps, Upload, advance
from lorry_client.results import Chunk

Result = TypeVar("Result")


class BlockingDriver:
    """One channel, used from any thread."""

    def __init__(
        self, server: str | None, credentials: grpc.ChannelCredentials | None, login: Login
    ) -> None:
        self.server = _channel.server_address(server)
        credentials = credentials or login.credentials()
        self._metadata = login.metadata(self.server, secure=credentials is not None)
        options = _channel.CHANNEL_OPTIONS
        if credentials is None:
            self._grpc = grpc.insecure_channel(self.server, options)
        else:
            self._grpc = grpc.secure_channel(self.server, credentials, options)
        self._stubs = _channel.Stubs.over(self._grpc)

    def close(self) -> None:
        """Ends the channel; what is in flight is cancelled."""
        self._grpc.close()

    def call(self, call: Call[Result], timeout: float | None = None) -> Result:
        """Asks once."""
        deadline = call.timeout if timeout is None else timeout
        try:
            answer = call.method(self._stubs)(
                call.request, timeout=deadline, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise errors.from_rpc(error, self.server) from error
        return call.read(answer)

    def chunks(
        self, call: Call[Chunk], timeout: float | None = None
    ) -> Generator[Chunk, None, None]:
        """A generation's chunks; closing them early cancels the request."""
        last = None
        with closing(self._messages(call, timeout)) as messages:
            for message in messages:
                last = call.read(message)
                yield last
        inference.completed(last)

    def events(
        self, call: Call[Result], timeout: float | None = None
    ) -> Generator[Result, None, None]:
        """A stream's answers, as they come; closing them early cancels the request."""
        with closing(self._messages(call, timeout)) as messages:
            for message in messages:
                yield call.read(message)

    def run(self, steps: Steps[Result]) -> Result:
        """Takes every step in turn."""
        answer: object = None
        failure: Exception | None = None
        with closing(steps):
            while True:
                step = advance(steps, answer, failure)
                if isinstance(step, Done):
                    return step.result
                answer, failure = None, None
                try:
                    answer = self._take(step)
                except errors.LorryError as error:
                    failure = error

    def _take(self, step: Step) -> object:
        match step:
            case Call():
                return self.call(step)
            case Upload():
                try:
                    return step.method(self._stubs)(
                        step.pieces, timeout=step.timeout, metadata=self._metadata
                    )
                except grpc.RpcError as error:
                    raise errors.from_rpc(error, self.server) from error
            case Download():
                with closing(self._messages(step, None)) as messages:
                    for message in messages:
                        step.take(message)
                return None
            case Pause():
                time.sleep(step.seconds)
                return None

    def _messages(
        self, call: Call[Any] | Download, timeout: float | None
    ) -> Generator[Any, None, None]:
        deadline = call.timeout if timeout is None else timeout
        answers = call.method(self._stubs)(call.request, timeout=deadline, metadata=self._metadata)
        try:
            yield from answers
        except grpc.RpcError as error:
            raise errors.from_rpc(error, self.server) from error
        finally:
            answers.cancel()
