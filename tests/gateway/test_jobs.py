import asyncio

from gateway.jobs import finished, watch
from gateway.stopping import Stopping
from gateway.suite import SERVICES, open_suite
from pictor.inference.v1 import generation_pb2, inference_service_pb2, job_pb2
from services.rpc.principals import service_token
from tests.gateway.house import SERVED, free_address
from tests.services.inference.scripted import (
    ScriptedExecutor,
    inference_in,
    neighbours,
    serve_model,
)


async def test_a_watch_survives_a_restart_of_the_inference_service(tmp_path):
    """
    A caller who waits does not notice: the job is durable, and the watch goes on where it was.
    """
    async with neighbours(tmp_path, PICTOR_INFERENCE_ADDRESS=free_address()) as environ:
        token = service_token(tmp_path)
        await serve_model(environ["PICTOR_CATALOG_ADDRESS"], token, SERVED)
        addresses = {
            name: environ[f"PICTOR_{name.split('.')[1].upper()}_ADDRESS"] for name in SERVICES
        }
        async with open_suite(addresses, token, Stopping()) as suite:
            async with inference_in(environ, ScriptedExecutor()):
                job = await suite.inference.CreateJob(
                    inference_service_pb2.CreateJobRequest(
                        generation=generation_pb2.Generation(model=SERVED, prompt="a")
                    )
                )
                seen = asyncio.create_task(_revisions(suite, job.name))
                ended = asyncio.create_task(finished(suite, job.name, 30))
                await asyncio.sleep(0.3)
            again = ScriptedExecutor()
            again.gate.set()
            async with inference_in(environ, again):
                last = await ended
                revisions = await seen

    assert last.state == job_pb2.Job.STATE_SUCCEEDED
    assert revisions == sorted(revisions)
    assert set(revisions) >= {2, last.revision}


async def _revisions(suite, name):
    return [message.revision async for message in watch(suite, name)]
