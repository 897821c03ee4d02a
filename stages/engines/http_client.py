"""One HTTP request to a server of the OpenAI protocol, tried again for as long as that may help."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from stages.config import ServerSettings
from stages.contracts.errors import StageError

T = TypeVar("T")
TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
WAIT_SECONDS = wait_random_exponential(multiplier=0.5, max=60)


class TransientError(Exception):
    """The server gave no answer, or none that can be read; `wait` is for how many seconds it asks."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


class RefusedError(Exception):
    """The server refuses this request; trying again would not help."""


class Client:
    """Requests to one server, within a running event loop, through a proxy that the environment names unless told
    otherwise. `retries` counts the tries beyond the first ones."""

    def __init__(self, url: str, settings: ServerSettings, through_proxy: bool = True) -> None:
        self.retries = 0
        self._key = os.environ.get(settings.key_variable, "")
        self._settings = settings
        limits = httpx.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            limits=limits,
            timeout=httpx.Timeout(settings.timeout_seconds, connect=30),
            trust_env=through_proxy,
        )

    async def __aenter__(self) -> "Client":
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._http.__aexit__(*error)

    async def ask(self, method: str, path: str, read: Callable[[Any], T], body: dict[str, Any] | None = None) -> T:
        """What `read` makes of the JSON of a successful response; where it cannot, the request is tried again. Raises
        RefusedError, or TransientError once all tries are used up, or StageError where the key is not accepted."""
        tries = AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(1 + self._settings.retries),
            wait=_wait,
            before_sleep=self._count,
            reraise=True,
        )
        return await tries(self._once, method, path, read, body)

    def _count(self, _: RetryCallState) -> None:
        self.retries += 1

    async def _once(self, method: str, path: str, read: Callable[[Any], T], body: dict[str, Any] | None) -> T:
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise TransientError(f"{type(error).__name__}: {error}") from error
        if response.status_code in (401, 403):
            raise StageError(
                f"{self._http.base_url}: HTTP status {response.status_code}: is the key in the environment variable "
                f"{self._settings.key_variable} (engine.server.key_variable) the right one?"
            )
        if response.status_code in TRANSIENT:
            raise TransientError(self._said(response), _seconds(response.headers.get("retry-after", "")))
        if not response.is_success:
            raise RefusedError(self._said(response))
        try:
            return read(response.json())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            said = self._without_key(response.text[:200])
            raise TransientError(f"not of the protocol ({type(error).__name__}): {said!r}") from error

    def _said(self, response: httpx.Response) -> str:
        return self._without_key(f"HTTP status {response.status_code}: {response.text[:500]}")

    def _without_key(self, text: str) -> str:
        """Some servers repeat the key that they were given."""
        return text.replace(self._key, "***") if self._key else text


def _wait(state: RetryCallState) -> float:
    """Seconds before the next try: what the server asks for, at least a random time that doubles with each try."""
    error = state.outcome.exception() if state.outcome else None
    return max(WAIT_SECONDS(state), error.wait if isinstance(error, TransientError) else 0.0)


def _seconds(retry_after: str) -> float:
    return min(float(retry_after), 300.0) if retry_after.isdigit() else 0.0
