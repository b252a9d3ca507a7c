"""
What the inference service reads from the environment.

A module of its own, because the suite opens the executor before it imports the rest of the service.
"""

import ipaddress
from dataclasses import dataclass

from services.rpc.process import ProcessSettings
from services.rpc.settings import count, duration, natural, seconds, setting

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(text: str) -> tuple[Network, ...]:
    """Parse networks, separated by commas: ``10.0.0.0/8, fd00::/8``."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


@dataclass(frozen=True)
class Settings(ProcessSettings):
    """
    The settings of the inference service.

    Raises:
        SettingError: From ``settings.read``, if a value breaks its rule.
    """

    inference_database_url: str = setting(
        "PICTOR_INFERENCE_DATABASE_URL",
        "",
        str,
        "SQLAlchemy URL of the jobs; empty: inference.db in PICTOR_DATA_DIR.",
    )
    executor: str = setting(
        "PICTOR_EXECUTOR", "local", str, "Where jobs run: a file's name in executors/."
    )
    max_attempts: int = setting(
        "PICTOR_JOB_ATTEMPTS",
        "3",
        count,
        "How often a job is started before a lost device fails it; the last time alone.",
    )
    idempotency_hours: float = setting(
        "PICTOR_IDEMPOTENCY_HOURS",
        "24",
        seconds,
        "How long an idempotency key is remembered, in hours.",
    )
    retention_days: float = setting(
        "PICTOR_JOB_RETENTION_DAYS",
        "0",
        duration,
        "How many days jobs and their images are kept after their end; 0: for ever.",
    )
    account_jobs: int = setting(
        "PICTOR_ACCOUNT_JOBS",
        "0",
        natural,
        "How many jobs of an account may be unfinished, queued or running; 0: any number.",
    )
    account_queue: int = setting(
        "PICTOR_ACCOUNT_QUEUE",
        "0",
        natural,
        "How many jobs of an account may wait for a device; 0: any number.",
    )
    queue: int = setting(
        "PICTOR_QUEUE", "10000", natural, "How many jobs may wait in all; 0: any number."
    )
    heartbeat_seconds: float = setting(
        "PICTOR_HEARTBEAT_SECONDS",
        "2",
        seconds,
        "How often the service tells its database that it lives.",
    )
    lease_seconds: float = setting(
        "PICTOR_LEASE_SECONDS",
        "6",
        seconds,
        "After so long without a heartbeat, jobs are given to others; above the heartbeat.",
    )
    reconcile_seconds: float = setting(
        "PICTOR_RECONCILE_SECONDS",
        "60",
        seconds,
        "After so long, what a lost process held or was about to charge is settled by another.",
    )
    time_limit_seconds: float = setting(
        "PICTOR_JOB_TIME_LIMIT",
        "1800",
        seconds,
        "How long one attempt at a job may take, in seconds.",
    )
    webhook_networks: tuple[Network, ...] = setting(
        "PICTOR_WEBHOOK_NETWORKS",
        "",
        networks,
        "Networks to which webhooks go although they are not public, separated by commas.",
    )
