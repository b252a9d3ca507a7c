"""Pictures that nobody waits for, and those of which the making is watched."""

import base64
import json

import httpx_sse
import openai
import pytest

from gateway.dialect import Call, Failure, Preferences, Shown
from gateway.dialects.openai import (
    DIALECT,
    decode_generation,
    decode_jobs,
    encode_job,
    fail_stream,
    stream_images,
)
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import inference_service_pb2, job_pb2
from pictor.worker.v1 import worker_pb2
from services.rpc.errors import Canceled, Internal, InvalidRequest, to_status
from tests.gateway.dialect_conformance import assert_fits, finished
from tests.gateway.house import SERVED, png

PATH = "/v1/images/generations"
SIZE = (64, 64)
EVENTS = next(one for one in DIALECT.operations if one.path == PATH).events


def body(**fields):
    return {"prompt": "a red circle", "model": SERVED, "size": "64x64", **fields}


@pytest.fixture
async def sdk(house):
    """The openai package, as its users set it up."""
    async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key=house.api_key) as client:
        yield client


@pytest.fixture
def previews(house):
    """Let the executor show two previews of each picture."""
    house.executor.previews = 2
    yield
    house.executor.previews = 0


async def test_who_does_not_wait_gets_a_job_and_later_its_picture(house, sdk):
    """
    The package sees ``id`` and ``status``, and the job has the answer that waiting would have got.
    """
    ticket = await sdk.images.generate(
        model=SERVED, prompt="a", size="64x64", extra_body={"async": True}
    )
    await finished(house, ticket.id)
    async with house.client() as client:
        job = (await client.get(f"/v1/jobs/{ticket.id}")).json()
        picture = await client.get(job["result_url"])

    assert (ticket.object, ticket.inference_type, ticket.data) == ("inference.job", "IMAGE", None)
    assert ticket.status in ("QUEUED", "PROCESSING")
    assert job["status"] == "PROCESSED"
    assert job["result"]["data"] == [{"url": job["result_url"]}]
    assert job["assets"] == [job["result_url"]]
    assert job["queued_at"] <= job["started_at"] <= job["finished_at"]
    assert picture.content == png(SIZE)


async def test_a_ticket_is_202_and_names_the_model(house):
    """
    The documented envelope, and nothing besides it.
    """
    async with house.client() as client:
        reply = await client.post(PATH, json=body(**{"async": True}))

    ticket = reply.json()
    assert reply.status_code == 202
    assert list(ticket) == [
        *("id", "object", "status", "inference_type", "model", "created", "queued_at")
    ]
    assert ticket["id"] == reply.headers["x-pictor-job"]
    assert ticket["model"] == SERVED


@pytest.mark.parametrize(
    ("fields", "keys", "quality"),
    [
        ({"response_format": "b64_json", "quality": "high"}, {"b64_json", "url"}, "high"),
        ({"response_format": "url", "quality": "hd"}, {"url"}, "high"),
        ({}, {"url"}, "medium"),
    ],
)
async def test_a_finished_job_answers_as_it_was_asked(house, fields, keys, quality):
    """
    Base64 or URLs, the quality and the safety identifier: as in the synchronous answer.
    """
    asked = body(safety_identifier="u-7", **fields)
    async with house.client() as client:
        ticket = await client.post(PATH, json={**asked, "async": True})
        waited = (await client.post(PATH, json=asked)).json()
        await finished(house, ticket.headers["x-pictor-job"])
        job = (await client.get(f"/v1/jobs/{ticket.json()['id']}")).json()

    assert set(job["result"]["data"][0]) == keys == set(waited["data"][0])
    assert job["result"]["quality"] == waited["quality"] == quality
    assert job["result"]["safety_identifier"] == waited["safety_identifier"] == "u-7"


