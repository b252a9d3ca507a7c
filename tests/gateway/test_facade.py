"""A dialect of the tests' own, with everything that the public ones do not use yet."""

import asyncio
import dataclasses
import time
import uuid

import httpx_sse
import pytest

from gateway.dialect import (
    Answer,
    Body,
    CancelJob,
    Delivery,
    Dialect,
    Event,
    Generate,
    ListJobs,
    Order,
    Reply,
    ShowJob,
)
from gateway.fields import Fields
from pictor.inference.v1 import generation_pb2, inference_service_pb2, job_pb2
from tests.gateway.house import SERVED, open_house, png

STATES = job_pb2.Job.State


def decode(call):
    """Read a form or a body; GET may have neither."""
    if call.body is None:
        body, form = call.query, True
    else:
        body = call.body
        form = call.route.endswith("/form")
    fields = Fields(body, form=form)
    prompt = fields.text("prompt", required=True)
    delivery = Delivery[(fields.text("delivery") or "wait").upper()]
    files = fields.files("image")
    masks = fields.files("mask")
    fields.check()
    return Order(
        generation_pb2.Generation(model=f"models/{SERVED}", prompt=prompt),
        delivery=delivery,
        input_images=files,
        mask=masks[0] if masks else None,
        contents=True,
    )


def encode(shown):
    return Answer({"id": shown.job_id, "images": list(shown.contents)})


def accept(shown):
    return Answer({"id": shown.job_id}, 202)


def stream(shown, message):
    if message.HasField("preview"):
        yield Event({"preview": message.preview.preview_index}, "preview")
    if shown.contents:
        yield Event({"images": list(shown.contents)}, "done")


def encode_error(failure):
    return Answer({"oops": failure.error.message, "field": failure.field}, failure.status)


def generate(method, path, **options):
    return Generate(
        method=method,
        path=path,
        decode=decode,
        encode=encode,
        accept=accept,
        stream=stream,
        label="x",
        **options,
    )


DIALECT = Dialect(
    name="test",
    title="Test",
    prefixes=["/test"],
    encode_error=encode_error,
    operations=[
        generate("POST", "/test/json"),
        generate("POST", "/test/form", body=Body.FORM),
        generate("GET", "/test/json", body=Body.OPTIONAL_JSON),
        ShowJob(
            method="GET",
            path="/test/jobs/{id}",
            decode=lambda call: call.path["id"],
            encode=encode,
            contents=True,
        ),
        CancelJob(
            method="POST",
            path="/test/jobs/{id}/cancel",
            decode=lambda call: call.path["id"],
            encode=lambda shown: Answer({"state": STATES.Name(shown.job.state)}),
        ),
        ListJobs(
            method="GET",
            path="/test/jobs",
            decode=lambda _: inference_service_pb2.ListJobsRequest(page_size=5),
            encode=lambda shown: Answer([one.job_id for one in shown]),
        ),
        Reply(method="GET", path="/test/samplers", encode=lambda _: Answer(["Euler"])),
        Reply(method="GET", path="/test/broken", encode=lambda _: Answer(1 / 0)),
    ],
)


@pytest.fixture(scope="module")
async def house(tmp_path_factory):
    """The gateway with the dialect of this module alone."""
    folder = tmp_path_factory.mktemp("facade")
    impatient = dataclasses.replace(
        DIALECT,
        name="impatient",
        prefixes=["/impatient"],
        wait_seconds=0.2,
        operations=[generate("POST", "/impatient/json")],
    )
    async with open_house(folder, [DIALECT, impatient]) as one:
        yield one


async def state_of(house, job_id):
    job = await house.inference.stub.GetJob(
        inference_service_pb2.GetJobRequest(name=f"jobs/{job_id}")
    )
    return STATES.Name(job.state)


async def test_a_multipart_form_brings_an_image_and_a_mask(house):
    """
    Uploads become assets; image and mask together mean inpainting.
    """
    async with house.client() as client:
        reply = await client.post(
            "/test/form",
            data={"prompt": "a"},
            files={"image": ("a", png((64, 64))), "mask": ("b", png((64, 64)))},
        )
        job = (await client.get(f"/pictor/v1/jobs/{reply.json()['id']}")).json()

    assert reply.status_code == 200, reply.text
    assert job["generation"]["operation"] == "OPERATION_INPAINT"
    assert job["generation"]["mask"].startswith("assets/")
    assert job["dialect"] == "test/x"


