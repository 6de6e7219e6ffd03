"""How many calls of a kind may be open at a time: one that lasts holds a thread, and must leave some for the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc

Handler = Any
"""grpc.RpcMethodHandler, which is generic for type checkers only."""


class OpenCalls(grpc.ServerInterceptor):
    """Refuses streaming calls beyond a limit for their method: `limits` by method, else `limit`. `refused` counts these."""

    def __init__(self, limits: Mapping[str, int], limit: int) -> None:
        self._limits, self._limit = limits, limit
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}
        self.refused = 0

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Handler | None], handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Find the handler of a call; that of one that streams is wrapped."""
        handler = continuation(handler_call_details)
        if handler is None or not handler.response_streaming or _holds_no_thread(handler):
            return handler
        method = handler_call_details.method
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._counted(method, handler.stream_stream), handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_stream_rpc_method_handler(
            self._counted(method, handler.unary_stream), handler.request_deserializer, handler.response_serializer
        )

    def _counted(self, method: str, behaviour: Any) -> Callable[[Any, grpc.ServicerContext], Iterator[Any]]:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            self._enter(method, context)
            try:
                yield from behaviour(request, context)
            finally:
                with self._lock:
                    self._open[method] -= 1

        return call

    def _enter(self, method: str, context: grpc.ServicerContext) -> None:
        limit = self._limits.get(method, self._limit)
        with self._lock:
            if self._open.get(method, 0) < limit:
                self._open[method] = self._open.get(method, 0) + 1
                return
            self.refused += 1
        context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"{limit} calls of {method} are open, which is as many as this engine takes: end one, or start another engine",
        )


def _holds_no_thread(handler: Handler) -> bool:
    """Whether it answers by a callback, as the Watch of grpc_health does."""
    return bool(getattr(handler.unary_stream, "experimental_non_blocking", False))