async def test_jobs_are_listed_newest_first_and_narrowed(house):
    """
    By status, by whether they go on, and by number.
    """
    secret, _ = await house.key("inference", new_account=True)
    async with house.client(secret) as client:
        ids = []
        for _ in range(3):
            reply = await client.post(PATH, json=body(**{"async": True}))
            ids.insert(0, reply.json()["id"])
            await finished(house, ids[0])
        with house.held():
            going = (await client.post(PATH, json=body(**{"async": True}))).json()["id"]

            async def listed(**query):
                found = (await client.get("/v1/jobs", params=query)).json()["data"]
                return [job["id"] for job in found]

            assert await listed() == [going, *ids]
            assert await listed(limit=2) == [going, ids[0]]
            assert await listed(active=1) == [going]
            assert await listed(status="PROCESSED") == ids
            assert await listed(status="failed") == []
            assert await listed(status="queued", active="true") in ([], [going])


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"limit": ["0"]}, "limit 0 is outside 1 to 1000"),
        ({"limit": ["many"]}, "limit must be a number"),
        ({"status": ["DONE"]}, "status 'DONE' is not one of QUEUED, PROCESSING, PROCESSED"),
        ({"active": ["1"], "status": ["FAILED"]}, "exclude each other"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(query, says):
    """
    The error names what there is.
    """
    with pytest.raises(InvalidRequest, match=says):
        decode_jobs(Call({}, query, {}, None, Preferences("")))


async def test_a_running_job_is_canceled_once_and_for_all(house):
    """
    Cancel answers with the job; a finished one is 409, which is not to be repeated.
    """
    async with house.client() as client:
        with house.held():
            going = (await client.post(PATH, json=body(**{"async": True}))).json()["id"]
            canceled = await client.post(f"/v1/jobs/{going}/cancel")
            again = await client.post(f"/v1/jobs/{going}/cancel")
        done = (await client.post(PATH, json=body())).headers["x-pictor-job"]
        late = await client.post(f"/v1/jobs/{done}/cancel")

    assert canceled.json()["status"] == again.json()["status"] == "CANCELED"
    assert canceled.json()["error"]["type"] == "canceled"
    assert (late.status_code, late.json()["error"]["code"]) == (409, "job_state_conflict")
    assert late.headers["x-should-retry"] == "false"


async def test_what_failed_is_drawn_once_more_as_a_new_job(house):
    """
    The same generation, seed included, under a new id that tells of the old one.
    """
    error = Internal("NaN", reason=reasons.ERROR_REASON_OUTPUT_NOT_FINITE)
    house.executor.outcomes.append(worker_pb2.Report(error=to_status(error)))
    async with house.client() as client:
        failed = (await client.post(PATH, json=body(**{"async": True}))).json()["id"]
        await finished(house, failed)
        told = (await client.get(f"/v1/jobs/{failed}")).json()
        retried = await client.post(f"/v1/jobs/{failed}/retry")
        again = retried.json()["id"]
        await finished(house, again)
        done = (await client.get(f"/v1/jobs/{again}")).json()
        refused = await client.post(f"/v1/jobs/{again}/retry")
    first, second = await house.job(failed), await house.job(again)

    assert told["status"] == "FAILED"
    assert told["error"] == {"message": "NaN", "type": "upstream_error"}
    assert retried.headers["x-pictor-job"] == again != failed
    assert (done["status"], done["retry_of"]) == ("PROCESSED", failed)
    assert first.generation == second.generation
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "job_state_conflict")


@pytest.mark.parametrize("path", ["/v1/jobs/{}", "/v1/jobs/{}/cancel", "/v1/jobs/{}/retry"])
async def test_an_unknown_job_is_404(house, path):
    """
    In the envelope, with a code.
    """
    async with house.client() as client:
        method = "GET" if path.endswith("{}") else "POST"
        reply = await client.request(method, path.format("42"))

    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "job_not_found")


def test_a_job_of_another_api_is_shown_without_what_it_never_said():
    """
    Neither a quality nor a format of the answer is known of it.
    """
    job = job_pb2.Job(name="jobs/1", state=job_pb2.Job.STATE_SUCCEEDED, dialect="remotegpu")
    job.generation.model = "models/a/b"
    job.result.images.add(url="http://x/1", width_px=8, height_px=4, media_type="image/webp")

    shown = encode_job(Shown(job, Preferences(""))).body

    assert shown["result"]["quality"] == "medium"
    assert shown["result"]["output_format"] == "webp"
    assert "safety_identifier" not in shown["result"]


@pytest.mark.usefixtures("previews")
async def test_the_package_streams_previews_and_the_picture(sdk):
    """
    Two partial images and the completed one, in base64 whatever the format that was asked for.
    """
    stream = await sdk.images.generate(
        model=SERVED,
        prompt="a",
        size="64x64",
        stream=True,
        partial_images=2,
        extra_body={"response_format": "url"},
    )
    events = [event async for event in stream]

    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert base64.b64decode(events[0].b64_json) == png((8, 8))
    assert base64.b64decode(events[2].b64_json) == png(SIZE)
    assert events[2].usage.total_tokens == 0
    assert {(event.size, event.background) for event in events} == {("64x64", "opaque")}


