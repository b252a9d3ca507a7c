"""
The one handler behind every route of every dialect.

For each request, in this order: the key is checked and the scope with it, the body is read, the
dialect decodes it, the services do the work, the dialect encodes what came of it. Whatever goes
wrong on the way becomes the dialect's own words for it, here and nowhere else.
"""

import asyncio
import functools
import re
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway import assets, jobs
from gateway.answers import failure_of, internal_error, job_headers, refusal, response
from gateway.auth import Door
from gateway.bodies import give_turn_back, read_body
from gateway.connections import hint_of
from gateway.dialect import (
    Answer,
    Call,
    CancelJob,
    Choose,
    Delivery,
    Describe,
    Dialect,
    Event,
    FinishJobs,
    Generate,
    ListJobs,
    ListModels,
    ListServing,
    Operation,
    Order,
    Preferences,
    Reply,
    Resize,
    RetryJob,
    ShowAsset,
    ShowJob,
    ShowModel,
    Shown,
    ShowResult,
)
from gateway.events import (
    HEARTBEAT,
    SILENT_HEARTBEAT,
    event_response,
    event_text,
    with_heartbeats,
)
from gateway.fields import check_names
from gateway.found import active_jobs, all_models, choose, look_up
from gateway.idempotency import ALONE, Once, as_accepted, key_of, once_of, require_ended
from gateway.prefer import EARLY_HINTS, HANDLING_STRICT, preferences_of
from gateway.pressure import Pressure
from gateway.receipts import Reading, noted
from gateway.suite import Suite
from pictor.catalog.v1 import catalog_service_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import inference_service_pb2, job_pb2
from services.rpc.crash import crash_point
from services.rpc.errors import (
    DeadlineExceeded,
    NotFound,
    SuiteError,
    from_status,
    invalid,
)
from services.rpc.principals import caller

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]

log = structlog.get_logger()

# Says in requests which id the job shall have, and in answers which one it has.
JOB_HEADER = "x-pictor-job"
_JOB_ID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
# Tasks that outlive their request; the loop itself keeps only weak references.
_background: set[asyncio.Task[None]] = set()


@dataclass
class Visit:
    """
    One request on its way through the facade.

    Attributes:
        job: The job it is about, as far as it is known; an error's answer tells of it.
        once: What makes it the same as an earlier request.
        admitted: Is called when it has made a job.
        applied: The caller's preferences that were followed.
    """

    dialect: Dialect
    operation: Operation
    request: Request
    preferences: Preferences
    call: Call
    job: job_pb2.Job | None = field(default=None)
    once: Once = ALONE
    admitted: Callable[[], None] = lambda: None
    applied: list[str] = field(default_factory=list)

    @property
    def suite(self) -> Suite:
        """The services."""
        return self.request.state.suite  # type: ignore[no-any-return]  # the lifespan put it there

    def prefers(self, preference: str) -> bool:
        """Say whether the caller prefers something, which is then to be followed."""
        asked = preference in preferences_of(self.request.headers.getlist("prefer"))
        if asked and preference not in self.applied:
            self.applied.append(preference)
        return asked

    def shown(self, order: Order | None = None, contents: Iterable[str] = ()) -> Shown:
        """Return the job as a dialect wants it."""
        return Shown(self.job or job_pb2.Job(), self.preferences, tuple(contents), order)


def forget_frames(error: BaseException) -> None:
    """
    Let go of what the functions held that an error came through, such as images of 25 MB.

    gRPC's calls keep their errors, and errors their frames, which hold the calls: a circle that
    the interpreter would only find much later.
    """
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


