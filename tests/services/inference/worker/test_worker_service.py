import asyncio
import contextlib
import hashlib
import io
import time
from dataclasses import dataclass

import grpc
import pytest
import torch
from google.protobuf import duration_pb2
from PIL import Image
from safetensors.torch import load_file, save_file

from pictor.catalog.v1 import (
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    model_pb2,
    serving_pb2,
)
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2
from pictor.inference.v1.progress_pb2 import Progress
from pictor.storage.v1 import asset_pb2, storage_service_pb2, storage_service_pb2_grpc
from pictor.worker.v1 import worker_pb2, worker_service_pb2
from services.inference.worker.__main__ import running
from services.inference.worker.encode import png
from services.inference.worker.inputs import read_inputs
from services.inference.worker.settings import WorkerSettings
from services.rpc.channels import open_channel
from services.rpc.errors import InvalidRequest, PermissionDenied, Unavailable, from_status
from services.rpc.principals import acting_for, service_token
from services.rpc.settings import read
from tests.services.inference.worker.conftest import generation_of
from tests.services.inference.worker.suite import (
    CATALOG,
    environ_of,
    neighbours,
    worker_in,
    worker_stub,
)
from tests.services.inference.worker.tiny import save_tiny_model

ACCOUNT = "accounts/" + "a" * 32
READY = serving_pb2.ServingStatus.STATE_READY
ON_DEMAND = serving_pb2.ServingStatus.STATE_ON_DEMAND
STOPPED = serving_pb2.ServingStatus.STATE_STOPPED
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@dataclass(frozen=True)
class Worker:
    """A device process's inside, and the services around it."""

    worker: object
    catalog: object
    storage: object
    environ: dict[str, str]

    def run(self, generation, model="tiny", **fields):
        assignment = worker_pb2.Assignment(
            job="jobs/1",
            attempt=1,
            account=ACCOUNT,
            generation=generation,
            model=model_pb2.Model(
                name=f"models/{model}", checkpoint=model_pb2.Checkpoint(folder=model)
            ),
            **fields,
        )
        return self.worker.Run(worker_service_pb2.RunRequest(assignment=assignment))

    async def reports(self, generation, **fields):
        return [response.report async for response in self.run(generation, **fields)]

    async def renew(self, seconds):
        request = worker_service_pb2.RenewRequest()
        request.lease.FromMilliseconds(int(seconds * 1000))
        await self.worker.Renew(request)

    async def draw(self, generation, **fields):
        reports = await self.reports(generation, **fields)
        assert reports[-1].HasField("result"), reports[-1]
        return reports[-1].result

    async def upload(self, picture):
        asset = asset_pb2.Asset(origin=asset_pb2.Asset.ORIGIN_UPLOADED)

        async def messages():
            yield storage_service_pb2.CreateAssetRequest(asset=asset)
            yield storage_service_pb2.CreateAssetRequest(chunk=png(picture))

        with acting_for(ACCOUNT):
            return await self.storage.CreateAsset(messages())

    async def bytes_of(self, asset):
        request = storage_service_pb2.ReadAssetRequest(name=asset)
        with acting_for(ACCOUNT):
            return b"".join([message.chunk async for message in self.storage.ReadAsset(request)])

    async def assets(self):
        with acting_for(ACCOUNT):
            page = await self.storage.ListAssets(storage_service_pb2.ListAssetsRequest())
        return list(page.assets)

    async def status(self, model="models/tiny"):
        request = catalog_service_pb2.ListServingStatusesRequest(models=[model])
        return (await self.catalog.ListServingStatuses(request)).serving_statuses[0]

    async def until(self, state, model="models/tiny"):
        while (await self.status(model)).state != state:  # noqa: ASYNC110  # the catalog is polled
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def worker_beside(bound, token):
    async with (
        worker_in(bound) as channel,
        open_channel(bound["PICTOR_CATALOG_ADDRESS"], token) as catalog,
        open_channel(bound["PICTOR_STORAGE_ADDRESS"], token) as storage,
    ):
        yield Worker(
            worker_stub(channel),
            catalog_service_pb2_grpc.CatalogServiceStub(catalog),
            storage_service_pb2_grpc.StorageServiceStub(storage),
            bound,
        )


