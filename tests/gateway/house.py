"""
The gateway with real services behind it, and an executor that stores real PNG files.

Everything but the device is as in production: keys, catalog, jobs, assets, HTTP; without torch.
"""

import asyncio
import base64
import contextlib
import io
import json
import socket
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import grpc
import httpx
from PIL import Image, PngImagePlugin

from gateway import __main__ as gateway
from pictor.accounts.v1 import (
    account_pb2,
    accounts_service_pb2,
    accounts_service_pb2_grpc,
    api_key_pb2,
    limits_pb2,
)
from pictor.inference.v1 import inference_service_pb2, job_pb2, progress_pb2
from pictor.storage.v1 import asset_pb2, storage_service_pb2, storage_service_pb2_grpc
from pictor.worker.v1 import worker_pb2
from services.rpc.channels import open_channel
from services.rpc.principals import acting_for, service_token
from services.rpc.settings import read
from tests.services.inference.scripted import (
    Inference,
    ScriptedExecutor,
    inference_in,
    neighbours,
    serve_model,
)

SERVED, NOT_SERVED, EDITS = (
    "pictor/shapes",
    "black-forest-labs/FLUX.1-dev",
    "black-forest-labs/FLUX.2-dev",
)
REPORT_SECONDS = 20


def png(size=(64, 48), form="PNG", texts: Mapping[str, str] = {}) -> bytes:
    file, info = io.BytesIO(), PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    options = {"pnginfo": info} if texts else {}
    Image.linear_gradient("L").resize(size).convert("RGB").save(file, form, **options)
    return file.getvalue()


def png_base64() -> str:
    return base64.b64encode(png()).decode()


@dataclass
class DrawingExecutor(ScriptedExecutor):
    """
    Stores a picture for each image that is asked for.

    Attributes:
        storage: Where to; set once storage runs.
        previews: How many previews each attempt shows.
        texts: What the files say, by name.
    """

    storage: grpc.aio.Channel | None = None
    previews: int = 0
    texts: Mapping[str, str] = field(default_factory=dict)
    started: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, assignment: worker_pb2.Assignment) -> AsyncIterator[worker_pb2.Report]:
        self.started.set()
        for index in range(self.previews):
            preview = progress_pb2.Preview(
                preview_index=index, media_type="image/png", content=png((8, 8))
            )
            yield worker_pb2.Report(preview=preview)
            await asyncio.sleep(0.02)
        async with contextlib.aclosing(super().run(assignment)) as reports:
            async for report in reports:
                if report.WhichOneof("content") == "result":
                    yield await self._drawn(assignment)
                else:
                    yield report

    async def _drawn(self, assignment: worker_pb2.Assignment) -> worker_pb2.Report:
        wanted = assignment.generation
        images = []
        for index in range(wanted.image_count):
            asset = await self._store(assignment)
            images.append(
                job_pb2.GeneratedImage(
                    asset=asset.name,
                    url=asset.url,
                    seed=wanted.seed + index,
                    width_px=asset.width_px,
                    height_px=asset.height_px,
                    media_type=asset.media_type,
                    size_bytes=asset.size_bytes,
                    sha256=asset.sha256,
                )
            )
        result = worker_pb2.Result(job_result=job_pb2.JobResult(images=images))
        return worker_pb2.Report(result=result)

    async def _store(self, assignment: worker_pb2.Assignment) -> asset_pb2.Asset:
        size = (assignment.generation.width_px, assignment.generation.height_px)
        asset = asset_pb2.Asset(origin=asset_pb2.Asset.ORIGIN_GENERATED, job=assignment.job)
        if assignment.HasField("result_ttl"):
            asset.expire_time.FromNanoseconds(
                time.time_ns() + assignment.result_ttl.ToNanoseconds()
            )

        async def messages():
            yield storage_service_pb2.CreateAssetRequest(asset=asset)
            yield storage_service_pb2.CreateAssetRequest(chunk=png(size, texts=self.texts))

        with acting_for(assignment.account):
            return await storage_service_pb2_grpc.StorageServiceStub(self.storage).CreateAsset(
                messages()
            )