class Facade:
    """
    Makes endpoints out of operations.

    Args:
        door: Decides who comes in.
        preferences: What the operator has chosen.
    """

    def __init__(self, door: Door, preferences: Preferences) -> None:
        self._door = door
        self._preferences = preferences
        self._pressure = Pressure()

    def endpoint(self, dialect: Dialect, operation: Operation) -> Endpoint:
        """Return the endpoint of one operation."""

        async def answer(request: Request) -> Response:
            call = self._call(request)
            visit = Visit(dialect.on(operation), operation, request, self._preferences, call)
            answered = await self._answered(visit)
            if visit.applied:
                answered.headers["preference-applied"] = ", ".join(visit.applied)
            return answered

        return answer

    async def _answered(self, visit: Visit) -> Response:
        dialect, operation = visit.dialect, visit.operation
        try:
            return await self._answer(visit)
        except SuiteError as error:
            forget_frames(error)
            return refusal(dialect, error, operation=operation, job=visit.job)
        except Exception as error:
            log.exception("http.failed", dialect=dialect.name)
            forget_frames(error)
            return refusal(dialect, internal_error(), operation=operation, job=visit.job)

    async def _answer(self, visit: Visit) -> Response:
        operation, request = visit.operation, visit.request
        if not operation.public:
            await self._door.admit(request, visit.dialect.credential, operation.scope)
        check_names(request.path_params.values())
        key = key_of(request)
        # What was answered before is answered again, however full the queue is.
        if operation.makes_jobs and not key:
            self._pressure.require_room(caller().account)
        body = await read_body(request, operation.body)
        if key:
            visit.once = await asyncio.to_thread(once_of, key, request, body)
        body = Reading(body) if isinstance(body, dict) else body
        found = await look_up(visit.suite, visit.dialect, frozenset(operation.needs))
        visit.call = replace(visit.call, body=body, route=operation.path, found=found)
        visit.admitted = functools.partial(self._pressure.admitted, caller().account)
        with self._pressure.noted(caller().account):
            return await _HANDLERS[type(operation)](visit, operation)

    def _call(self, request: Request) -> Call:
        query: dict[str, list[str]] = {}
        for name, value in request.query_params.multi_items():
            query.setdefault(name, []).append(value)
        # A key is the door's business; it must not get into a receipt.
        query.pop("key", None)
        return Call(request.path_params, Reading(query), request.headers, None, self._preferences)


async def _generate(visit: Visit, operation: Generate) -> Response:
    job_id = visit.request.headers.get(JOB_HEADER, "")
    _check_id(job_id)
    order = operation.decode(visit.call)
    if operation.fit:
        model = await visit.suite.catalog.GetModel(
            catalog_service_pb2.GetModelRequest(name=order.generation.model)
        )
        order = operation.fit(order, model)
    read = visit.call.query if visit.call.body is None else visit.call.body
    order = replace(order, notes=noted(read, order.notes, visit.dialect.fields))
    label = f"{visit.dialect.name}/{operation.label}".rstrip("/")
    strict = visit.prefers(HANDLING_STRICT)
    crash_point("gateway.before_submit")
    visit.job = await jobs.submit(
        visit.suite,
        order,
        label,
        job_id=job_id,
        strict=strict,
        once=visit.once,
        result_seconds=_result_seconds(visit, operation, label),
    )
    crash_point("gateway.after_submit")
    order = _let_go(visit, order)
    visit.admitted()
    structlog.contextvars.bind_contextvars(job=visit.job.name)
    if visit.job.replayed:
        _replay(visit, order)
    return await _DELIVERIES[order.delivery](visit, operation, order)


def _let_go(visit: Visit, order: Order) -> Order:
    """Free the memory of a large body: its images are stored, and the answer may take minutes."""
    if give_turn_back(visit.request.scope) and isinstance(visit.call.body, dict):
        visit.call.body.clear()
    return replace(order, input_images=(), mask=None)


def _result_seconds(visit: Visit, operation: Generate, label: str) -> float | None:
    """Return how long results are kept: as the operator says, else as the API does."""
    chosen = visit.preferences.result_seconds
    for name in (label, visit.dialect.name):
        if name in chosen:
            return chosen[name] or None
    return operation.result_seconds


def _replay(visit: Visit, order: Order) -> None:
    """Answer as the first request with the same key was answered, if it was."""
    job = _job(visit)
    if order.delivery is Delivery.ACCEPT:
        visit.job = as_accepted(job)
    else:
        require_ended(job)


def _check_id(job_id: str) -> None:
    """Insist that an id that a caller chooses for its job cannot be guessed by others."""
    if job_id and not _JOB_ID.fullmatch(job_id):
        raise invalid(
            JOB_HEADER,
            f"{JOB_HEADER} {job_id[:60]!r} is not a UUID of version 4 in lower case,"
            " such as c3b1e0e7-2f7c-4c66-bd13-97b6c2b87f1d",
        )


