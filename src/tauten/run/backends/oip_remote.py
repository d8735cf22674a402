"""Any server of the Open Inference Protocol v2 as a backend of tensor models: Triton, OpenVINO Model Server, KServe, us."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol
from urllib.parse import urlsplit

from tauten.clock import real
from tauten.errors import BackendError, MachineError, Overloaded, PlanError, TautenError
from tauten.run.backends import _arrays, _parts
from tauten.run.backends._parts import Part
from tauten.run.contracts import ModelSpec
from tauten.run.oip.rest_client import RestClient
from tauten.run.oip.traffic import Traffic
from tauten.run.oip.wire import plain
from tauten.run.remote.providers import Provider, find_provider
from tauten.run.signature import Signature
from tauten.run.usage.call import Call, Outcome, divided

TIMEOUT_MS: Final = (
    30_000  # as long as a remote language model may be silent; a tensor model is done long before
)


class _Client(Protocol):
    async def signature(self, model: str) -> Signature: ...

    async def infer(self, model: str, inputs: Mapping[str, Any], traffic: Traffic) -> dict[str, Any]: ...

    async def close(self) -> None: ...


class OipRemoteBackend:
    """Items are dicts of arrays without the batch axis; so are the results. Items of equal shapes travel as one call,
    calls of one batch at the same time.

    Each call is booked with its bytes and its time; of one that carried items of several requests each has its part.
    Budgets hold one call for each item before it is queued.

    Options: `provider` names a table of `providers.toml`, whose url is ``http://`` (raw tensors behind a JSON head)
    or ``grpc://``; `unbatched` sends the arrays as they are, an item a call; `timeout_ms` ends a call (30,000).
    """

    name: ClassVar[str] = "oip_remote"
    needs_files: ClassVar[bool] = False
    local: ClassVar[bool] = False
    option_keys: ClassVar[frozenset[str]] = frozenset({"provider", "unbatched", "timeout_ms"})

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._most = 0 if spec.options.get("unbatched", False) else _parts.ANY
        self._timeout_s = float(spec.options.get("timeout_ms", TIMEOUT_MS)) / 1e3
        self._runner: asyncio.Runner | None = None
        self._client: _Client | None = None
        self._provider: Provider | None = None
        self._model = ""
        self._signature = Signature((), ())
        self._working: asyncio.Task[Any] | None = None
        self._stopped = False
        self._calls: list[tuple[Call, ...]] = []  # of the present run, by its items

    def open(self) -> None:
        """Ask the server what the model takes; raises PlanError, or BackendError E460 where it does not answer."""
        if self._runner is not None:
            return
        self._check()
        self._provider = provider = find_provider(str(self.spec.options["provider"]))
        self._model = provider.model(self.spec.model)
        self._runner = asyncio.Runner()
        try:
            self._signature = self._runner.run(self._met(provider))
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        if not isinstance(self.spec.options.get("provider"), str):
            raise PlanError(
                f"oip_remote option provider = {self.spec.options.get('provider')!r}",
                help="name a table of providers.toml",
                code="E122",
            )
        if self.spec.precision or self.spec.threads or not self._timeout_s > 0:
            raise PlanError(
                "oip_remote cannot choose precision or threads, and timeout_ms is positive",
                help="leave them out",
                code="E122",
            )

    async def _met(self, provider: Provider) -> Signature:
        self._client = _client_of(provider)
        found: Signature = await self._within(self._client.signature(self._model))
        return found

    async def _within(self, work: Any) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await work
        except TimeoutError as error:
            raise BackendError(
                f"no provider answered: silent for {self._timeout_s * 1e3:.0f} ms",
                help="check that the server runs, or raise timeout_ms",
                code="E460",
            ) from error

    def signature(self) -> Signature:
        """The tensors that the model takes and gives, as its server says."""
        return self._signature

    def group(self, item: Any) -> Hashable:
        return _arrays.shapes(item)

    def weight(self, item: Any) -> float:
        return _arrays.elements(item)

    def begin(self) -> None:
        """What stopped an earlier run is over."""
        self._stopped = False

    def stop(self) -> None:
        """End the calls of the present run: their connections are closed."""
        self._stopped = True
        runner, working = self._runner, self._working
        if runner is not None and working is not None:
            runner.get_loop().call_soon_threadsafe(working.cancel)

    def run(self, items: Sequence[Any]) -> list[Any]:
        if self._runner is None or self._client is None:
            raise BackendError(
                "oip_remote: run() on a backend that is not open", help="call open() first", code="E406"
            )
        self._calls = [()] * len(items)
        parts = _arrays.stacked(items, most=self._most)
        return self._runner.run(self._all(parts, len(items)))

    @property
    def billed(self) -> tuple[str, str] | None:
        """Who would bill a call, and for which of their models; None of one that is not open."""
        return None if self._provider is None else (self._provider.name, self._model)

    def account(self) -> list[tuple[Call, ...]]:
        """What calls the last run made for each of its items."""
        calls, self._calls = self._calls, []
        return calls

    async def _all(self, parts: Sequence[Part], count: int) -> list[Any]:
        """Every part at the same time; answers (or errors) in the items' order."""
        self._working = asyncio.ensure_future(asyncio.gather(*map(self._found, parts)))
        if self._stopped:
            self._working.cancel()
        try:
            found = await self._working
        except asyncio.CancelledError:
            return [_left() for _ in range(count)]
        finally:
            self._working = None
        answers: list[Any] = [None] * count
        for part, results in zip(parts, found, strict=True):
            for index, result in zip(part.members, results, strict=True):
                answers[index] = result
        return answers

    async def _found(self, part: Part) -> list[Any]:
        """One part's answers; what its call fails with is each member's."""
        try:
            _parts.check_names(part.inputs, frozenset(each.name for each in self._signature.inputs))
            inputs = {name: plain(array) for name, array in part.inputs.items()}
            return part.split(await self._booked(part, inputs))
        except TautenError as error:
            return [error.with_traceback(None)] * len(part.members)

    async def _booked(self, part: Part, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs of one call, which is booked with its members however it ends."""
        client, provider = self._client, self._provider
        assert client is not None  # run() looked
        assert provider is not None
        traffic, started = Traffic(), real()
        outcome: Outcome = "cancelled"
        try:
            outputs: dict[str, Any] = await self._within(client.infer(self._model, inputs, traffic))
            outcome = "ok"
            return outputs
        except TautenError as error:
            outcome = "refused" if isinstance(error, Overloaded) else "failed"
            raise
        finally:
            call = traffic.call(provider, self._model, started, real(), outcome)
            for index, share in zip(part.members, divided(call, [1] * len(part.members)), strict=True):
                self._calls[index] += (share,)

    def properties(self) -> Mapping[str, str]:
        if self._runner is None or self._provider is None:
            return {"precision": "", "threads": "", "device": "closed"}
        return {
            "precision": "the server's",
            "threads": "none here",
            "device": f"remote: {self._provider.name}",
            "batch": _parts.batch_text(self._most, ()),
            "signature": self._signature.text(),
        }

    def close(self) -> None:
        client, self._client = self._client, None
        runner, self._runner = self._runner, None
        if runner is None:
            return
        try:
            if client is not None:
                runner.run(client.close())
        finally:
            runner.close()


def _client_of(provider: Provider) -> _Client:
    """By the address' scheme."""
    parts = urlsplit(provider.url)
    if parts.scheme in ("http", "https"):
        return RestClient(provider.url, provider.secret())
    try:
        from tauten.run.oip.grpc_client import GrpcClient
    except ImportError as error:
        raise MachineError(
            "grpcio is not installed",
            help="pip install 'tauten[serve]', or give an http address",
            code="E315",
        ) from error
    return GrpcClient(parts.netloc, provider.secret(), tls=parts.scheme == "grpcs")


def _left() -> BackendError:
    return BackendError("the run was stopped", help="nobody waited for it any more")
