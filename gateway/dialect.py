"""
The contract between the gateway and a public image API.

A dialect is one file in ``gateway/dialects`` with one record, ``DIALECT``. It lists operations:
each is a method, a path, and two pure functions, ``decode`` that reads a Call and ``encode`` that
writes an Answer. What lies between is the facade's; the operation's class says what that is:

    Operation
      Generate      decode -> Order       draw; wait, answer at once, or stream, as the order says
      ShowJob       decode -> job id      one of the account's jobs
      ListJobs      decode -> request     the account's jobs
      CancelJob     decode -> job id      end one of the account's jobs
      RetryJob      decode -> job id      draw once more what failed or was canceled
      ShowResult    decode -> job id      the bytes of a job's first image, once there are some
      ShowAsset     decode -> asset id    the bytes of a public asset
      ListModels                          what there is
      ShowModel     decode -> model id    one of them
      ListServing                         what is being served
      Reply                               an answer that depends on nothing but the call
      Choose        decode -> choices       what the caller prefers from now on
      FinishJobs    decode -> states        end the caller's own jobs with what they have
      Resize        decode -> pictures      pictures in another size, and no job
      Describe      decode -> picture       what a picture says of itself, and no job

What an operation needs to know besides the call, it lists in ``needs``; the Call then holds it.

Each operation also says in JSON Schema what it reads and writes; ``/openapi.json`` is made of that,
and the tests hold replies against it. The statuses of errors follow from the operation's class.

A dialect imports neither the web framework nor gRPC; a test holds that.
"""

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from gateway.causes import (
    AGAIN,
    ASSET,
    DRAWING,
    ENDED,
    IMAGES,
    JOB,
    MODEL,
    VALUES,
    WAITING,
    Causes,
)
from gateway.images import InputFile
from gateway.schemas import Schema
from pictor.catalog.v1 import model_pb2, serving_pb2
from pictor.errors.v1.error_reason_pb2 import ErrorReason
from pictor.inference.v1 import generation_pb2, inference_service_pb2, job_pb2, sampler_pb2
from pictor.storage.v1 import image_description_pb2, storage_service_pb2
from services.rpc.errors import SuiteError


class Credential(enum.Enum):
    """A way in which an API key travels. All are accepted everywhere; a dialect names its own."""

    BEARER = "authorization: Bearer KEY"
    BASIC = "authorization: Basic base64(USER:KEY)"
    X_API_KEY = "x-api-key: KEY"
    X_KEY = "x-key: KEY"
    X_GOOG_API_KEY = "x-goog-api-key: KEY"
    QUERY = "?key=KEY"


class Body(enum.Enum):
    """What an operation reads before it decodes."""

    NONE = enum.auto()
    JSON = enum.auto()
    # Nebula Block documents GET with a body, and proxies drop it: the query then stands in.
    OPTIONAL_JSON = enum.auto()
    FORM = enum.auto()
    # By the content type: a form if it says so, else JSON.
    JSON_OR_FORM = enum.auto()


class Delivery(enum.Enum):
    """How the caller wants to hear of a job."""

    WAIT = enum.auto()
    ACCEPT = enum.auto()
    STREAM = enum.auto()


class Need(enum.Enum):
    """What an operation wants to know of the suite before it decodes: a field of Found."""

    MODELS = enum.auto()
    SERVING = enum.auto()
    SAMPLERS = enum.auto()
    ADAPTERS = enum.auto()
    CHOICES = enum.auto()
    JOBS = enum.auto()


@dataclass(frozen=True)
class Found:
    """
    What an operation wanted to know.

    Attributes:
        models: All models.
        serving: What is being served.
        samplers: What a Generation may name as its sampler.
        schedules: What a Generation may name as its schedule.
        choices: What the caller has chosen in this dialect, by name.
        jobs: The account's jobs of this dialect that have not ended, newest first. The oldest that
            runs carries its newest preview.
        adapters: What a Generation may name in its loras.
        embeddings: Words that a prompt may use.
    """

    models: Sequence[model_pb2.Model] = ()
    serving: Sequence[serving_pb2.ServingStatus] = ()
    samplers: Sequence[sampler_pb2.Sampler] = ()
    schedules: Sequence[sampler_pb2.Schedule] = ()
    choices: Mapping[str, Any] = field(default_factory=dict)
    jobs: Sequence[job_pb2.Job] = ()
    adapters: Sequence[str] = ()
    embeddings: Sequence[str] = ()