@pytest.mark.parametrize("options", [{"json": {"prompt": "a"}}, {"params": {"prompt": "a"}}])
async def test_get_may_have_a_body_or_a_query(house, options):
    """
    Nebula Block documents GET with a body, and proxies drop bodies of GET.
    """
    async with house.client() as client:
        reply = await client.request("GET", "/test/json", **options)

    assert reply.status_code == 200, reply.text


async def test_a_job_is_accepted_shown_listed_and_canceled(house):
    """
    All views of a job have the same id.
    """
    async with house.client() as client:
        with house.held():
            made = await client.post("/test/json", json={"prompt": "a", "delivery": "accept"})
            job_id = made.json()["id"]
            listed = await client.get("/test/jobs")
            canceled = await client.post(f"/test/jobs/{job_id}/cancel")
        shown = await client.get(f"/test/jobs/{job_id}")

    assert made.status_code == 202
    assert made.headers["x-pictor-job"] == job_id
    assert job_id in listed.json()
    assert canceled.json() == {"state": "STATE_CANCELED"}
    assert shown.json() == {"id": job_id, "images": []}


async def test_previews_and_the_picture_are_streamed(house):
    """
    Each message of the watch is what the dialect makes of it; the job is in the headers at once.
    """
    house.executor.previews = 2
    try:
        async with (
            house.client() as client,
            httpx_sse.aconnect_sse(
                client, "POST", "/test/json", json={"prompt": "a", "delivery": "stream"}
            ) as source,
        ):
            job_id = source.response.headers["x-pictor-job"]
            received = [event async for event in source.aiter_sse()]
    finally:
        house.executor.previews = 0

    assert received[-1].event == "done"
    assert "preview" in {event.event for event in received}
    assert await state_of(house, job_id) == "STATE_SUCCEEDED"


@pytest.mark.parametrize("delivery", ["wait", "stream"])
async def test_a_caller_who_leaves_cancels_its_job(house, delivery):
    """
    Nobody pays a device for a picture that nobody waits for.
    """
    with house.held():
        async with house.client() as client:
            body = {"prompt": "a", "delivery": delivery}
            leaving = asyncio.create_task(client.post("/test/json", json=body))
            await asyncio.wait_for(house.executor.started.wait(), 5)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            job = (await house.jobs())[0]
            for _ in range(50):
                state = await state_of(house, job.name.removeprefix("jobs/"))
                if state == "STATE_CANCELED":
                    break
                await asyncio.sleep(0.1)

    assert state == "STATE_CANCELED"


def new_id():
    return str(uuid.uuid4())


async def test_a_caller_that_waits_can_watch_and_cancel_under_its_own_id(house):
    """
    The id is known before the request is sent; the job it names is shown, watched and canceled.
    """
    job_id = new_id()
    with house.held():
        async with house.client() as client:
            waiting = asyncio.create_task(
                client.post("/test/json", json={"prompt": "a"}, headers={"x-pictor-job": job_id})
            )
            await asyncio.wait_for(house.executor.started.wait(), 5)
            shown = await client.get(f"/test/jobs/{job_id}")
            canceled = await client.post(f"/test/jobs/{job_id}/cancel")
            reply = await waiting

    assert shown.json()["id"] == job_id
    assert canceled.json() == {"state": "STATE_CANCELED"}
    assert reply.status_code == 499
    assert reply.headers["x-pictor-job"] == job_id


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("path", ["/test/json", "/test/form"])
async def test_a_taken_id_is_409_and_draws_nothing(house, path, own):
    """
    Whose job it is makes no difference; nothing is stored, and clients are told not to repeat it.
    """
    headers = {"x-pictor-job": new_id()}
    async with house.client() as client:
        made = await client.post("/test/json", json={"prompt": "a"}, headers=headers)
    key = None if own else (await house.key("inference", new_account=True))[0]
    jobs, uploads = len(await house.jobs()), await house.uploads()
    options = {"json": {"prompt": "a"}}
    if path == "/test/form":
        options = {"data": {"prompt": "a"}, "files": {"image": ("a", png((64, 64)))}}
    async with house.client(key) as client:
        reply = await client.post(path, headers=headers, **options)

    assert made.status_code == 200
    assert reply.status_code == 409
    assert reply.headers["x-should-retry"] == "false"
    assert "x-pictor-job" not in reply.headers
    assert headers["x-pictor-job"] in reply.json()["oops"]
    assert (len(await house.jobs()), await house.uploads()) == (jobs, uploads)