async def _wait(visit: Visit, operation: Generate, order: Order) -> Response:
    job = _job(visit)
    _hint(visit)
    waited = await _unless_gone(
        visit.request, jobs.finished(visit.suite, job.name, visit.dialect.wait_seconds)
    )
    if isinstance(waited, _Gone):
        # Who has named the request may ask again for its answer.
        if not visit.once.key:
            await jobs.cancel(visit.suite, job.name)
        return Response(status_code=499)
    if waited is None:
        raise DeadlineExceeded(
            f"job {visit.shown().job_id} is not finished after {visit.dialect.wait_seconds:g} s;"
            " it goes on, and can be asked for by its id"
        )
    crash_point("gateway.before_answer")
    waited.replayed = job.replayed
    visit.job = _succeeded(visit, waited)
    contents = await _contents(visit, wanted=order.contents)
    shown = visit.shown(order, contents)
    if order.descriptions:
        told = [await assets.said(visit.suite.storage, content) for content in contents]
        shown = replace(shown, descriptions=told)
    return _job_response(visit, operation.encode(shown))


def _hint(visit: Visit) -> None:
    """Tell a caller that waits for its picture the job's id, if it asks for that."""
    hint = hint_of(visit.request.scope)
    if hint and visit.prefers(EARLY_HINTS):
        hint(job_headers(visit.dialect, visit.job))


async def _accept(visit: Visit, operation: Generate, order: Order) -> Response:
    encode = operation.accept or operation.encode
    return _job_response(visit, encode(visit.shown(order)))


async def _stream(visit: Visit, operation: Generate, order: Order) -> Response:
    headers = job_headers(visit.dialect, _job(visit))
    return event_response(_event_texts(visit, operation, order), headers)


async def _event_texts(visit: Visit, operation: Generate, order: Order) -> AsyncIterator[str]:
    name = _job(visit).name
    ended = False
    try:
        watched = jobs.watch(visit.suite, name, previews=True)
        async for message in with_heartbeats(watched):
            if message is None:
                yield SILENT_HEARTBEAT if operation.silent else HEARTBEAT
                continue
            contents: list[str] = []
            if message.state in jobs.TERMINAL:
                ended = True
                visit.job = _succeeded(visit, message.job)
                contents = await _contents(visit, wanted=True)
            for event in _streamed(operation, visit.shown(order, contents), message):
                yield event_text(event.body, name=event.name)
                crash_point("gateway.mid_stream")
    except SuiteError as error:
        event = _failed(visit, operation, error)
        yield event_text(event.body, name=event.name)
    finally:
        if not (ended or visit.once.key):
            # The caller left: this task is being ended too, so another one must do it.
            task = asyncio.ensure_future(jobs.cancel(visit.suite, name))
            _background.add(task)
            task.add_done_callback(_background.discard)


def _failed(visit: Visit, operation: Generate, error: SuiteError) -> Event:
    failure = failure_of(visit.dialect, error, operation, visit.job)
    if operation.fail:
        return operation.fail(failure)
    return Event(visit.dialect.encode_error(failure).body, "error")


def _streamed(
    operation: Generate, shown: Shown, message: inference_service_pb2.WatchJobResponse
) -> Iterable[Any]:
    return operation.stream(shown, message) if operation.stream else ()


async def _show_job(visit: Visit, operation: ShowJob) -> Response:
    visit.job = await _get_job(visit, operation.decode(visit.call))
    wanted = operation.contents(visit.job) if callable(operation.contents) else operation.contents
    try:
        contents = await _contents(visit, wanted=wanted)
    except NotFound:
        # Where a job stands is known for longer than its pictures are kept.
        contents = []
    return _job_response(visit, operation.encode(visit.shown(contents=contents)))


async def _list_jobs(visit: Visit, operation: ListJobs) -> Response:
    listed = await visit.suite.inference.ListJobs(operation.decode(visit.call))
    return response(operation.encode([Shown(job, visit.preferences) for job in listed.jobs]))


async def _cancel_job(visit: Visit, operation: CancelJob) -> Response:
    name = f"jobs/{operation.decode(visit.call)}"
    visit.job = await visit.suite.inference.CancelJob(
        inference_service_pb2.CancelJobRequest(name=name)
    )
    return _job_response(visit, operation.encode(visit.shown()))


async def _retry_job(visit: Visit, operation: RetryJob) -> Response:
    name = f"jobs/{operation.decode(visit.call)}"
    visit.job = await visit.suite.inference.RetryJob(
        inference_service_pb2.RetryJobRequest(name=name, idempotency_key=visit.once.key)
    )
    visit.admitted()
    return _job_response(visit, operation.encode(visit.shown()))


