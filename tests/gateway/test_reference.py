import json
import re
import shutil
import subprocess

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.bindings import bindings_of
from gateway.dialect import Body, Generate
from gateway.openapi import describe, statuses_of
from gateway.reference import FILES, FOLDER
from gateway.routes import discover
from gateway.suite import SERVICES

DIALECTS = discover()
OPERATIONS = [(dialect, one) for dialect in DIALECTS for one in dialect.operations]
BINDINGS = bindings_of(SERVICES.values())
DOCUMENT = describe(DIALECTS, BINDINGS, "http://pictor.test")


def described():
    """Yield every operation of the document with its path and method."""
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def test_the_document_is_valid():
    """
    A validator of OpenAPI 3.1 finds no error.
    """
    assert not list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors())


def test_every_route_of_every_api_is_described():
    """
    Dialects, native routes and pages: as many operations as there are, each with its summary.
    """
    pages = 3

    assert len(list(described())) == len(OPERATIONS) + len(BINDINGS) + pages
    assert all(operation["operationId"] for *_, operation in described())


@pytest.mark.parametrize(
    ("dialect", "operation"),
    [pytest.param(d, o, id=f"{o.method} {o.path}") for d, o in OPERATIONS],
)
def test_a_dialects_route_says_what_it_reads_and_writes(dialect, operation):
    """
    A route without a summary, a body without a schema or an unknown error is a gap in the page.
    """
    assert operation.summary
    assert dialect.error
    assert operation.sends_images or operation.reply
    assert operation.body is Body.NONE or operation.request or operation.form
    if isinstance(operation, Generate) and operation.stream:
        assert operation.events


def test_a_dialects_departures_are_documented():
    """
    RemoteGPU has 422 where others have 400, and OpenAI 502 for what fails on the device.
    """
    found = {
        f"{one.method} {one.path}": set(statuses_of(dialect, one)) for dialect, one in OPERATIONS
    }

    assert {400, 401, 403, 422, 500, 503} <= found["POST /v1/inference/image"]
    assert {404, 410} <= found["GET /v1/inference/results/{job_id}"]
    assert 502 in found["POST /v1/images/generations"]
    assert not {401, 403} & found["GET /v1/inference/models"]


def test_native_routes_come_from_the_protos():
    """
    Paths, parameters and messages are those of the annotations.
    """
    cancel = DOCUMENT["paths"]["/pictor/v1/jobs/{job}:cancel"]["post"]
    create = DOCUMENT["paths"]["/pictor/v1/jobs"]["post"]["requestBody"]["content"]
    job = DOCUMENT["components"]["schemas"]["pictor.inference.v1.Job"]["properties"]
    revoke = "/pictor/v1/accounts/{account}/apiKeys/{apiKey}:revoke"

    assert [one["name"] for one in cancel["parameters"]] == ["job"]
    assert create["application/json"]["schema"]["required"] == ["generation"]
    assert "jobId" in create["application/json"]["schema"]["properties"]
    assert job["revision"]["type"] == "string"
    assert job["state"] == {"readOnly": True, **job["state"]}
    assert job["createTime"]["format"] == "date-time"
    assert revoke in DOCUMENT["paths"]
    assert "x-events" in str(DOCUMENT["paths"]["/pictor/v1/jobs/{job}:watch"])


async def test_anybody_may_read_the_reference(house):
    """
    The document and the page need no key, and the page runs no script of another host.
    """
    async with house.client("") as client:
        document = await client.get("/openapi.json")
        pages = {path: await client.get(path) for path in FILES}
        wrong = await client.post("/openapi.json")

    assert document.json()["servers"] == [{"url": house.url}]
    assert {path: reply.headers["content-type"] for path, reply in pages.items()} == {
        path: f"{media_type}; charset=utf-8" for path, (_, media_type) in FILES.items()
    }
    policy = pages["/docs"].headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'" in policy
    assert wrong.status_code == 405


@pytest.mark.parametrize("name", [name for name, _ in FILES.values()])
def test_the_page_asks_no_other_host(name):
    """
    Where the gateway stands there may be no internet.
    """
    content = (FOLDER / name).read_text()

    assert not re.findall(r"https?://|//\w+\.\w+", content)
    assert "<script>" not in content


@pytest.mark.skipif(not shutil.which("node"), reason="draws the page with node, which is not here")
def test_the_page_shows_every_route_and_every_status():
    """
    The script draws the document; texts of it stay texts.
    """
    script = """
        const { page } = await import(process.argv[1]);
        let input = "";
        for await (const chunk of process.stdin) input += chunk;
        process.stdout.write(JSON.stringify(page(JSON.parse(input))));
    """
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script, str(FOLDER / "page.js")],
        input=json.dumps(DOCUMENT),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    drawn = json.loads(done.stdout)

    def pieces(piece):
        yield piece
        if isinstance(piece, list):
            for child in piece[2:]:
                yield from pieces(child)

    found = list(pieces(drawn))
    assert all(isinstance(one, str | list) for one in found)
    ids = {one[1]["id"] for one in found if isinstance(one, list) and "id" in one[1]}
    assert ids == {operation["operationId"] for *_, operation in described()}
    texts = [one for one in found if isinstance(one, str)]
    assert all(operation["summary"] in texts for *_, operation in described())
    assert {"remove_bg", "guidance", "event: message"} <= set(texts)