@pytest.fixture(scope="module")
async def worker(engine, models_folder, tmp_path_factory):
    """A device process's inside, with the tiny model ready."""
    data_dir = tmp_path_factory.mktemp("data")
    async with (
        neighbours(environ_of(data_dir, models_folder)) as bound,
        worker_beside(bound, service_token(data_dir)) as one,
    ):
        async with asyncio.timeout(60):
            await one.until(READY)
        yield one


async def test_a_lease_that_is_not_renewed_ends_what_runs(worker):
    """
    Whoever assigned it is gone, and others may have begun it anew: nothing more is stored. A lease
    that is renewed lets it go on.
    """
    long = asyncio.create_task(worker.reports(generation_of(step_count=900)))
    for _ in range(3):
        await worker.renew(0.5)
        await asyncio.sleep(0.3)
    held = long.done()
    reports = await asyncio.wait_for(long, 10)
    await worker.renew(60)
    drawn = await worker.draw(generation_of(step_count=2))

    assert not held
    assert from_status(reports[-1].error).code == grpc.StatusCode.CANCELLED
    assert drawn.job_result.images


async def test_the_catalog_learns_what_is_ready(worker):
    """
    A model that the catalog desires is loaded without being asked for.
    """
    status = await worker.status()

    assert (status.available, status.ready_replicas) == (True, 1)
    assert status.served_by == "models/tiny"


async def test_a_job_is_drawn_and_stored(worker):
    """
    The result names assets that hold what it says.
    """
    result = await worker.draw(
        generation_of(image_count=2), result_ttl=duration_pb2.Duration(seconds=60)
    )

    images = result.job_result.images
    assert [image.seed for image in images] == [7, 8]
    for image in images:
        content = await worker.bytes_of(image.asset)
        assert hashlib.sha256(content).hexdigest() == image.sha256
        assert len(content) == image.size_bytes
        assert image.media_type == "image/png"
        assert Image.open(io.BytesIO(content)).size == (image.width_px, image.height_px) == (64, 64)
        assert image.url.startswith("http")
    (stored,) = [asset for asset in await worker.assets() if asset.name == images[0].asset]
    assert (stored.job, stored.account) == ("jobs/1", ACCOUNT)
    assert 0 < stored.expire_time.seconds - time.time() <= 60
    assert result.job_result.timings.inference.ToMicroseconds() > 0
    assert result.job_result.timings.load.ToMicroseconds() == 0
    assert not result.receipt


async def test_the_same_request_gives_the_same_bytes(worker):
    """
    A file can be had again, byte by byte.
    """
    one, two = [await worker.draw(generation_of()) for _ in range(2)]

    assert one.job_result.images[0].sha256 == two.job_result.images[0].sha256


async def test_parameters_are_embedded_unless_omitted(worker):
    """
    A picture tells how it was made, to those who are meant to know.
    """
    told = await worker.draw(generation_of(sampler="Euler a"))
    silent = await worker.draw(generation_of(output=generation_pb2.Output(omit_parameters=True)))

    text = Image.open(io.BytesIO(await worker.bytes_of(told.job_result.images[0].asset))).text
    assert text["parameters"] == (
        "a red circle\nSteps: 4, Sampler: Euler a, CFG scale: 4, Seed: 7, Size: 64x64,"
        " Model: tiny, Version: Pictor"
    )
    content = await worker.bytes_of(silent.job_result.images[0].asset)
    assert b"parameters" not in content