@pytest.mark.usefixtures("previews")
async def test_each_event_is_as_it_is_described(house):
    """
    Name and type agree, all fields are there, whatever the client says that it accepts.
    """
    async with house.client() as client:
        request = body(stream=True, partial_images=2, n=2)
        async with httpx_sse.aconnect_sse(
            client, "POST", PATH, json=request, headers={"accept": "application/json"}
        ) as source:
            events = [event async for event in source.aiter_sse()]
            head = source.response.headers

    assert head["content-type"].startswith("text/event-stream")
    assert head["x-pictor-job"]
    for event in events:
        data = json.loads(event.data)
        assert data["type"] == event.event
        assert_fits(EVENTS[event.event], data)
    completed = [json.loads(event.data) for event in events[-2:]]
    assert [one["index"] for one in completed] == [0, 1]


async def test_a_stream_without_partial_images_has_one_event(sdk):
    """
    ``partial_images`` 0 and absent are alike.
    """
    for options in ({}, {"partial_images": 0}):
        stream = await sdk.images.generate(
            model=SERVED, prompt="a", size="64x64", stream=True, **options
        )
        assert [event.type async for event in stream] == ["image_generation.completed"]


@pytest.mark.usefixtures("previews")
async def test_an_edit_streams_events_of_its_own(sdk):
    """
    They are called image_edit.
    """
    stream = await sdk.images.edit(
        model=SERVED, prompt="a", image=png(SIZE), stream=True, partial_images=1
    )
    types = [event.type async for event in stream]

    assert set(types) == {"image_edit.partial_image", "image_edit.completed"}


async def test_a_failure_in_a_stream_is_raised_by_the_package(house, sdk):
    """
    An event ``error`` with the nested error, of which the package makes its exception.
    """
    error = Internal("NaN", reason=reasons.ERROR_REASON_OUTPUT_NOT_FINITE)
    house.executor.outcomes.append(worker_pb2.Report(error=to_status(error)))
    stream = await sdk.images.generate(model=SERVED, prompt="a", stream=True)
    with pytest.raises(openai.APIError, match="NaN") as caught:
        async for _ in stream:
            pass

    assert caught.value.type == "upstream_error"


async def test_a_failure_in_a_stream_is_an_event_with_a_type(house):
    """
    Clients that go by the JSON's ``type`` find it there, beside the nested error.
    """
    error = Internal("NaN", reason=reasons.ERROR_REASON_OUTPUT_NOT_FINITE)
    house.executor.outcomes.append(worker_pb2.Report(error=to_status(error)))
    async with (
        house.client() as client,
        httpx_sse.aconnect_sse(client, "POST", PATH, json=body(stream=True)) as source,
    ):
        events = [event async for event in source.aiter_sse()]

    assert [event.event for event in events] == ["error"]
    data = json.loads(events[0].data)
    assert (data["type"], data["error"]["type"]) == ("error", "upstream_error")


async def test_what_is_wrong_before_the_stream_is_an_ordinary_error(sdk):
    """
    Whoever asks for a stream of nonsense gets a status and no events.
    """
    with pytest.raises(openai.BadRequestError) as error:
        await sdk.images.generate(model=SERVED, prompt="a", stream=True, partial_images=4)

    assert error.value.param == "partial_images"


async def test_leaving_a_stream_cancels_its_job(house, sdk):
    """
    Nobody watches any more, so nothing is drawn any more.
    """
    with house.held():
        stream = await sdk.images.generate(model=SERVED, prompt="a", stream=True)
        await house.executor.started.wait()
        await stream.close()
        job_id = stream.response.headers["x-pictor-job"]
        assert await finished(house, job_id) == "STATE_CANCELED"


def test_partial_images_are_asked_of_the_device_only_for_a_stream():
    """
    Elsewhere nobody would see them, and the receipt says so.
    """

    def decoded(**fields):
        return decode_generation(Call({}, {}, {}, body(**fields), Preferences("")))

    streamed, waited = decoded(stream=True, partial_images=3), decoded(partial_images=3)

    assert streamed.generation.preview_count == 3
    assert not waited.generation.HasField("preview_count")
    assert [note.parameter for note in waited.notes] == ["partial_images"]


def test_a_preview_says_what_it_is():
    """
    The format is the preview's own, of which clients make a data URL; the size is the picture's.
    """
    job = job_pb2.Job()
    job.generation.width_px, job.generation.height_px = 1024, 512
    message = inference_service_pb2.WatchJobResponse()
    message.preview.media_type, message.preview.content = "image/jpeg", b"hi"
    (event,) = stream_images(Shown(job, Preferences("")), message, kind="image_edit")

    assert event.body["output_format"] == "jpeg"
    assert event.body["size"] == "1024x512"
    assert "index" not in event.body


def test_an_error_in_a_stream_has_a_type_of_its_own():
    """
    The package looks for the nested error, and finds the type beside it.
    """
    event = fail_stream(Failure(Canceled("the job was canceled"), 499))

    assert event.name == event.body["type"] == "error"
    assert event.body["error"]["message"] == "the job was canceled"