@dataclass(frozen=True)
class Preferences:
    """
    What the operator has chosen about dialects.

    Attributes:
        base_url: Under which clients reach the gateway, without a slash at its end.
        default_model: The model of requests that name none, where the API permits that; or empty.
        base64_only: Leave ``url`` out of OpenAI answers that carry base64.
        result_seconds: How long results are kept, by dialect (``openai``) or by dialect and label
            (``relay/qwen``); for others the dialects' own words count.
    """

    base_url: str
    default_model: str = ""
    base64_only: bool = False
    result_seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """
    A request as a dialect sees it.

    Attributes:
        path: The parameters of the path, decoded.
        query: The query's values by name, in order.
        headers: By lower-case name.
        body: The JSON value, or the form: each name with its texts and Uploads; else None.
        preferences: What the operator has chosen.
        route: The path of the operation, as its record has it.
        found: What the operation's ``needs`` ask for.
    """

    path: Mapping[str, str]
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]
    body: Any
    preferences: Preferences
    route: str = ""
    found: Found = field(default_factory=Found)


@dataclass(frozen=True)
class Order:
    """
    What a request asks to be drawn.

    Attributes:
        generation: What to draw, without input images and mask; what the request omits is omitted.
        delivery: How the caller wants to hear of it.
        input_images: The input images, in the order in which the model is to see them.
        mask: The mask, whose rule says how it is meant.
        contents: The answer wants the images' bytes, not only their URLs.
        descriptions: With the contents, the answer wants what the images say of themselves.
        notes: What was translated, clamped or ignored while decoding.
        echo: What ``encode`` needs of the request and the job does not hold.
    """

    generation: generation_pb2.Generation
    delivery: Delivery = Delivery.WAIT
    input_images: Sequence[InputFile] = ()
    mask: InputFile | None = None
    contents: bool = False
    descriptions: bool = False
    notes: Sequence[job_pb2.ParameterNote] = ()
    echo: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """
    A job to be written in a dialect's words.

    Attributes:
        job: The job.
        preferences: What the operator has chosen.
        contents: The images in base64, where the operation or the order wants them; else empty.
        order: What was asked, where the same request asked for it; None on later visits.
        descriptions: What each of the images says of itself, where the order wants that.
    """

    job: job_pb2.Job
    preferences: Preferences
    contents: Sequence[str] = ()
    order: Order | None = None
    descriptions: Sequence[image_description_pb2.DescribeImageResponse] = ()

    @property
    def job_id(self) -> str:
        """The job's id as the public APIs know it."""
        return self.job.name.removeprefix("jobs/")