async def test_reports_come_in_order(worker):
    """
    Waiting, encoding, a report for each step, decoding, storing, and the result last.
    """
    reports = await worker.reports(generation_of())
    phases = [report.progress.phase for report in reports[:-1]]

    assert phases == [
        Progress.PHASE_UNSPECIFIED,
        Progress.PHASE_ENCODING,
        *[Progress.PHASE_DENOISING] * 4,
        Progress.PHASE_DECODING,
        Progress.PHASE_STORING,
    ]
    assert reports[-1].HasField("result")


async def test_an_input_image_is_read_from_storage(worker, gradient, half_mask):
    """
    Inpainting takes image and mask from the account's assets, and keeps what the mask keeps.
    """
    image, mask = await worker.upload(gradient()), await worker.upload(half_mask().convert("RGB"))
    result = await worker.draw(
        generation_of(
            operation=model_pb2.OPERATION_INPAINT,
            input_images=[generation_pb2.InputImage(asset=image.name)],
            mask=mask.name,
            strength=1.0,
        )
    )
    content = await worker.bytes_of(result.job_result.images[0].asset)
    drawn = Image.open(io.BytesIO(content)).convert("RGB")

    left = (0, 0, 32, 64)
    assert drawn.crop(left).tobytes() == gradient().crop(left).tobytes()


@pytest.mark.parametrize(
    ("operation", "roles", "changed"),
    [
        ("OPERATION_IMAGE_TO_IMAGE", ["ROLE_UNSPECIFIED", "ROLE_REFERENCE"], 0),
        ("OPERATION_IMAGE_TO_IMAGE", ["ROLE_REFERENCE", "ROLE_INIT"], 1),
        ("OPERATION_IMAGE_TO_IMAGE", ["ROLE_REFERENCE"], 0),
        ("OPERATION_EDIT", ["ROLE_UNSPECIFIED", "ROLE_INIT"], None),
    ],
)
async def test_an_input_image_is_changed_or_looked_at(worker, gradient, operation, roles, changed):
    """
    Editing by instruction looks at every picture; other operations change one of them.
    """
    colours = [gradient(64, 64).rotate(90 * k) for k in range(len(roles))]
    images = [
        generation_pb2.InputImage(asset=(await worker.upload(picture)).name, role=role)
        for picture, role in zip(colours, roles, strict=True)
    ]
    with acting_for(ACCOUNT):
        inputs = await read_inputs(
            worker.storage, generation_of(operation=operation, input_images=images)
        )
    expected = None if changed is None else colours.pop(changed).tobytes()

    assert (inputs.image and inputs.image.tobytes()) == expected
    assert [r.tobytes() for r in inputs.references] == [c.tobytes() for c in colours]


async def test_another_accounts_image_is_not_there(worker):
    """
    The worker reads with the rights of the job's account.
    """
    reports = await worker.reports(
        generation_of(
            operation=model_pb2.OPERATION_IMAGE_TO_IMAGE,
            input_images=[generation_pb2.InputImage(asset="assets/" + "0" * 32)],
        )
    )
    error = from_status(reports[-1].error)

    assert error.reason == reasons.ERROR_REASON_ASSET_NOT_FOUND


async def test_a_refused_operation_is_the_jobs_error(worker):
    """
    The call itself succeeds; its last report says why there is no picture.
    """
    reports = await worker.reports(generation_of(operation=model_pb2.OPERATION_EDIT))
    error = from_status(reports[-1].error)

    assert isinstance(error, InvalidRequest)
    assert error.reason == reasons.ERROR_REASON_OPERATION_UNSUPPORTED


async def test_a_defect_is_told_without_its_insides(worker):
    """
    What nobody expected is an internal error with the request's id, and no path.
    """
    reports = await worker.reports(generation_of(width_px=-8))
    error = from_status(reports[-1].error)

    assert error.reason == reasons.ERROR_REASON_INTERNAL
    assert error.message == f"internal error; the logs know it as request {error.request_id}"


async def test_who_leaves_stops_the_drawing(worker):
    """
    A canceled call ends at its next step, stores nothing, and the next job is drawn.
    """
    before = len(await worker.assets())
    call = worker.run(generation_of(step_count=1000))
    async for response in call:
        if response.report.progress.step == 3:
            break
    call.cancel()
    async with asyncio.timeout(10):
        await worker.draw(generation_of())

    assert len(await worker.assets()) == before + 1


