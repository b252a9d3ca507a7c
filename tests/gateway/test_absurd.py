"""Requests that ask for more than there could ever be, in the words of every public API."""

import json

import pytest

from tests.gateway.house import SERVED, png

MANY = 10**9
STEPS = 10**6
SIDE = 65_536
LONG = "a" * 10**6
SHAPES = {"prompt": "a", "model": SERVED}
PREDICT = f"/v1beta/models/{SERVED}:predict"
TURN = f"/v1beta/models/{SERVED}:generateContent"
NATIVE = "/pictor/v1/jobs"


def native(**fields):
    return {"generation": {**SHAPES, **fields}}


def predict(prompt="a", **parameters):
    return {"instances": [{"prompt": prompt}], "parameters": parameters}


def turn(text="a", **config):
    return {"contents": [{"parts": [{"text": text}]}], "generationConfig": config}


ABSURD = {
    "/v1/images/generations": [
        {**SHAPES, "steps": STEPS},
        {**SHAPES, "size": f"{SIDE}x{SIDE}"},
        {**SHAPES, "seed": float("nan")},
        {**SHAPES, "seed": "NaN"},
        {**SHAPES, "prompt": LONG},
    ],
    "/v1/inference/image": [
        {**SHAPES, "steps": STEPS},
        {**SHAPES, "width": SIDE, "height": SIDE},
        {**SHAPES, "seed": float("nan")},
        {**SHAPES, "prompt": LONG},
    ],
    "/api/v1/images/generation": [
        {**SHAPES, "num_steps": STEPS},
        {**SHAPES, "width": SIDE, "height": SIDE},
        {**SHAPES, "seed": float("nan")},
        {**SHAPES, "prompt": LONG},
    ],
    "/sdapi/v1/txt2img": [
        {"prompt": "a", "batch_size": MANY},
        {"prompt": "a", "n_iter": MANY},
        {"prompt": "a", "steps": STEPS},
        {"prompt": "a", "width": SIDE, "height": SIDE},
        {"prompt": "a", "seed": "NaN"},
        {"prompt": LONG},
    ],
    "/v2/image/gpt-image/generate": [
        {**SHAPES, "n": MANY},
        {**SHAPES, "size": f"{SIDE}x{SIDE}"},
        {**SHAPES, "seed": float("nan")},
        {**SHAPES, "prompt": LONG},
    ],
    "/v2/image/gemini-3/generate": [{**SHAPES, "n": MANY}, {**SHAPES, "seed": "NaN"}],
    "/v2/image/flux/generate": [
        {**SHAPES, "steps": STEPS},
        {**SHAPES, "width": SIDE, "height": SIDE},
    ],
    PREDICT: [predict(sampleCount=MANY), predict(seed=float("nan")), predict(LONG)],
    TURN: [turn(candidateCount=MANY), turn(seed="NaN"), turn(LONG)],
    NATIVE: [
        native(imageCount=MANY),
        native(stepCount=STEPS),
        native(widthPx=SIDE, heightPx=SIDE),
        native(guidanceScale="NaN"),
        native(prompt=LONG),
    ],
}
CASES = [
    pytest.param(url, body, id=f"{url}-{number}")
    for url, bodies in ABSURD.items()
    for number, body in enumerate(bodies)
]
DEEP = {
    "lists": b"[" * 100_000 + b"]" * 100_000,
    "objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "in a field": b'{"model":"pictor/shapes","prompt":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
}


@pytest.mark.parametrize(("url", "body"), CASES)
async def test_what_could_never_be_drawn_is_refused(house, url, body):
    """
    4xx before anything is queued or stored; the answer does not repeat what was too long.
    """
    before = (len(await house.jobs()), await house.uploads())
    async with house.client() as client:
        # json.dumps writes NaN as JavaScript does, and httpx refuses to.
        reply = await client.post(
            url, content=json.dumps(body), headers={"content-type": "application/json"}
        )

    assert 400 <= reply.status_code < 500, reply.text
    assert len(reply.content) < 2000
    assert (len(await house.jobs()), await house.uploads()) == before


@pytest.mark.parametrize("url", ABSURD)
@pytest.mark.parametrize("content", DEEP.values(), ids=DEEP)
async def test_a_body_that_is_too_deep_is_refused(house, url, content):
    """
    However deep it is, it ends in an error and not in the interpreter's.
    """
    before = len(await house.jobs())
    async with house.client() as client:
        reply = await client.post(
            url, content=content, headers={"content-type": "application/json"}
        )

    assert 400 <= reply.status_code < 500, reply.text
    assert len(await house.jobs()) == before


@pytest.mark.parametrize("field", ["n", "steps", "seed", "size", "prompt"])
async def test_a_form_is_held_to_the_same(house, field):
    """
    Numbers that come as text are numbers; the image of a refused request is not stored.
    """
    value = {"n": "NaN", "steps": STEPS, "seed": "NaN", "size": f"{SIDE}x{SIDE}", "prompt": LONG}
    before = (len(await house.jobs()), await house.uploads())
    async with house.client() as client:
        reply = await client.post(
            "/v1/images/edits",
            data={**SHAPES, field: str(value[field])},
            files={"image": png((64, 64))},
        )

    assert 400 <= reply.status_code < 500, reply.text
    assert (len(await house.jobs()), await house.uploads()) == before


async def test_openais_n_is_clamped_as_inference_club_documents_it(house):
    """
    A billion pictures become as many as there may be, and the answer says so.
    """
    async with house.client() as client:
        reply = await client.post("/v1/images/generations", json={**SHAPES, "n": MANY})
        strict = await client.post(
            "/v1/images/generations",
            json={**SHAPES, "n": MANY},
            headers={"prefer": "handling=strict"},
        )

    assert reply.status_code == 200
    assert len(reply.json()["data"]) <= 10
    assert "n=clamped" in reply.headers["x-pictor-receipt"]
    assert strict.status_code == 400