async def _show_result(visit: Visit, operation: ShowResult) -> Response:
    job = await _get_job(visit, operation.decode(visit.call))
    if job.dialect != visit.dialect.name:
        raise NotFound(
            f"no result of a job {operation.decode(visit.call)[:100]!r}",
            reason=reasons.ERROR_REASON_JOB_NOT_FOUND,
        )
    if job.state not in jobs.TERMINAL:
        waited = await _unless_gone(
            visit.request, jobs.finished(visit.suite, job.name, operation.wait_seconds)
        )
        job = waited if isinstance(waited, job_pb2.Job) else job
    visit.job = job
    if job.result.images:
        asset_id = job.result.images[0].asset.removeprefix("assets/")
        return await assets.public_response(visit.request, asset_id)
    return _job_response(visit, operation.encode(visit.shown()))


async def _show_asset(visit: Visit, operation: ShowAsset) -> Response:
    return await assets.public_response(visit.request, operation.decode(visit.call))


async def _list_models(visit: Visit, operation: ListModels) -> Response:
    return response(operation.encode(await all_models(visit.suite)))


async def _show_model(visit: Visit, operation: ShowModel) -> Response:
    name = f"models/{operation.decode(visit.call)}"
    model = await visit.suite.catalog.GetModel(catalog_service_pb2.GetModelRequest(name=name))
    return response(operation.encode(model))


async def _list_serving(visit: Visit, operation: ListServing) -> Response:
    listed = await visit.suite.catalog.ListServingStatuses(
        catalog_service_pb2.ListServingStatusesRequest()
    )
    return response(operation.encode(listed.serving_statuses))


async def _reply(visit: Visit, operation: Reply) -> Response:
    return response(operation.encode(visit.call))


async def _choose(visit: Visit, operation: Choose) -> Response:
    changes = operation.decode(visit.call)
    return response(operation.encode(await choose(visit.suite, visit.dialect, changes)))


async def _finish_jobs(visit: Visit, operation: FinishJobs) -> Response:
    for job in await active_jobs(visit.suite, visit.dialect):
        if job.state in operation.states:
            request = inference_service_pb2.FinishJobRequest(name=job.name)
            await visit.suite.inference.FinishJob(request)
    return response(operation.encode(visit.call))


async def _resize(visit: Visit, operation: Resize) -> Response:
    pictures = [
        await assets.resized(visit.suite.storage, one)
        for one in await asyncio.to_thread(operation.decode, visit.call)
    ]
    return response(operation.encode(visit.call, pictures))


async def _describe(visit: Visit, operation: Describe) -> Response:
    file = operation.decode(visit.call)
    description = await assets.described(visit.suite.storage, file)
    # The texts are the caller's, and taking long ones apart takes its time.
    return response(await asyncio.to_thread(operation.encode, visit.call, description))


async def _get_job(visit: Visit, job_id: str) -> job_pb2.Job:
    request = inference_service_pb2.GetJobRequest(name=f"jobs/{job_id}")
    return await visit.suite.inference.GetJob(request)


def _job(visit: Visit) -> job_pb2.Job:
    if visit.job is None:
        raise RuntimeError("the visit has no job yet")
    return visit.job


def _succeeded(visit: Visit, job: job_pb2.Job) -> job_pb2.Job:
    """Return a job that has a result; raise the error of one that has none."""
    visit.job = job
    if job.HasField("error"):
        raise from_status(job.error)
    return job


async def _contents(visit: Visit, *, wanted: bool) -> list[str]:
    if not wanted:
        return []
    images = _job(visit).result.images
    return [await assets.read_base64(visit.suite.storage, image.asset) for image in images]


class _Gone:
    pass


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | _Gone:
    """Do the work, unless the caller leaves before it is done."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else _Gone()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _job_response(visit: Visit, answer: Answer) -> Response:
    return response(answer, job_headers(visit.dialect, visit.job))


_DELIVERIES = {Delivery.WAIT: _wait, Delivery.ACCEPT: _accept, Delivery.STREAM: _stream}
_HANDLERS: dict[type[Operation], Callable[[Visit, Any], Awaitable[Response]]] = {
    Generate: _generate,
    ShowJob: _show_job,
    ListJobs: _list_jobs,
    CancelJob: _cancel_job,
    RetryJob: _retry_job,
    ShowResult: _show_result,
    ShowAsset: _show_asset,
    ListModels: _list_models,
    ShowModel: _show_model,
    ListServing: _list_serving,
    Reply: _reply,
    Choose: _choose,
    FinishJobs: _finish_jobs,
    Resize: _resize,
    Describe: _describe,
}