async def test_a_deadline_stops_the_drawing(worker):
    """
    When the caller's time is over, the device is free again.
    """
    assignment = worker_pb2.Assignment(
        job="jobs/1",
        account=ACCOUNT,
        generation=generation_of(step_count=1000, width_px=256, height_px=256),
        model=model_pb2.Model(name="models/tiny"),
    )
    request = worker_service_pb2.RunRequest(assignment=assignment)
    with pytest.raises(Exception, match=r"(?i)deadline"):
        async for _ in worker.worker.Run(request, timeout=0.5):
            pass
    async with asyncio.timeout(10):
        await worker.draw(generation_of())


async def test_jobs_are_drawn_one_after_another(worker):
    """
    A second job waits, and says so; both are drawn.
    """
    one, two = await asyncio.gather(
        worker.reports(generation_of(step_count=30)), worker.reports(generation_of(step_count=2))
    )

    assert one[-1].HasField("result")
    assert two[-1].HasField("result")
    assert two[0].progress.phase == Progress.PHASE_UNSPECIFIED


async def test_an_assignment_must_name_its_model(worker):
    """
    What the worker cannot do without is an error of the call.
    """
    request = worker_service_pb2.RunRequest(
        assignment=worker_pb2.Assignment(job="jobs/1", account=ACCOUNT, generation=generation_of())
    )
    with pytest.raises(InvalidRequest, match=r"assignment\.model"):
        async for _ in worker.worker.Run(request):
            pass


async def test_only_the_suite_may_assign(worker):
    """
    An account's rights do not open the device process.
    """
    request = worker_service_pb2.RunRequest(assignment=worker_pb2.Assignment(job="jobs/1"))
    with pytest.raises(PermissionDenied):
        async for _ in worker.worker.Run(
            request, metadata=(("x-pictor-account", ACCOUNT), ("x-pictor-scopes", "inference"))
        ):
            pass


async def test_a_process_that_stops_withdraws(engine, models_folder, tmp_path):
    """
    The catalog knows at once that nothing serves the model any more.
    """
    async with neighbours(environ_of(tmp_path, models_folder)) as bound:
        token = service_token(tmp_path)
        async with worker_beside(bound, token) as one, asyncio.timeout(60):
            await one.until(READY)
        async with open_channel(bound["PICTOR_CATALOG_ADDRESS"], token) as channel:
            stub = catalog_service_pb2_grpc.CatalogServiceStub(channel)
            answer = await stub.ListServingStatuses(
                catalog_service_pb2.ListServingStatusesRequest()
            )

    (status,) = answer.serving_statuses
    assert status.state == serving_pb2.ServingStatus.STATE_NO_WEIGHTS


async def test_a_process_that_stops_gives_its_job_back(engine, models_folder, tmp_path):
    """
    The call ends as unavailable, not as the job's failure, and without waiting for the job.
    """
    running_now = asyncio.Event()
    async with neighbours(environ_of(tmp_path, models_folder)) as bound:
        settings = read(WorkerSettings, bound)
        async with running(settings) as address:
            channel = open_channel(address, service_token(tmp_path))
            one = Worker(worker_stub(channel), None, None, bound)
            generation = generation_of(step_count=1000, width_px=256, height_px=256)
            call = asyncio.create_task(_drain(one.run(generation), running_now))
            await running_now.wait()
            started = time.monotonic()
        with pytest.raises(Unavailable, match="the device process is stopping"):
            await call
        await channel.close()

    assert time.monotonic() - started < 4


async def _drain(call, running_now):
    async for response in call:
        if response.report.progress.step == 2:
            running_now.set()