@dataclass
class House:
    """
    The gateway and what stands behind it.

    Attributes:
        url: Where the gateway listens.
        api_key: A key with every scope.
        executor: Draws.
        inference: The inference service, asked as the suite.
        environ: The settings, with the addresses that were bound.
    """

    url: str
    api_key: str
    executor: DrawingExecutor
    inference: Inference
    environ: dict[str, str]

    def client(
        self, key: str | None = None, headers: dict[str, str] | None = None, **options: object
    ) -> httpx.AsyncClient:
        """Make a client that sends an API key; an empty one sends none."""
        key = self.api_key if key is None else key
        headers = {**({"authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30, **options)

    @contextlib.asynccontextmanager
    async def accounts(self):
        address = self.environ["PICTOR_ACCOUNTS_ADDRESS"]
        async with open_channel(address, self.api_key) as channel:
            yield accounts_service_pb2_grpc.AccountsServiceStub(channel)

    async def key(
        self,
        *scopes: str,
        new_account: bool = False,
        prepaid: bool = False,
        seconds: float | None = None,
    ) -> tuple[str, str]:
        """
        Make a key, which may end after some seconds; return its secret and its name.

        It may be of a new account, which may be one that pays and has nothing.
        """
        wish = api_key_pb2.ApiKey(scopes=scopes)
        if seconds is not None:
            wish.expire_time.FromNanoseconds(int((time.time() + seconds) * 1e9))
        async with self.accounts() as stub:
            if new_account or prepaid:
                wanted = accounts_service_pb2.CreateAccountRequest()
                wanted.account.display_name = "somebody else"
                if prepaid:
                    wanted.account.billing = account_pb2.Account.BILLING_PREPAID
                account = (await stub.CreateAccount(wanted)).name
            else:
                page = await stub.ListAccounts(accounts_service_pb2.ListAccountsRequest())
                account = page.accounts[0].name
            made = await stub.CreateApiKey(
                accounts_service_pb2.CreateApiKeyRequest(parent=account, api_key=wish)
            )
        return made.secret, made.api_key.name

    async def limited_key(self, **limits: int) -> str:
        """Make an account with limits of its own; return a key's secret."""
        secret, name = await self.key("inference", new_account=True)
        request = limits_pb2.UpdateAccountLimitsRequest(
            name=name.partition("/apiKeys/")[0], limits=limits_pb2.AccountLimits(**limits)
        )
        async with self.accounts() as stub:
            await stub.UpdateAccountLimits(request)
        return secret

    async def revoke(self, name: str) -> None:
        async with self.accounts() as stub:
            await stub.RevokeApiKey(accounts_service_pb2.RevokeApiKeyRequest(name=name))

    async def declare(self, method: str, path: str, *, size_bytes: int) -> tuple[int, dict]:
        """Announce a body and send none of it; return the status and the JSON of the reply."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {self.api_key}\r\n"
            f"content-length: {size_bytes}\r\n\r\n".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        body = await reader.readexactly(length)
        writer.close()
        await writer.wait_closed()
        return int(head.split()[1]), json.loads(body)

    async def jobs(self) -> list[job_pb2.Job]:
        """Return all jobs of all accounts, newest first."""
        listed = await self.inference.stub.ListJobs(
            inference_service_pb2.ListJobsRequest(page_size=1000)
        )
        return list(listed.jobs)

    async def job(self, job_id: str) -> job_pb2.Job:
        """Return one job."""
        request = inference_service_pb2.GetJobRequest(name=f"jobs/{job_id}")
        return await self.inference.stub.GetJob(request)

    async def uploads(self) -> int:
        """Count the assets that callers have sent."""
        token = service_token(self.inference.settings.data_dir)
        async with open_channel(self.environ["PICTOR_STORAGE_ADDRESS"], token) as channel:
            listed = await storage_service_pb2_grpc.StorageServiceStub(channel).ListAssets(
                storage_service_pb2.ListAssetsRequest(page_size=1000)
            )
        return sum(asset.origin == asset_pb2.Asset.ORIGIN_UPLOADED for asset in listed.assets)

    @contextlib.contextmanager
    def held(self):
        """Let jobs start and not end within the block."""
        self.executor.gate.clear()
        self.executor.started.clear()
        try:
            yield
        finally:
            self.executor.gate.set()


def free_address() -> str:
    # Storage writes URLs before the gateway has bound a port.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextlib.asynccontextmanager
async def open_house(folder, dialects=None, **settings: str) -> AsyncIterator[House]:
    """Run everything but a device process within the block; only SERVED is served."""
    executor = DrawingExecutor()
    executor.gate.set()
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        addresses = {f"PICTOR_{part}_ADDRESS": free_address() for part in ("HTTP", "INFERENCE")}
        environ = await enter(neighbours(folder, **addresses, **settings))
        token = service_token(folder)
        executor.storage = await enter(open_channel(environ["PICTOR_STORAGE_ADDRESS"], token))
        inference = await enter(inference_in(environ, executor))
        await serve_model(environ["PICTOR_CATALOG_ADDRESS"], token, SERVED)
        reporting = asyncio.create_task(_keep_served(environ["PICTOR_CATALOG_ADDRESS"], token))
        stack.callback(reporting.cancel)
        bound = await enter(gateway.running(read(gateway.Settings, environ), dialects))
        key = (folder / "api-key").read_text().strip()
        yield House(f"http://{bound}", key, executor, inference, environ)


async def _keep_served(address: str, token: str) -> None:
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        await serve_model(address, token, SERVED)