@dataclass(frozen=True)
class Answer:
    """What goes back: a JSON value, a status and headers."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """One server-sent event; without a name, clients see it as ``message``."""

    body: Any
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """
    One route of a dialect.

    Attributes:
        method: GET, POST, PUT or DELETE. HEAD comes with GET.
        path: From the root; ``{name}`` is one segment, ``{name:path}`` takes slashes too.
        public: Needs no key; one that is sent is ignored.
        scope: What the key must permit.
        body: What is read before ``decode``.
        needs: What is looked up before ``decode``.
        summary: What it does, for people, in one line.
        query: The parameters of the query by name; all of them may be left out.
        request: The body. Of an operation that takes a form too, what both have in common.
        form: The form, where it is not what ``request`` says.
        reply: The body of the answer with status 200.
        replies: The bodies of answers with another status that is no error, such as 202.
        refusals: Statuses of errors beyond those of the operation's class, and what each means.
        events: The bodies of server-sent events by name, for operations that stream.
        sends_images: The answer is an image's bytes, or a part of them.
        makes_jobs: Something is drawn for it.
        causes: What may go wrong, beyond what may go wrong with every request.
        fields: This route's own names for fields of Generation, laid over the dialect's.
    """

    sends_images: ClassVar[bool] = False
    makes_jobs: ClassVar[bool] = False
    causes: ClassVar[Causes] = VALUES
    method: str
    path: str
    public: bool = False
    scope: str = "inference"
    body: Body = Body.NONE
    needs: Sequence[Need] = ()
    summary: str = ""
    query: Mapping[str, Schema] = field(default_factory=dict)
    request: Schema = field(default_factory=dict)
    form: Schema = field(default_factory=dict)
    reply: Schema = field(default_factory=dict)
    replies: Mapping[int, Schema] = field(default_factory=dict)
    refusals: Mapping[int, str] = field(default_factory=dict)
    events: Mapping[str, Schema] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Generate(Operation):
    """
    Draw.

    Attributes:
        decode: Reads the order.
        encode: Writes the finished job.
        accept: Writes the job that has only been queued, for orders with Delivery.ACCEPT.
        stream: Writes what one message of the watch means for the caller, for Delivery.STREAM. The
            last message holds a terminal job, whose Shown carries the contents.
        fail: Writes an error that ends a stream; None for ``encode_error``'s body as ``error``.
        fit: Adapts the order to the catalog's entry of its model, where the API's rules need it.
        label: Added to the dialect's name in the job, for dialects whose routes answer differently.
        result_seconds: How long the API keeps results; None where it says nothing: until they are
            deleted, or as long as the operator retains them.
        silent: Keep a stream open without comments, for clients that read every line as JSON.
    """

    makes_jobs: ClassVar[bool] = True
    causes: ClassVar[Causes] = (*DRAWING, *WAITING)

    decode: Callable[[Call], Order]
    encode: Callable[[Shown], Answer]
    accept: Callable[[Shown], Answer] | None = None
    stream: Callable[[Shown, inference_service_pb2.WatchJobResponse], Iterable[Event]] | None = None
    fail: Callable[["Failure"], Event] | None = None
    fit: Callable[[Order, model_pb2.Model], Order] | None = None
    label: str = ""
    result_seconds: float | None = None
    silent: bool = False
    body: Body = Body.JSON


@dataclass(frozen=True, kw_only=True)
class ShowJob(Operation):
    """
    Show one of the account's jobs.

    Attributes:
        decode: Reads which.
        encode: Writes it.
        contents: Whether the images are wanted in base64 too; a function, where the job decides.
    """

    causes: ClassVar[Causes] = (*JOB, *ASSET)

    decode: Callable[[Call], str]
    encode: Callable[[Shown], Answer]
    contents: bool | Callable[[job_pb2.Job], bool] = False


@dataclass(frozen=True, kw_only=True)
class ListJobs(Operation):
    """Show the account's jobs."""

    decode: Callable[[Call], inference_service_pb2.ListJobsRequest]
    encode: Callable[[Sequence[Shown]], Answer]


@dataclass(frozen=True, kw_only=True)
class CancelJob(Operation):
    """End one of the account's jobs."""

    causes: ClassVar[Causes] = (*JOB, *ENDED)

    decode: Callable[[Call], str]
    encode: Callable[[Shown], Answer]


@dataclass(frozen=True, kw_only=True)
class RetryJob(Operation):
    """Draw once more what one of the account's jobs was to draw; ``encode`` writes the new job."""

    makes_jobs: ClassVar[bool] = True
    causes: ClassVar[Causes] = (*JOB, *AGAIN)

    decode: Callable[[Call], str]
    encode: Callable[[Shown], Answer]


@dataclass(frozen=True, kw_only=True)
class ShowResult(Operation):
    """
    Send the bytes of a job's first image, waiting for them for ``wait_seconds``.

    ``encode`` writes the answer where there are none. Only jobs that came through the same dialect
    are shown: no other dialect says that knowing a job's id opens its picture.
    """

    sends_images: ClassVar[bool] = True
    causes: ClassVar[Causes] = (*JOB, *ASSET)

    decode: Callable[[Call], str]
    encode: Callable[[Shown], Answer]
    wait_seconds: float = 30.0
    public: bool = True


@dataclass(frozen=True, kw_only=True)
class ShowAsset(Operation):
    """Send the bytes of a public asset: whole, or a range. An asset's id cannot be guessed."""

    sends_images: ClassVar[bool] = True
    causes: ClassVar[Causes] = ASSET

    decode: Callable[[Call], str]
    public: bool = True


@dataclass(frozen=True, kw_only=True)
class ListModels(Operation):
    """List the models, those that nothing serves included."""

    causes: ClassVar[Causes] = ()

    encode: Callable[[Sequence[model_pb2.Model]], Answer]


