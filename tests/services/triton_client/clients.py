"""Triton's two clients, the one that blocks and the one of asyncio, behind one face: the checks are written once."""

import asyncio
import queue
from functools import partial

import tritonclient.grpc as blocking
import tritonclient.grpc.aio as asynchronous
from tritonclient.grpc import InferenceServerClientPlugin


class Authorization(InferenceServerClientPlugin):
    """Sends who calls with every call."""

    def __init__(self, authorization):
        self._headers = {"authorization": authorization} if authorization else {}

    def __call__(self, request):
        request.headers = {**request.headers, **self._headers}


class Blocking:
    """The client that blocks, with a stream that is given its requests at once."""

    def __init__(self, address, plugin):
        self._client = blocking.InferenceServerClient(address)
        self._client.register_plugin(plugin)

    def __getattr__(self, name):
        return getattr(self._client, name)

    def stream(self, requests, headers=None):
        """[(result, error)], until each request has one or the stream has ended with an error."""
        answers, told = queue.Queue(), []
        self._client.start_stream(lambda result, error: answers.put((result, error)), headers=headers)
        for request in requests:
            self._client.async_stream_infer(**request)
        while len(told) < len(requests) and not (headers and told and told[-1][1]):
            told.append(answers.get(timeout=20))
        self._client.stop_stream()
        return told

    def together(self, requests):
        """The results of requests that are sent before one is answered."""
        answers = queue.Queue()
        for request in requests:
            self._client.async_infer(callback=lambda result, error: answers.put((result, error)), **request)
        told = [answers.get(timeout=20) for _ in requests]
        assert not any(error for _, error in told)
        return [result for result, _ in told]


class Asynchronous:
    """The client of asyncio behind the same face."""

    def __init__(self, address, plugin):
        self._loop = asyncio.new_event_loop()
        self._client = self._run(self._open, address)
        self._client.register_plugin(plugin)

    def __getattr__(self, name):
        return partial(self._run, getattr(self._client, name))

    def stream(self, requests, headers=None):
        return self._run(self._streamed, requests, headers)

    def together(self, requests):
        return self._run(self._gathered, requests)

    def _run(self, function, *given, **more):
        return self._loop.run_until_complete(function(*given, **more))

    async def _open(self, address):
        return asynchronous.InferenceServerClient(address)

    async def _streamed(self, requests, headers):
        async def given():
            for request in requests:
                yield request

        return [answer async for answer in self._client.stream_infer(given(), headers=headers)]

    async def _gathered(self, requests):
        return await asyncio.gather(*[self._client.infer(**request) for request in requests])
