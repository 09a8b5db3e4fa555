"""The engine: Dask hands out the orders, and what comes back is kept.

There is no queue, scheduler or protocol of our own here. For each kernel one task makes its source ready, and its
cells depend on that; a worker does as many of them at once as it has of the resource `compile`. Which worker does what
is Dask's business: it knows where a source lies and what it would take to have it elsewhere.

What is ours is what Dask cannot know: that a full disk is a reason to do without a worker, how often a cell was really
begun (a worker that dies takes others down with it that only waited there), and how long one may take.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from distributed import Client, Future, KilledWorker, get_worker

from builder.errors import ToolError
from builder.fleet.cell import Prepared, prepare, work
from builder.fleet.kernels import FleetKernel
from builder.fleet.orders import CellResult, Order
from builder.fleet.plan import Plan, cumulative_order, record
from builder.fleet.store import Store
from builder.fleet.workers import RESOURCE, Crew, local_workers

Told: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Is told what happens, as rows of a document: `event` says what it is (see `FleetRun`)."""

#: topic of the events by which workers say what they begin
TOPIC: Final = "bespoke-fleet"

#: seconds until what a worker says has left it: a cell may take the process down with it at once
ON_ITS_WAY: Final = 0.1

#: seconds to wait for a result that is there
PATIENCE: Final = 20.0

#: seconds without any worker after which it is said
DESERTED: Final = 30.0


@dataclass(frozen=True, slots=True)
class Doing:
    """What workers do: make a kernel ready, and do an order of it, compiling so many objects at once."""

    ready: Callable[[FleetKernel], Prepared] = prepare
    work: Callable[[Order, Prepared, int], CellResult] = work


AS_ALONE: Final = Doing()
"""What a single run does."""


def readied(kernel: FleetKernel, doing: Doing) -> Prepared:
    """Make a kernel ready, and say so: who waits for it needs it, we only its seconds."""
    worker = get_worker()
    worker.log_event(TOPIC, {"event": "preparing", "kernel": kernel.name, "worker": worker.address})
    prepared = doing.ready(kernel)
    worker.log_event(TOPIC, {"event": "kernel", "kernel": kernel.name, "seconds": round(prepared.seconds, 1)})
    return prepared


def begun(order: Order, prepared: Prepared, jobs: int, doing: Doing) -> CellResult:
    """What a worker does: it says that it begins, and does it."""
    worker = get_worker()
    worker.log_event(TOPIC, {"event": "begun", "key": order.key, "worker": worker.address})
    time.sleep(ON_ITS_WAY)
    return replace(doing.work(order, prepared, jobs), worker=f"{worker.name}")


def run_fleet(
    plan: Plan,
    store: Store,
    client: Client,
    how: Crew | None = None,
    told: Told = lambda row: None,
    doing: Doing = AS_ALONE,
) -> Generator[CellResult, None, None]:
    """Do what is to be done of a plan: each result as it comes, kept in the store; those that were there first.

    Ends early, after what can be had, with a ToolError where the scheduler is gone.
    """
    with store.held():
        store.remember(plan.fleet, plan.kernels)
        yield from FleetRun(plan, store, client, how or Crew(), told, doing).results()


