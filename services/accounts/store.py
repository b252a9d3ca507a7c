"""The database of accounts, API keys and credits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Select,
    SmallInteger,
    String,
    Table,
    Text,
    and_,
    case,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from pictor.accounts.v1.account_pb2 import Account as AccountMessage
from pictor.accounts.v1.ledger_pb2 import Hold as HoldMessage
from pictor.accounts.v1.ledger_pb2 import LedgerEntry
from services.accounts.account import Account
from services.accounts.api_key import ApiKey
from services.database import Database, open_database
from services.paging import Position
from services.rpc.limits import Limits

TABLES = MetaData()
_accounts = Table(
    "accounts",
    TABLES,
    Column("id", String(32), primary_key=True),
    Column("display_name", String(63), nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("billing", SmallInteger, nullable=False),
    Column("balance", BigInteger, nullable=False),
    # NULL where the suite's setting holds.
    Column("requests_per_minute", Integer),
    Column("unfinished_jobs", Integer),
    Column("queued_jobs", Integer),
    Index("accounts_by_age", "create_time", "id"),
)
_api_keys = Table(
    "api_keys",
    TABLES,
    Column("id", String(32), primary_key=True),
    Column("account_id", String(32), ForeignKey("accounts.id"), nullable=False),
    Column("prefix", String(12), nullable=False, unique=True),
    Column("sha256", String(64), nullable=False),
    Column("display_name", String(63), nullable=False),
    Column("scopes", String(200), nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("expire_time", BigInteger),
    Column("revoke_time", BigInteger),
    Index("api_keys_by_age", "create_time", "id"),
    Index("api_keys_of_account", "account_id", "create_time", "id"),
)

_preferences = Table(
    "preferences",
    TABLES,
    Column("owner", String(100), primary_key=True),
    Column("dialect", String(40), primary_key=True),
    Column("choices", Text, nullable=False),
)
_ledger = Table(
    "ledger",
    TABLES,
    # SQLite counts only INTEGER by itself.
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("account_id", String(32), ForeignKey("accounts.id"), nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("job", String(64)),
    Column("request_id", String(100)),
    Column("create_time", BigInteger, nullable=False),
    Index("ledger_of_account", "account_id", "sequence"),
    Index("ledger_by_request", "account_id", "request_id", unique=True),
)
_holds = Table(
    "holds",
    TABLES,
    Column("job", String(64), primary_key=True),
    Column("account_id", String(32), ForeignKey("accounts.id"), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("hold_time", BigInteger, nullable=False),
    Index("holds_by_state", "state", "hold_time", "job"),
    Index("holds_of_account", "account_id", "state"),
)
_webhook_secrets = Table(
    "webhook_secrets",
    TABLES,
    Column("account_id", String(32), ForeignKey("accounts.id"), primary_key=True),
    Column("secret", String(100), nullable=False),
    Column("previous", String(100), nullable=False),
    Column("rotate_time", BigInteger, nullable=False),
)
# What fits into a BigInteger, with room for what is held and comes back.
LARGEST_BALANCE = 4 * 10**18


@dataclass(frozen=True)
class Entry:
    """
    One line of a ledger.

    Attributes:
        kind: As LedgerEntry.Kind numbers it.
        amount: What it adds to the balance, in micro-credits.
        cost: What was spent, in micro-credits; of a capture.
        create_time: Microseconds since the epoch.
    """

    sequence: int
    account_id: str
    kind: int
    amount: int
    cost: int
    job: str | None
    request_id: str | None
    create_time: int


@dataclass(frozen=True)
class Hold:
    """
    What was set aside for a job.

    Attributes:
        amount: In micro-credits.
        state: As ledger_pb2.Hold.State numbers it.
        hold_time: When it was last asked for, in microseconds since the epoch.
    """

    job: str
    account_id: str
    amount: int
    state: int
    hold_time: int

    @property
    def position(self) -> Position:
        """The place in a list, oldest first."""
        return self.hold_time, self.job


class _Refused(Exception):
    """Undoes a transaction."""


class Store:
    """Reads and writes accounts, keys and credits; each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def close(self) -> None:
        """Give the connections back."""
        await self._database.close()

    async def add_account(self, account: Account) -> None:
        """Keep a new account."""
        async with self._database.begin() as connection:
            await connection.execute(insert(_accounts).values(_account_values(account)))

    async def add_first(self, account: Account, key: ApiKey) -> None:
        """Keep the first account together with its key."""
        async with self._database.begin() as connection:
            await connection.execute(insert(_accounts).values(_account_values(account)))
            await connection.execute(insert(_api_keys).values(_key_values(key)))

    async def account(self, account_id: str) -> Account | None:
        """Read one account."""
        query = select(_accounts).where(_accounts.c.id == account_id)
        async with self._database.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return _account(row) if row else None

    async def has_accounts(self) -> bool:
        """Tell whether there is any account."""
        query = select(func.count()).select_from(select(_accounts.c.id).limit(1).subquery())
        async with self._database.connect() as connection:
            return bool(await connection.scalar(query))

    async def accounts(self, limit: int, after: Position | None) -> list[Account]:
        """Read accounts, oldest first, behind *after*."""
        query = _page(select(_accounts), _accounts, limit, after)
        async with self._database.connect() as connection:
            return [_account(row) for row in await connection.execute(query)]

    async def add_key(self, key: ApiKey) -> None:
        """Keep a new key."""
        async with self._database.begin() as connection:
            await connection.execute(insert(_api_keys).values(_key_values(key)))

    async def key_by_prefix(self, prefix: str) -> ApiKey | None:
        """Read the key with this prefix."""
        query = select(_api_keys).where(_api_keys.c.prefix == prefix)
        async with self._database.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return _key(row) if row else None

    async def key(self, account_id: str, key_id: str) -> ApiKey | None:
        """Read one key."""
        this = (_api_keys.c.id == key_id) & (_api_keys.c.account_id == account_id)
        async with self._database.connect() as connection:
            row = (await connection.execute(select(_api_keys).where(this))).one_or_none()
        return _key(row) if row else None

    async def keys(
        self, account_id: str | None, limit: int, after: Position | None
    ) -> list[ApiKey]:
        """Read keys of one account, or of all (None), oldest first, behind *after*."""
        query = _page(select(_api_keys), _api_keys, limit, after)
        if account_id is not None:
            query = query.where(_api_keys.c.account_id == account_id)
        async with self._database.connect() as connection:
            return [_key(row) for row in await connection.execute(query)]

    async def revoke(self, account_id: str, key_id: str, moment: int) -> ApiKey | None:
        """Revoke a key, unless it is revoked already, and return it; None if there is none."""
        this = (_api_keys.c.id == key_id) & (_api_keys.c.account_id == account_id)
        async with self._database.begin() as connection:
            await connection.execute(
                update(_api_keys)
                .where(this, _api_keys.c.revoke_time.is_(None))
                .values(revoke_time=moment)
            )
            row = (await connection.execute(select(_api_keys).where(this))).one_or_none()
        return _key(row) if row else None

    async def preferences(self, owner: str, dialect: str) -> str:
        """Read what an owner has chosen; empty where nothing was."""
        query = select(_preferences.c.choices).where(_of(owner, dialect))
        async with self._database.connect() as connection:
            return await connection.scalar(query) or ""

    async def change_preferences(
        self, owner: str, dialect: str, change: Callable[[str], str]
    ) -> str:
        """Replace what an owner has chosen by what *change* makes of it, and return that."""
        this = _of(owner, dialect)
        async with self._database.begin() as connection:
            # Writing first takes the lock: of two changes at once, the second sees the first.
            changed = await connection.execute(
                update(_preferences).where(this).values(choices=_preferences.c.choices)
            )
            if not changed.rowcount:
                row = {"owner": owner, "dialect": dialect, "choices": ""}
                await connection.execute(insert(_preferences).values(row))
            before = await connection.scalar(select(_preferences.c.choices).where(this))
            after = change(before or "")
            await connection.execute(update(_preferences).where(this).values(choices=after))
        return after

    async def set_billing(self, account_id: str, billing: int) -> Account | None:
        """Change how an account is billed, and return it; None if there is none."""
        this = _accounts.c.id == account_id
        async with self._database.begin() as connection:
            await connection.execute(update(_accounts).where(this).values(billing=billing))
            row = (await connection.execute(select(_accounts).where(this))).one_or_none()
        return _account(row) if row else None

    async def set_limits(self, account_id: str, limits: Limits) -> Account | None:
        """Change how much an account may take, and return it; None if there is none."""
        this = _accounts.c.id == account_id
        async with self._database.begin() as connection:
            await connection.execute(update(_accounts).where(this).values(vars(limits)))
            row = (await connection.execute(select(_accounts).where(this))).one_or_none()
        return _account(row) if row else None

    async def granted(self, account_id: str, request_id: str) -> int | None:
        """Read how much a request has given; None if it has given nothing yet."""
        query = select(_ledger.c.amount).where(
            _ledger.c.account_id == account_id, _ledger.c.request_id == request_id
        )
        async with self._database.connect() as connection:
            return await connection.scalar(query)

    async def grant(self, account_id: str, amount: int, request_id: str, moment: int) -> bool:
        """Give credits; False if the request has given some already, or they do not fit."""
        fits = _accounts.c.balance <= LARGEST_BALANCE - amount
        try:
            async with self._database.begin() as connection:
                await _add(connection, account_id, amount, fits)
                await _write(
                    connection,
                    account_id,
                    moment,
                    kind=LedgerEntry.KIND_GRANT,
                    amount=amount,
                    request_id=request_id,
                )
        except (IntegrityError, _Refused):
            return False
        return True

    async def entries(self, account_id: str, limit: int, before: int | None) -> list[Entry]:
        """Read an account's ledger, newest first, behind the entry *before*."""
        query = select(_ledger).where(_ledger.c.account_id == account_id)
        if before is not None:
            query = query.where(_ledger.c.sequence < before)
        query = query.order_by(_ledger.c.sequence.desc()).limit(limit)
        async with self._database.connect() as connection:
            return [Entry(**row._mapping) for row in await connection.execute(query)]  # noqa: SLF001 - SQLAlchemy's public name for it

    async def held(self, account_id: str) -> int:
        """Add up what is set aside for an account's jobs."""
        query = select(func.sum(_holds.c.amount)).where(
            _holds.c.account_id == account_id, _holds.c.state == HoldMessage.STATE_HELD
        )
        async with self._database.connect() as connection:
            return int(await connection.scalar(query) or 0)

    async def hold(self, account_id: str, job: str, amount: int, moment: int) -> Hold | None:
        """
        Set credits aside; of a hold that is there already only the time changes.

        Returns:
            The job's hold, which may be another one: of another account, of another amount, or
            captured. None if the balance does not cover it.
        """
        try:
            async with self._database.begin() as connection:
                if await _hold_again(connection, account_id, job, amount, moment):
                    await _add(connection, account_id, -amount, _covers(amount))
                    await _write(
                        connection,
                        account_id,
                        moment,
                        kind=LedgerEntry.KIND_HOLD,
                        amount=-amount,
                        job=job,
                    )
                return await _hold_of(connection, job)
        except IntegrityError:
            # It came up meanwhile.
            async with self._database.connect() as connection:
                return await _hold_of(connection, job)
        except _Refused:
            return None

    async def settle(
        self, job: str, state: int, held_until: int | None, moment: int
    ) -> tuple[Hold | None, bool]:
        """
        Capture or release what is held for a job.

        Args:
            job: Its name.
            state: CAPTURED or RELEASED.
            held_until: Leave a hold that was asked for later.
            moment: What time it is.

        Returns:
            The job's hold if it has one, and whether this has settled it.
        """
        waits = and_(_holds.c.job == job, _holds.c.state == HoldMessage.STATE_HELD)
        if held_until is not None:
            waits = and_(waits, _holds.c.hold_time <= held_until)
        async with self._database.begin() as connection:
            changed = await connection.execute(update(_holds).where(waits).values(state=state))
            hold = await _hold_of(connection, job)
            if hold is None or not changed.rowcount:
                return hold, False
            captured = state == HoldMessage.STATE_CAPTURED
            if not captured:
                await _add(connection, hold.account_id, hold.amount)
            await _write(
                connection,
                hold.account_id,
                moment,
                kind=LedgerEntry.KIND_CAPTURE if captured else LedgerEntry.KIND_RELEASE,
                amount=0 if captured else hold.amount,
                cost=hold.amount if captured else 0,
                job=job,
            )
        return hold, True

    async def holds(
        self, before_time: int | None, limit: int, after: Position | None
    ) -> list[Hold]:
        """Read the holds that wait, oldest first, behind *after*."""
        key = (_holds.c.hold_time, _holds.c.job)
        query = select(_holds).where(_holds.c.state == HoldMessage.STATE_HELD)
        if before_time is not None:
            query = query.where(_holds.c.hold_time < before_time)
        if after:
            query = query.where(tuple_(*key) > after)
        async with self._database.connect() as connection:
            rows = await connection.execute(query.order_by(*key).limit(limit))
            return [Hold(**row._mapping) for row in rows]  # noqa: SLF001 - SQLAlchemy's public name for it

    async def rotate_webhook_secret(self, account_id: str, secret: str, moment: int) -> bool:
        """Replace an account's secret, which becomes the previous one; False if there was none."""
        this = _webhook_secrets.c.account_id == account_id
        values = {"secret": secret, "rotate_time": moment}
        async with self._database.begin() as connection:
            replaced = await connection.execute(
                update(_webhook_secrets)
                .where(this)
                .values(previous=_webhook_secrets.c.secret, **values)
            )
            if not replaced.rowcount:
                first = {"account_id": account_id, "previous": "", **values}
                await connection.execute(insert(_webhook_secrets).values(first))
        return bool(replaced.rowcount)

    async def webhook_secrets(self, account_id: str) -> tuple[str, str, int] | None:
        """Read an account's secret, the previous one, and when it was replaced."""
        query = select(_webhook_secrets).where(_webhook_secrets.c.account_id == account_id)
        async with self._database.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return (row.secret, row.previous, row.rotate_time) if row else None

    async def unbalanced(self, limit: int) -> list[str]:
        """List the ids of accounts whose ledger does not add up to balance and holds."""
        moved = or_(
            _ledger.c.kind == LedgerEntry.KIND_HOLD, _ledger.c.kind == LedgerEntry.KIND_RELEASE
        )
        sums = (
            select(
                _ledger.c.account_id,
                func.sum(_ledger.c.amount).label("balance"),
                (
                    -func.sum(case((moved, _ledger.c.amount), else_=0)) - func.sum(_ledger.c.cost)
                ).label("held"),
            )
            .group_by(_ledger.c.account_id)
            .subquery()
        )
        held = (
            select(_holds.c.account_id, func.sum(_holds.c.amount).label("held"))
            .where(_holds.c.state == HoldMessage.STATE_HELD)
            .group_by(_holds.c.account_id)
            .subquery()
        )
        query = (
            select(_accounts.c.id)
            .outerjoin(sums, sums.c.account_id == _accounts.c.id)
            .outerjoin(held, held.c.account_id == _accounts.c.id)
            .where(
                or_(
                    _accounts.c.balance < 0,
                    _accounts.c.balance != func.coalesce(sums.c.balance, 0),
                    func.coalesce(held.c.held, 0) != func.coalesce(sums.c.held, 0),
                )
            )
        )
        async with self._database.connect() as connection:
            return list((await connection.scalars(query.limit(limit))).all())


