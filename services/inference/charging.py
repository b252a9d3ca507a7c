"""
How jobs are paid for: the price is held before a job is durable, and settled when it has ended.

Accounts holds the credits. A crash between the hold and the job leaves a hold without a job;
``reconcile`` gives it back.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from pictor.accounts.v1 import account_pb2, accounts_service_pb2_grpc, ledger_pb2
from pictor.inference.v1 import job_pb2
from services.inference.store import CAPTURE, JobStore, OutboxMessage
from services.rpc.crash import crash_point
from services.rpc.errors import NotFound, SuiteError
from services.rpc.principals import acting_for
from services.timestamps import now, to_timestamp

# A job whose admission takes longer than this is not acknowledged any more.
ORPHAN_SECONDS = 60.0
PAGE = 1000

log = structlog.get_logger()


class Charging:
    """
    Takes credits for jobs.

    Args:
        accounts: Keeps the credits.
        store: Knows which jobs there are.
        orphan_seconds: How old a hold without a job must be before it is given back.
    """

    def __init__(
        self,
        accounts: "accounts_service_pb2_grpc.AccountsServiceAsyncStub",
        store: JobStore,
        orphan_seconds: float = ORPHAN_SECONDS,
    ) -> None:
        self._accounts = accounts
        self._store = store
        self._orphan_seconds = orphan_seconds

    async def quote(self, account: str, price: int) -> int:
        """Return what would be held: nothing where the account is not billed."""
        if not price or not account:
            return 0
        request = ledger_pb2.GetBalanceRequest(name=f"{account}/balance")
        try:
            with acting_for(""):
                balance = await self._accounts.GetBalance(request)
        except NotFound:
            # Callers without a key share an account that nobody has made.
            return 0
        return price if balance.billing == account_pb2.Account.BILLING_PREPAID else 0

    async def hold(self, job: str, account: str, price: int) -> int:
        """
        Set the price of a job aside.

        Returns:
            What is held, in micro-credits: 0 where the account is not billed.

        Raises:
            AlreadyExists: If there is such a job.
            StateConflict: With INSUFFICIENT_CREDITS.
        """
        if not price or not account:
            return 0
        request = ledger_pb2.HoldCreditsRequest(account=account, job=job, amount_microcredits=price)
        with acting_for(""):
            answer = await self._accounts.HoldCredits(request)
        crash_point("inference.after_hold")
        return answer.hold.amount_microcredits

    async def give_back(self, job: str) -> None:
        """Release at once what is held for a job that will never be; else ``reconcile`` does."""
        try:
            await self._settle(ledger_pb2.SettleHoldRequest(job=job))
        except SuiteError as error:
            log.info("charging.not_given_back", job=job, detail=error.message)

    async def settle(self, message: OutboxMessage) -> None:
        """Spend what is held for a job, or give it back; a second time changes nothing."""
        capture = message.topic == CAPTURE
        await self._settle(ledger_pb2.SettleHoldRequest(job=message.job, capture=capture))

    async def reconcile(self) -> None:
        """Settle the holds whose job has ended or never came to be, and that nobody else will."""
        before = to_timestamp(now() - int(self._orphan_seconds * 1e6))
        request = ledger_pb2.ListHoldsRequest(before_time=before, page_size=PAGE)
        while True:
            with acting_for(""):
                page = await self._accounts.ListHolds(request)
            for hold in page.holds:
                await self._reconcile(hold)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return

    @contextlib.asynccontextmanager
    async def reconciling(self) -> AsyncIterator[None]:
        """Reconcile within the block, again and again."""
        task = asyncio.create_task(self._reconcile_often())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _reconcile_often(self) -> None:
        while True:
            try:
                await self.reconcile()
            except SuiteError as error:
                log.info("charging.accounts_away", detail=error.message)
            except Exception:
                log.exception("charging.failed")
            await asyncio.sleep(self._orphan_seconds / 2)

    async def _reconcile(self, hold: ledger_pb2.Hold) -> None:
        job = await self._store.get(hold.job)
        goes_on = job is not None and job.WhichOneof("outcome") is None
        if goes_on or await self._store.is_to_be_settled(hold.job):
            return
        succeeded = job is not None and job.state == job_pb2.Job.STATE_SUCCEEDED
        log.warning("charging.orphan_settled", job=hold.job, captured=succeeded)
        await self._settle(
            ledger_pb2.SettleHoldRequest(job=hold.job, capture=succeeded, held_until=hold.hold_time)
        )

    async def _settle(self, request: ledger_pb2.SettleHoldRequest) -> None:
        with acting_for(""):
            await self._accounts.SettleHold(request)
