"""Assets as they are stored, their names, and what a caller may ask for when one is made."""

import re
from dataclasses import dataclass
from typing import NamedTuple

from pictor.errors.v1 import error_reason_pb2
from pictor.storage.v1 import asset_pb2
from services.paging import Position
from services.rpc.errors import NotFound, invalid
from services.rpc.principals import Principal
from services.timestamps import future, to_timestamp

Origin = asset_pb2.Asset.Origin
Visibility = asset_pb2.Asset.Visibility

_NAME = re.compile("assets/([0-9a-f]{32})")
_JOB = re.compile("jobs/[0-9A-Za-z_-]{1,64}")
_DEFAULT_VISIBILITY = {
    Origin.ORIGIN_UPLOADED: Visibility.VISIBILITY_PRIVATE,
    Origin.ORIGIN_GENERATED: Visibility.VISIBILITY_PUBLIC,
}


@dataclass(frozen=True)
class Asset:
    """
    One asset.

    Attributes:
        id: 32 lower-case hexadecimal digits; also the key of its bytes.
        account: The owner's name, ``accounts/{account}``.
        origin: Uploaded or generated.
        visibility: Private or public, never unspecified.
        media_type: ``image/png``, ``image/jpeg`` or ``image/webp``.
        size_bytes: The number of bytes.
        sha256: Of the bytes, in hexadecimal.
        width_px: From the image's header.
        height_px: From the image's header.
        job: ``jobs/{job}``; empty for uploaded assets.
        create_time: Microseconds since the epoch, like the one below.
        expire_time: None if the asset stays until it is deleted.
    """

    id: str
    account: str
    origin: Origin.ValueType
    visibility: Visibility.ValueType
    media_type: str
    size_bytes: int
    sha256: str
    width_px: int
    height_px: int
    job: str
    create_time: int
    expire_time: int | None

    @property
    def name(self) -> str:
        """The resource name, ``assets/{asset}``."""
        return f"assets/{self.id}"

    @property
    def position(self) -> Position:
        """The place in a list, by age."""
        return self.create_time, self.id

    def expired(self, moment: int) -> bool:
        """Tell whether only the metadata is left at *moment*."""
        return self.expire_time is not None and self.expire_time <= moment

    def visible_to(self, principal: Principal) -> bool:
        """Tell whether it exists for *principal*: the owner, or the suite on its own behalf."""
        if principal.is_service and not principal.account:
            return True
        return principal.account == self.account

    def to_message(self, base_url: str) -> asset_pb2.Asset:
        """
        Write the asset as the protos do.

        Args:
            base_url: The URL of the gateway, without a slash at its end.
        """
        public = self.visibility == Visibility.VISIBILITY_PUBLIC
        return asset_pb2.Asset(
            name=self.name,
            account=self.account,
            origin=self.origin,
            visibility=self.visibility,
            media_type=self.media_type,
            size_bytes=self.size_bytes,
            sha256=self.sha256,
            width_px=self.width_px,
            height_px=self.height_px,
            job=self.job,
            create_time=to_timestamp(self.create_time),
            expire_time=to_timestamp(self.expire_time),
            url=f"{base_url}/api/inference/assets/{self.id}/" if public else "",
        )


class Wish(NamedTuple):
    """What the maker of an asset decides about it; the rest is found from the bytes."""

    account: str
    origin: Origin.ValueType
    visibility: Visibility.ValueType
    job: str
    expire_time: int | None


def checked_wish(wanted: asset_pb2.Asset, principal: Principal) -> Wish:
    """
    Read origin, visibility, job and expire_time of an asset to be made.

    Raises:
        InvalidRequest: If one of them breaks its rule, or if *principal* acts for no account.
    """
    if not principal.account:
        raise invalid(
            "asset.account",
            "an asset needs an owner; call on behalf of an account",
            error_reason_pb2.ERROR_REASON_FIELD_REQUIRED,
        )
    origin = _checked_origin(wanted.origin, principal)
    return Wish(
        account=principal.account,
        origin=origin,
        visibility=_checked_visibility(wanted.visibility, origin),
        job=_checked_job(wanted.job, origin),
        expire_time=(
            future(wanted.expire_time, "asset.expire_time")
            if wanted.HasField("expire_time")
            else None
        ),
    )


def asset_id(name: str) -> str:
    """
    Return the id in an asset's name.

    Raises:
        InvalidRequest: If the name is empty.
        NotFound: If no asset can have it.
    """
    if not name:
        raise invalid(
            "name",
            "name is empty; give assets/{asset}",
            error_reason_pb2.ERROR_REASON_FIELD_REQUIRED,
        )
    match = _NAME.fullmatch(name)
    if not match:
        raise asset_missing(name)
    return match[1]


def asset_missing(name: str) -> NotFound:
    """Make the error of an asset that does not exist, for this caller or at all."""
    return NotFound(
        f"there is no asset {name[:100]!r}",
        reason=error_reason_pb2.ERROR_REASON_ASSET_NOT_FOUND,
        metadata={"asset": name[:100]},
    )


def asset_expired(name: str) -> NotFound:
    """Make the error of an asset of which only the metadata are left."""
    return NotFound(
        f"the asset {name[:100]!r} has expired; its bytes are gone",
        reason=error_reason_pb2.ERROR_REASON_ASSET_EXPIRED,
        metadata={"asset": name[:100]},
    )


def _checked_origin(origin: Origin.ValueType, principal: Principal) -> Origin.ValueType:
    if origin == Origin.ORIGIN_UNSPECIFIED:
        raise invalid(
            "asset.origin",
            "asset.origin is missing; give ORIGIN_UPLOADED or ORIGIN_GENERATED",
            error_reason_pb2.ERROR_REASON_FIELD_REQUIRED,
        )
    if origin not in _DEFAULT_VISIBILITY:
        raise invalid("asset.origin", f"asset.origin {origin} is unknown; there are 1 and 2")
    if origin == Origin.ORIGIN_GENERATED and not principal.is_service:
        raise invalid(
            "asset.origin",
            "only the suite itself stores ORIGIN_GENERATED; give ORIGIN_UPLOADED",
        )
    return origin


def _checked_visibility(
    visibility: Visibility.ValueType, origin: Origin.ValueType
) -> Visibility.ValueType:
    if visibility not in Visibility.values():
        raise invalid(
            "asset.visibility", f"asset.visibility {visibility} is unknown; there are 0, 1 and 2"
        )
    return visibility or _DEFAULT_VISIBILITY[origin]


def _checked_job(job: str, origin: Origin.ValueType) -> str:
    if job and origin != Origin.ORIGIN_GENERATED:
        raise invalid("asset.job", f"asset.job {job!r} is only for assets that a job drew")
    if job and not _JOB.fullmatch(job):
        raise invalid("asset.job", f"asset.job {job!r} is not a job's name; give jobs/{{job}}")
    return job