class FleetRun:
    """A fleet while it runs.

    Its events are `preparing`, `kernel`, `begun`, `again`, `retired`, `waiting` and `cell`.
    """

    def __init__(self, plan: Plan, store: Store, client: Client, how: Crew, told: Told, doing: Doing) -> None:
        self._doing = doing
        self._plan, self._store, self._client, self._how, self._told = plan, store, client, how, told
        self._arrived: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._orders: dict[str, Order] = {}
        self._futures: dict[str, Future[Any]] = {}
        self._sources: dict[str, Future[Any]] = {}
        self._begun: dict[str, int] = {}
        self._submitted: dict[str, int] = {}
        #: by the key of a cell or the name of a kernel: the worker that is at it, and since when
        self._since: dict[str, tuple[str, float]] = {}
        self._preparing: dict[str, tuple[str, float]] = {}
        self._late: dict[str, str] = {}
        self._late_sources: Counter[str] = Counter()
        self._deserted = time.monotonic()
        self._of_kernel: dict[str, list[CellResult]] = {}
        self._renewed = 0
        self._seconds: list[float] = []
        self._done: list[CellResult] = []
        self._resources = self._offered()

    def results(self) -> Iterator[CellResult]:
        """Every result of the plan, and of the cumulative modules that follow from them."""
        for order in self._plan.orders:
            if (known := self._plan.known.get(order.key)) is not None:
                yield self._took(known)
        self._client.subscribe_topic(TOPIC, lambda event: self._arrived.put((event[1]["event"], event[1])))
        try:
            self._submit()
            yield from self._cumulative(self._plan.kernels)
            while self._futures:
                yield from self._next()
        finally:
            with contextlib.suppress(Exception):  # whatever has become of the scheduler
                # Not cancelled: what the scheduler says of that may come when another run wants the same.
                for future in (*self._futures.values(), *self._sources.values()):
                    future.release()
                self._client.unsubscribe_topic(TOPIC)
            record(self._done, self._seconds)

    def _offered(self) -> dict[str, float]:
        """What a cell has to ask for, so that no worker gets more of them than it can do at once."""
        workers = self._workers()
        offers = [worker.get("resources", {}).get(RESOURCE, 0) for worker in workers.values()]
        return {RESOURCE: 1.0} if any(offers) else {}

    def _workers(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        return found

    def _submit(self) -> None:
        """Everything that is to do: for each kernel its source, and the cells that wait for it."""
        by_kernel: dict[str, list[Order]] = {}
        for order in self._plan.to_do:
            by_kernel.setdefault(order.kernel.name, []).append(order)
        for number, kernel in enumerate(k for k in self._plan.kernels if k.name in by_kernel):
            self._source(kernel, -number)
            self._send(by_kernel[kernel.name], priority=-number)

    def _source(self, kernel: FleetKernel, priority: int = 0) -> Future[Any]:
        """The task that makes the kernel's source ready; there is one for each, and another where that was lost.

        It is done again with each worker that dies with what came of it, and so Dask may take it for what kills them.
        """
        if (known := self._sources.get(kernel.name)) is None or known.status in ("error", "cancelled", "lost"):
            self._renewed += known is not None
            name = f"source-{kernel.name}-{self._plan.orders[0].code}-{kernel.version}{kernel.sha256}-{self._renewed}"
            # Later kernels' sources go before earlier kernels' cells: what waits for them is most of the work.
            future = self._client.submit(
                readied,
                kernel,
                self._doing,
                key=name,
                pure=False,
                priority=1000 + priority,
                resources=self._resources,
            )
            self._sources[kernel.name] = future
        return self._sources[kernel.name]

    def _send(self, orders: Sequence[Order], *, priority: int = 0, without: str = "") -> None:
        """Give out orders that are for one kernel."""
        jobs = max(1, (os.cpu_count() or 1) // (self._how.workers or local_workers())) if not self._how.scheduler else 1
        keys = []
        for order in orders:
            self._orders[order.key] = order
            self._submitted[order.key] = self._submitted.get(order.key, 0) + 1
            keys.append(f"cell-{order.key}-{self._submitted[order.key]}")
        others = [address for address in self._workers() if address != without] if without else []
        futures = self._client.map(
            begun,
            [replace(order, kernel=replace(order.kernel, files=None)) for order in orders],
            key=keys,
            prepared=self._source(orders[0].kernel),
            jobs=jobs,
            doing=self._doing,
            priority=priority,
            resources=self._resources,
            workers=others or None,
            allow_other_workers=bool(others),  # where those are gone, too
            pure=False,
        )
        for order, future in zip(orders, futures, strict=True):
            self._futures[order.key] = future
            future.add_done_callback(lambda done, key=order.key: self._arrived.put(("cell", (key, done))))

    def _next(self) -> Iterator[CellResult]:
        """What has happened meanwhile."""
        yield from self._overdue()
        try:
            what, about = self._arrived.get(timeout=1.0)
        except queue.Empty:
            if self._client.status not in ("running", "connecting"):
                raise self._gone() from None
            self._look_for_workers()
            return
        if what in ("kernel", "preparing"):
            self._has_prepared(about)
        elif what == "begun":
            yield from self._is_begun(about)
        elif self._futures.get(about[0]) is about[1]:  # else it was sent once more meanwhile
            yield from self._has_come(*about)

    def _look_for_workers(self) -> None:
        """Say, once, that for some time there has been nobody to do the work."""
        now = time.monotonic()
        if self._workers():
            self._deserted = now
        elif 0 <= now - self._deserted > DESERTED:
            self._told({"event": "waiting", "why": "the scheduler has no worker"})
            self._deserted = float("inf")

    def _has_prepared(self, row: Mapping[str, Any]) -> None:
        """A worker makes a kernel's source ready, or has done so."""
        kernel = row["kernel"]
        if kernel not in self._sources:  # another client's, of the same scheduler
            return
        if row["event"] == "preparing":
            self._preparing[kernel] = row["worker"], time.monotonic()
        else:
            self._preparing.pop(kernel, None)
            self._seconds.append(row["seconds"])
        self._told(row)

    def _is_begun(self, row: Mapping[str, str]) -> Iterator[CellResult]:
        """A worker begins a cell; more often than it may, where those died that began it before."""
        key = row["key"]
        if key not in self._futures:  # another client's, or one that has ended meanwhile
            return
        self._begun[key] = self._begun.get(key, 0) + 1
        self._since[key] = row["worker"], time.monotonic()
        order = self._orders[key]
        self._told({"event": "begun", "fix": order.fix, "kernel": order.kernel.name, "worker": row["worker"]})
        if self._begun[key] > self._how.retries + 1:
            self._client.cancel([self._futures[key]])
            why = self._late.get(key, "the worker died each time that it was begun")
            yield from self._ended(self._trouble(key, why))

    def _has_come(self, key: str, future: Future[Any]) -> Iterator[CellResult]:
        worker, _ = self._since.pop(key, ("", 0.0))
        if future.status == "finished":
            try:
                result: CellResult = future.result(timeout=PATIENCE)
            except TimeoutError:  # its worker died with it, and it is done again
                future.add_done_callback(lambda done: self._arrived.put(("cell", (key, done))))
                return
            if result.row.final:
                yield from self._ended(result)
            else:
                self._spare(worker, result.detail)
                yield from self._again(result, without=worker)
        elif future.status == "error":
            error = future.exception()
            # It, or its source, was with each of them; that is no reason to suspect it (see `_is_begun`).
            died = isinstance(error, KilledWorker)
            why = "workers died that it was given to" if died else f"{type(error).__name__}: {error}"
            yield from self._again(self._trouble(key, why), without="")
        else:
            raise self._gone()

    def _trouble(self, key: str, detail: str) -> CellResult:
        order = self._orders[key]
        return CellResult(key, order.fix, order.kernel.name, "trouble", detail)

    def _again(self, result: CellResult, *, without: str) -> Iterator[CellResult]:
        """Try once more what failed for no reason of its own, as often as it may be; then that is its result."""
        tries = max(self._begun.get(result.key, 0), 1)
        # One that never began is no reason to give it up; but not for ever.
        if tries <= self._how.retries and self._submitted[result.key] <= 3 * (self._how.retries + 1):
            self._told({"event": "again", "fix": result.fix, "kernel": result.kernel, "why": result.detail})
            self._send([self._orders[result.key]], without=without)
        else:
            yield from self._ended(result)

    def _spare(self, worker: str, why: str) -> None:
        """Do without a worker that has no room or lacks a program, as long as there is another."""
        hopeless = os.strerror(28) in why or "apt-get install" in why
        if hopeless and worker in (workers := self._workers()) and len(workers) > 1:
            self._told({"event": "retired", "worker": worker, "why": why})
            self._client.retire_workers([worker], close_workers=True)

    def _overdue(self) -> Iterator[CellResult]:
        """End what takes longer than it may, and its worker with it: nothing else ends a thread."""
        for kernel, worker in self._late_of(self._preparing):
            self._late_sources[kernel] += 1
            self._restart(worker)
            if self._late_sources[kernel] > self._how.retries:
                yield from self._without(kernel)
        for key, worker in self._late_of(self._since):
            # Its worker may be ended before the scheduler forgets it, and another then begins it once more.
            self._late[key] = f"did not end within {self._how.timeout:.0f} s (on {worker})"
            result = self._trouble(key, self._late[key])
            if (future := self._futures.get(key)) is not None:
                self._client.cancel([future])
            # Before it is sent again: it could come to the worker that is about to end.
            self._restart(worker)
            if future is not None:
                yield from self._again(result, without="")

    def _late_of(self, since: dict[str, tuple[str, float]]) -> list[tuple[str, str]]:
        """What takes longer than it may, with the worker that is at it; taken out of what is looked at."""
        now = time.monotonic()
        late = [(what, worker) for what, (worker, begun) in since.items() if now - begun > self._how.timeout]
        for what, _ in late:
            del since[what]
        return late

    def _restart(self, worker: str) -> None:
        if worker in self._workers():
            self._client.restart_workers([worker], raise_for_error=False)

    def _without(self, kernel: str) -> Iterator[CellResult]:
        """Give up the cells of a kernel whose source cannot be had in time."""
        keys = [key for key in self._futures if self._orders[key].kernel.name == kernel]
        self._client.cancel([self._sources[kernel], *(self._futures[key] for key in keys)])
        for key in keys:
            why = f"the kernel's source was not ready within {self._how.timeout:.0f} s"
            yield from self._ended(self._trouble(key, why))

    def _ended(self, result: CellResult) -> Iterator[CellResult]:
        result = replace(result, tries=max(self._begun.get(result.key, 1), 1))
        self._futures.pop(result.key, None)
        yield self._took(self._store.put(result))
        yield from self._cumulative([self._orders[result.key].kernel])

    def _took(self, result: CellResult) -> CellResult:
        self._done.append(result)
        self._of_kernel.setdefault(result.kernel, []).append(result)
        self._told({"event": "cell", **result.as_json()})
        return result

    def _cumulative(self, kernels: Sequence[FleetKernel]) -> Iterator[CellResult]:
        """Once all fixes of a kernel are done: the module of those that it can have."""
        if not self._plan.fleet.demands.cumulative:
            return
        for kernel in kernels:
            results = self._of_kernel.get(kernel.name, [])
            if len(results) == len(self._plan.fleet.fixes):
                order = cumulative_order(self._plan, kernel, results)
                if order is not None and (known := self._store.get(order)) is not None:
                    yield self._took(known)
                elif order is not None:
                    self._send([order])

    def _gone(self) -> ToolError:
        missing = len(self._futures)
        return ToolError(f"the scheduler is gone, and {missing} cells are not done: --resume goes on with them")
