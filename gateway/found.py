"""What operations want to know of the suite before they decode, looked up here."""

from typing import Any

from google.protobuf import json_format

from gateway.dialect import Dialect, Found, Need
from gateway.suite import Suite
from pictor.accounts.v1 import preferences_pb2
from pictor.catalog.v1 import catalog_service_pb2, model_pb2
from pictor.inference.v1 import inference_service_pb2, job_pb2
from services.rpc.principals import SUITE, become, caller

MODELS_PAGE = 1000
JOBS_PAGE = 1000
ACTIVE = (job_pb2.Job.STATE_QUEUED, job_pb2.Job.STATE_RUNNING)


async def look_up(suite: Suite, dialect: Dialect, needs: "frozenset[Need]") -> Found:
    """Ask the services for what an operation needs; for nothing else."""
    found: dict[str, Any] = {}
    if Need.MODELS in needs:
        found["models"] = await all_models(suite)
    if Need.SERVING in needs:
        listed = await suite.catalog.ListServingStatuses(
            catalog_service_pb2.ListServingStatusesRequest()
        )
        found["serving"] = listed.serving_statuses
    if Need.SAMPLERS in needs:
        known = await suite.inference.ListSamplers(inference_service_pb2.ListSamplersRequest())
        found |= {"samplers": known.samplers, "schedules": known.schedules}
    if Need.ADAPTERS in needs:
        there = await suite.catalog.ListAdapters(catalog_service_pb2.ListAdaptersRequest())
        found |= {"adapters": there.adapters, "embeddings": there.embeddings}
    if Need.CHOICES in needs:
        request = preferences_pb2.GetPreferencesRequest(owner=_owner(), dialect=dialect.name)
        found["choices"] = await _as_suite(suite.accounts.GetPreferences, request)
    if Need.JOBS in needs:
        found["jobs"] = await active_jobs(suite, dialect, preview=True)
    return Found(**found)


async def choose(suite: Suite, dialect: Dialect, changes: Any) -> dict[str, Any]:
    """Keep what the caller has chosen; answer with all of it."""
    request = preferences_pb2.UpdatePreferencesRequest(owner=_owner(), dialect=dialect.name)
    request.values.update(changes)
    return await _as_suite(suite.accounts.UpdatePreferences, request)


async def active_jobs(
    suite: Suite, dialect: Dialect, *, preview: bool = False
) -> list[job_pb2.Job]:
    """Return the account's jobs of this dialect that have not ended, newest first."""
    listed = await suite.inference.ListJobs(
        inference_service_pb2.ListJobsRequest(page_size=JOBS_PAGE, states=ACTIVE)
    )
    jobs = [job for job in listed.jobs if job.dialect.partition("/")[0] == dialect.name]
    running = [k for k, job in enumerate(jobs) if job.state == job_pb2.Job.STATE_RUNNING]
    if preview and running:
        oldest = running[-1]
        jobs[oldest] = await suite.inference.GetJob(
            inference_service_pb2.GetJobRequest(name=jobs[oldest].name, include_preview=True)
        )
    return jobs


async def all_models(suite: Suite) -> list[model_pb2.Model]:
    """Return every model, page by page."""
    models: list[model_pb2.Model] = []
    token = ""
    while True:
        page = await suite.catalog.ListModels(
            catalog_service_pb2.ListModelsRequest(page_size=MODELS_PAGE, page_token=token)
        )
        models.extend(page.models)
        token = page.next_page_token
        if not token:
            return models


def _owner() -> str:
    principal = caller()
    return principal.api_key or principal.account


async def _as_suite(method: Any, request: Any) -> dict[str, Any]:
    """Ask what only the suite may ask, on behalf of the caller who was let in."""
    before = caller()
    become(SUITE)
    try:
        answer = await method(request)
    finally:
        become(before)
    return json_format.MessageToDict(answer.values)
