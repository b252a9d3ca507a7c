"""
Webhooks: who made a job is told of its end, by the Standard Webhooks scheme.

Each attempt is a POST to a public address, signed with the account's secret, and written into a log
that the account can read. Only a 2xx says that it has arrived; 410 says that nobody wants it.
"""

import asyncio
import datetime as dt
import json
import time
from collections.abc import Sequence

import httpx
import structlog
from google.protobuf import json_format
from standardwebhooks import Webhook

from pictor.accounts.v1 import accounts_service_pb2_grpc, webhook_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import job_pb2
from pictor.inference.v1 import webhook_pb2 as delivery_pb2
from services.inference.outbox import GiveUp
from services.inference.store import Delivery, JobStore, OutboxMessage
from services.outbound import GuardedTransport, Network, Refused, checked, open_client
from services.rpc.errors import StateConflict, Unavailable, invalid
from services.rpc.principals import acting_for
from services.timestamps import now, to_timestamp

SECONDS = 15.0
LONGEST_PAUSE_SECONDS = 3600.0
GIVE_UP_SECONDS = 24 * 3600.0
KEPT_US = 30 * 24 * 3600 * 1_000_000

log = structlog.get_logger()


class Webhooks:
    """
    Tells webhooks.

    Args:
        accounts: Has the secrets.
        store: Has the jobs, and the log.
        permitted: Networks that may be told although they are not public.
    """

    def __init__(
        self,
        accounts: "accounts_service_pb2_grpc.AccountsServiceAsyncStub",
        store: JobStore,
        permitted: Sequence[Network] = (),
    ) -> None:
        self._accounts = accounts
        self._store = store
        self._permitted = permitted

    async def check(self, url: str, account: str) -> None:
        """
        Insist that a webhook can be told, as far as that shows before there is anything to tell.

        Raises:
            InvalidRequest: If this is no URL to send anything to.
            StateConflict: If the account has no secret.
        """
        if not url:
            return
        try:
            checked(url)
        except Refused as refused:
            raise invalid("webhook_url", f"webhook_url is not one to tell: {refused}") from None
        if not account or not await self._secrets(account):
            raise StateConflict(
                "webhook_url is given, but the account has no secret to sign with; make one with"
                " POST /pictor/v1/accounts/me:rotateWebhookSecret",
                reason=reasons.ERROR_REASON_WEBHOOK_SECRET_MISSING,
            )

    async def deliver(self, message: OutboxMessage) -> None:
        """
        Tell the webhook of a job, and write down how that went.

        Raises:
            Unavailable: If it did not arrive.
            GiveUp: If it never will.
        """
        job = await self._store.get(message.job)
        secrets = await self._secrets(job.account) if job else []
        if job is None or not secrets:
            raise GiveUp("the job or the secret is gone")
        body = body_of(job)
        headers = signed(message.job.removeprefix("jobs/"), body, secrets)
        send_us, started = now(), time.monotonic()
        status_code, error = await self._post(job.webhook_url, body, headers)
        delivery = Delivery(
            account=job.account,
            job=job.name,
            url=job.webhook_url,
            attempt=message.attempt_count + 1,
            status_code=status_code,
            error=error,
            send_us=send_us,
            duration_us=int((time.monotonic() - started) * 1e6),
        )
        await self._store.add_delivery(delivery, now() - KEPT_US)
        if status_code == httpx.codes.GONE:
            raise GiveUp("the receiver wants no more")
        if not 200 <= status_code < 300:
            raise Unavailable(f"the webhook answered {status_code}")

    async def _secrets(self, account: str) -> list[str]:
        request = webhook_pb2.GetWebhookSecretsRequest(name=account)
        with acting_for(""):
            return list((await self._accounts.GetWebhookSecrets(request)).secrets)

    async def _post(self, url: str, body: str, headers: dict[str, str]) -> tuple[int, str]:
        """Send it; return the status, or 0 and why there is none."""
        transport = GuardedTransport(self._permitted)
        try:
            async with (
                asyncio.timeout(SECONDS),
                open_client(transport, seconds=SECONDS, redirects=0) as client,
                # What is answered is not read: only the status counts.
                client.stream("POST", url, content=body, headers=headers) as response,
            ):
                return response.status_code, ""
        except Refused as refused:
            return 0, f"refused: {refused}"[:200]
        except TimeoutError:
            return 0, f"no answer within {SECONDS:g} s"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return 0, f"no answer ({type(error).__name__})"


def body_of(job: job_pb2.Job) -> str:
    """Write what a webhook is told: which end, when, and the job as the native API shows it."""
    state = job_pb2.Job.State.Name(job.state).removeprefix("STATE_").lower()
    return json.dumps(
        {
            "type": f"job.{state}",
            "timestamp": job.finish_time.ToJsonString(),
            "data": json_format.MessageToDict(job),
        }
    )


def signed(message_id: str, body: str, secrets: Sequence[str]) -> dict[str, str]:
    """Return the headers of a message, signed with each of the secrets."""
    moment = dt.datetime.now(dt.UTC)
    signatures = [Webhook(secret).sign(message_id, moment, body) for secret in secrets]
    return {
        "content-type": "application/json",
        "user-agent": "Pictor",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def to_message(delivery: Delivery) -> delivery_pb2.WebhookDelivery:
    """Write a line of the log as the protos do."""
    message = delivery_pb2.WebhookDelivery(
        job=delivery.job,
        url=delivery.url,
        attempt=delivery.attempt,
        status_code=delivery.status_code,
        error=delivery.error,
        send_time=to_timestamp(delivery.send_us),
    )
    message.duration.FromMicroseconds(delivery.duration_us)
    return message