@dataclass(frozen=True, kw_only=True)
class ShowModel(Operation):
    """Show one model."""

    causes: ClassVar[Causes] = MODEL

    decode: Callable[[Call], str]
    encode: Callable[[model_pb2.Model], Answer]


@dataclass(frozen=True, kw_only=True)
class ListServing(Operation):
    """List what is being served."""

    causes: ClassVar[Causes] = ()

    encode: Callable[[Sequence[serving_pb2.ServingStatus]], Answer]


@dataclass(frozen=True, kw_only=True)
class Reply(Operation):
    """Answer from the call alone."""

    encode: Callable[[Call], Answer]


@dataclass(frozen=True, kw_only=True)
class Choose(Operation):
    """Keep what the caller prefers in this dialect; None forgets a choice."""

    causes: ClassVar[Causes] = (*VALUES, *MODEL)

    decode: Callable[[Call], Mapping[str, Any]]
    encode: Callable[[Mapping[str, Any]], Answer]
    body: Body = Body.JSON


@dataclass(frozen=True, kw_only=True)
class FinishJobs(Operation):
    """End those of the account's jobs of this dialect that are in one of *states*, early."""

    causes: ClassVar[Causes] = ()

    encode: Callable[[Call], Answer]
    states: Sequence[job_pb2.Job.State.ValueType] = (
        job_pb2.Job.STATE_RUNNING,
        job_pb2.Job.STATE_QUEUED,
    )


@dataclass(frozen=True, kw_only=True)
class Resize(Operation):
    """Send pictures back in other sizes: PNG files in base64, in the order in which they came."""

    causes: ClassVar[Causes] = (*VALUES, *IMAGES)

    decode: Callable[[Call], Sequence["Resizing"]]
    encode: Callable[[Call, Sequence[str]], Answer]
    body: Body = Body.JSON


@dataclass(frozen=True)
class Resizing:
    """
    A picture that is to have another size.

    Attributes:
        file: The picture.
        steps: What becomes of it, one after the other. None: it is only written as PNG.
    """

    file: InputFile
    steps: Sequence[storage_service_pb2.Resize]


@dataclass(frozen=True, kw_only=True)
class Describe(Operation):
    """Say what a picture is and what its file says."""

    causes: ClassVar[Causes] = (*VALUES, *IMAGES)

    decode: Callable[[Call], InputFile]
    encode: Callable[[Call, image_description_pb2.DescribeImageResponse], Answer]
    body: Body = Body.JSON


@dataclass(frozen=True)
class Failure:
    """
    An error to be written in a dialect's words.

    Attributes:
        error: What went wrong; fields carry the dialect's names.
        status: The HTTP status, departures applied.
        operation: What was asked for; None where no route matched.
        job: The job that failed, or that goes on without its caller; None before there is one.
            Trying again would draw a second time.
    """

    error: SuiteError
    status: int
    operation: Operation | None = None
    job: job_pb2.Job | None = None

    @property
    def field(self) -> str:
        """The field that is to blame, or nothing."""
        if self.error.violations:
            return self.error.violations[0].field
        return self.error.metadata.get("field", "")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """
    One public image API.

    Attributes:
        name: Stands in jobs and logs; 1 to 40 characters.
        title: For people.
        prefixes: Paths below which unknown routes are this dialect's; the longest one wins.
        credential: The way in which this API sends keys. It wins over the others.
        operations: The routes.
        statuses: Where the API documents another status than gateway/status.py has.
        encode_error: Writes an error. Pure.
        fields: The API's names for fields of Generation, e.g. ``{"step_count": "steps"}``.
        wait_seconds: How long a caller is kept waiting for a job before it is told to come back.
        error: The body of every error.
    """

    name: str
    title: str
    prefixes: Sequence[str]
    operations: Sequence[Operation]
    encode_error: Callable[[Failure], Answer]
    credential: Credential = Credential.BEARER
    statuses: Mapping[ErrorReason.ValueType, int] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    wait_seconds: float = 600.0
    error: Schema = field(default_factory=dict)

    def on(self, operation: Operation) -> "Dialect":
        """Return the dialect with the names for fields that one of its routes has."""
        if not operation.fields:
            return self
        return replace(self, fields={**self.fields, **operation.fields})