@pytest.mark.parametrize("job_id", ["1", "C3B1E0E7-2F7C-4C66-BD13-97B6C2B87F1D", "../x"])
async def test_an_id_that_is_no_uuid_is_refused(house, job_id):
    """
    Who chooses an id chooses one that nobody can guess.
    """
    async with house.client() as client:
        headers = {"x-pictor-job": job_id}
        reply = await client.post("/test/json", json={"prompt": "a"}, headers=headers)

    assert reply.status_code == 400
    assert reply.json()["field"] == "x-pictor-job"


async def raw_replies(house, *headers, version="1.1"):
    """Send one request; return the heads of all its responses, the last one's body aside."""
    host, _, port = house.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"prompt": "a"}'
    lines = [
        f"POST /test/json HTTP/{version}",
        f"host: {host}",
        f"authorization: Bearer {house.api_key}",
        f"content-length: {len(body)}",
        "connection: close",
        *headers,
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    heads = []
    while not heads or heads[-1].startswith("HTTP/1.1 1"):
        heads.append((await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode())
        yield heads[-1]
    writer.close()
    await writer.wait_closed()


def header_of(head, name):
    lines = (line.partition(": ") for line in head.split("\r\n"))
    return next((value for key, _, value in lines if key == name), None)


async def test_early_hints_tell_the_job_while_it_runs(house):
    """
    Who asks for it gets a first response, 103, with the job; the picture comes in the second one.
    """
    with house.held():
        replies = raw_replies(house, "Prefer: early-hints")
        hint = await anext(replies)
        job_id = header_of(hint, "x-pictor-job")
        state = await state_of(house, job_id)
    last = await anext(replies)

    assert hint.startswith("HTTP/1.1 103 Early Hints\r\n")
    assert state in ("STATE_QUEUED", "STATE_RUNNING")
    assert last.startswith("HTTP/1.1 200 ")
    assert header_of(last, "x-pictor-job") == job_id
    assert header_of(last, "preference-applied") == "early-hints"
    assert [head async for head in replies] == []


@pytest.mark.parametrize(("headers", "version"), [([], "1.1"), (["Prefer: early-hints"], "1.0")])
async def test_nobody_else_gets_two_responses(house, headers, version):
    """
    Python's http.client takes a 103 for the answer, and HTTP/1.0 has none: so it is asked for.
    """
    heads = [head async for head in raw_replies(house, *headers, version=version)]

    assert len(heads) == 1
    assert " 200 " in heads[0]
    assert header_of(heads[0], "preference-applied") is None


async def test_clients_that_skip_hints_are_not_disturbed_by_them(house):
    """
    A client like httpx reads over the 103 to the picture; an error after it has its own status.
    """
    async with house.client(headers={"prefer": "early-hints"}) as client:
        drawn = await client.post("/test/json", json={"prompt": "a"})
        refused = await client.post("/test/json", json={})
        with house.held():
            late = await client.post("/impatient/json", json={"prompt": "a"})

    assert (drawn.status_code, refused.status_code) == (200, 400)
    assert late.status_code == 504


async def test_who_is_strict_is_refused_what_would_be_ignored(house):
    """
    The error names parameter, value and reason; nothing is queued or stored for it.
    """
    jobs, uploads = len(await house.jobs()), await house.uploads()
    async with house.client(headers={"prefer": "handling=strict"}) as client:
        reply = await client.post("/test/json", json={"prompt": "a", "guidence": 3})
        form = await client.post(
            "/test/form",
            data={"prompt": "a", "sede": "4"},
            files={"image": ("a", png((64, 64)))},
        )

    assert reply.status_code == form.status_code == 400
    assert reply.headers["preference-applied"] == "handling=strict"
    assert reply.json() == {
        "oops": "guidence 3 would be ignored: this API has no such parameter",
        "field": "guidence",
    }
    assert (len(await house.jobs()), await house.uploads()) == (jobs, uploads)


async def test_a_strict_request_that_is_honoured_is_drawn(house):
    """
    The answer says that the preference was followed.
    """
    async with house.client(headers={"prefer": "handling=strict"}) as client:
        reply = await client.post("/test/json", json={"prompt": "a"})

    assert reply.status_code == 200
    assert reply.headers["preference-applied"] == "handling=strict"
    assert "ignored" not in reply.headers["x-pictor-receipt"]


async def test_without_strict_the_same_is_noted(house):
    """
    The receipt has a line for it in the header, and the sentence in the job.
    """
    async with house.client() as client:
        reply = await client.post("/test/json", json={"prompt": "a", "guidence": 3})
        job = (await client.get(f"/pictor/v1/jobs/{reply.json()['id']}")).json()

    assert reply.status_code == 200
    assert "preference-applied" not in reply.headers
    assert reply.headers["x-pictor-receipt"] == (
        "guidence=ignored; model=honoured; prompt=honoured"
    )
    assert job["receipt"][0]["reason"] == "this API has no such parameter"


async def test_a_key_in_the_query_is_no_parameter(house):
    """
    It gets neither into the receipt nor into a refusal.
    """
    async with house.client("", headers={"prefer": "handling=strict"}) as client:
        reply = await client.get("/test/json", params={"prompt": "a", "key": house.api_key})

    assert reply.status_code == 200, reply.text
    assert "key" not in reply.headers["x-pictor-receipt"]


async def test_whoever_waits_too_long_is_told_the_job(house):
    """
    The job goes on; its id is in the header of the 504.
    """
    with house.held():
        async with house.client() as client:
            reply = await client.post("/impatient/json", json={"prompt": "a"})
            job_id = reply.headers["x-pictor-job"]
            state = await state_of(house, job_id)

    assert reply.status_code == 504
    assert job_id in reply.json()["oops"]
    assert state in ("STATE_QUEUED", "STATE_RUNNING")


async def test_an_answer_from_the_call_alone_needs_no_service(house):
    """
    Lists that never change are one line of a dialect.
    """
    async with house.client() as client:
        assert (await client.get("/test/samplers")).json() == ["Euler"]


async def test_a_defect_is_answered_without_its_details(house):
    """
    The caller gets the request id, and the logs the traceback.
    """
    async with house.client() as client:
        reply = await client.get("/test/broken", headers={"x-request-id": "my-request-1"})

    assert reply.status_code == 500
    assert reply.json()["oops"] == "internal error; the logs know it as request my-request-1"
    assert reply.headers["x-request-id"] == "my-request-1"


async def test_unknown_paths_outside_of_all_prefixes_have_a_plain_answer(house):
    """
    Nobody's 404 is nobody's envelope.
    """
    async with house.client() as client:
        reply = await client.get("/nowhere")

    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == 404


@pytest.mark.parametrize("path", ["/no%0Awhere", "/pictor/v1/no%0Awhere", "/test/no%0Awhere"])
async def test_a_path_with_a_line_break_is_nowhere(house, path):
    """
    Nothing is sent in a form that no API documents, whatever a path holds.
    """
    async with house.client() as client:
        reply = await client.get(path)

    assert reply.status_code == 404
    assert reply.headers["content-type"] == "application/json"


async def test_an_answer_does_not_wait_for_the_callers_acknowledgement(house):
    """
    On a connection that is kept open, head and body of an answer go out at once: Nagle's algorithm
    would hold the body back for 40 ms.
    """
    seconds = []
    async with house.client() as client:
        for _ in range(10):
            started = time.monotonic()
            await client.get("/test/samplers")
            seconds.append(time.monotonic() - started)

    assert min(seconds[1:]) < 0.03