async def open_store(url: str) -> Store:
    """Open the database at a SQLAlchemy URL, and bring its tables up to date."""
    return Store(await open_database(url, "accounts"))


def _covers(amount: int) -> ColumnElement[bool]:
    prepaid = _accounts.c.billing == AccountMessage.BILLING_PREPAID
    return and_(prepaid, _accounts.c.balance >= amount)


async def _add(
    connection: AsyncConnection,
    account_id: str,
    amount: int,
    condition: ColumnElement[bool] | None = None,
) -> None:
    """Change a balance; _Refused if the condition does not hold."""
    this = _accounts.c.id == account_id
    where = this if condition is None else and_(this, condition)
    changed = await connection.execute(
        update(_accounts).where(where).values(balance=_accounts.c.balance + amount)
    )
    if changed.rowcount != 1:
        raise _Refused


async def _write(connection: AsyncConnection, account_id: str, moment: int, **values: Any) -> None:
    entry = {"cost": 0, "job": None, "request_id": None, **values}
    await connection.execute(
        insert(_ledger).values(account_id=account_id, create_time=moment, **entry)
    )


async def _hold_again(
    connection: AsyncConnection, account_id: str, job: str, amount: int, moment: int
) -> bool:
    """
    Make a job's hold, or renew it.

    Returns:
        Whether the credits are still to be taken from the balance.
    """
    own = and_(_holds.c.job == job, _holds.c.account_id == account_id)
    same = and_(own, _holds.c.state == HoldMessage.STATE_HELD, _holds.c.amount == amount)
    renewed = await connection.execute(update(_holds).where(same).values(hold_time=moment))
    if renewed.rowcount:
        return False
    values = {"amount": amount, "state": HoldMessage.STATE_HELD, "hold_time": moment}
    given_back = and_(own, _holds.c.state == HoldMessage.STATE_RELEASED)
    revived = await connection.execute(update(_holds).where(given_back).values(values))
    if not revived.rowcount:
        await connection.execute(insert(_holds).values(job=job, account_id=account_id, **values))
    return True


async def _hold_of(connection: AsyncConnection, job: str) -> Hold | None:
    row = (await connection.execute(select(_holds).where(_holds.c.job == job))).one_or_none()
    return Hold(**row._mapping) if row else None  # noqa: SLF001 - SQLAlchemy's public name for it


def _of(owner: str, dialect: str) -> ColumnElement[bool]:
    return (_preferences.c.owner == owner) & (_preferences.c.dialect == dialect)


def _page(query: Select[Any], table: Table, limit: int, after: Position | None) -> Select[Any]:
    key = (table.c.create_time, table.c.id)
    if after:
        query = query.where(tuple_(*key) > after)
    return query.order_by(*key).limit(limit)


def _account_values(account: Account) -> dict[str, Any]:
    return dict(vars(account))


def _account(row: Any) -> Account:
    return Account(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it


def _key_values(key: ApiKey) -> dict[str, Any]:
    return {**vars(key), "scopes": " ".join(key.scopes)}


def _key(row: Any) -> ApiKey:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return ApiKey(**{**values, "scopes": tuple(values["scopes"].split())})