async def test_adapters_in_the_model_folders_are_reported(models_folder, tmp_path):
    """
    By name, while the process runs: a file that is copied there need not be told of.
    """
    folder = tmp_path / "more"
    (folder / "loras" / "people").mkdir(parents=True)
    (folder / "embeddings").mkdir()
    save_file({"a": torch.zeros(1)}, folder / "loras" / "people" / "anna.safetensors")
    save_file({"a": torch.zeros(1)}, folder / "embeddings" / "wash.safetensors")
    environ = environ_of(tmp_path, models_folder)
    environ["PICTOR_MODEL_FOLDERS"] += f":{folder}"
    async with (
        neighbours(environ) as bound,
        worker_beside(bound, service_token(tmp_path)) as one,
        asyncio.timeout(30),
    ):
        listed = catalog_service_pb2.ListAdaptersResponse()
        while not listed.adapters:
            await asyncio.sleep(0.05)
            listed = await one.catalog.ListAdapters(catalog_service_pb2.ListAdaptersRequest())

    assert list(listed.adapters) == ["anna"]
    assert list(listed.embeddings) == ["wash"]


async def test_acceleration_that_cannot_be_had_is_reported(models_folder, tmp_path):
    """
    The catalog says FAILED, which profile was asked for, and what there is.
    """
    environ = environ_of(tmp_path, models_folder)
    catalog = tmp_path / "models.toml"
    catalog.write_text(
        catalog.read_text().replace(
            "\n[models.limits]", 'acceleration = ["turbo"]\n[models.limits]'
        )
    )
    async with (
        neighbours(environ) as bound,
        worker_beside(bound, service_token(tmp_path)) as one,
        asyncio.timeout(60),
    ):
        await one.until(serving_pb2.ServingStatus.STATE_FAILED)
        status = await one.status()

    assert status.detail == (
        "the weights of models/tiny cannot be loaded: its record asks for acceleration 'turbo':"
        " there is no such profile; there are attention, channels-last, compile,"
        " first-block-cache, fp8-weights"
    )


async def test_weights_that_cannot_be_loaded_are_reported(engine, tmp_path):
    """
    The catalog says FAILED, and why.
    """
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (folder / "code.py").touch()
    async with (
        neighbours(environ_of(tmp_path, tmp_path / "models")) as bound,
        worker_beside(bound, service_token(tmp_path)) as one,
        asyncio.timeout(60),
    ):
        await one.until(serving_pb2.ServingStatus.STATE_FAILED)
        status = await one.status()

    assert status.detail == (
        "the weights of models/tiny cannot be loaded: code.py is not data;"
        " only .safetensors weights are read"
    )


async def test_models_take_turns_in_a_memory_for_one(engine, models_folder, tmp_path):
    """
    The second one waits for a job, is loaded then in the first one's place, and what an operator
    stops is given up.
    """
    save_tiny_model(models_folder / "other")
    for file in (models_folder / "other").glob("*/*.safetensors"):
        tensors = {key: tensor + 0.001 for key, tensor in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    environ = environ_of(tmp_path, models_folder)
    entry = CATALOG.replace('"tiny"', '"other"')
    (tmp_path / "models.toml").write_text(CATALOG + entry)
    size = sum(f.stat().st_size for f in (models_folder / "tiny").glob("*/*.safetensors"))
    environ["PICTOR_DEVICE_MEMORY"] = str(int(1.2 * size))
    async with (
        neighbours(environ) as bound,
        worker_beside(bound, service_token(tmp_path)) as worker,
        asyncio.timeout(60),
    ):
        await worker.until(READY)
        await worker.until(ON_DEMAND, "models/other")
        drawn = await worker.draw(generation_of(), model="other")
        await worker.until(ON_DEMAND)
        await worker.until(READY, "models/other")
        await worker.catalog.UpdateServing(
            catalog_service_pb2.UpdateServingRequest(model="models/other", desired_replicas=0)
        )
        await worker.until(STOPPED, "models/other")
        again = await worker.draw(generation_of())

    assert drawn.job_result.timings.load.ToNanoseconds() > 0
    assert again.job_result.images
