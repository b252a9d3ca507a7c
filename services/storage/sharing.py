"""Assets by URL: who may open what, and where the bytes are."""

from pictor.errors.v1 import error_reason_pb2
from services.rpc.errors import NotFound, invalid
from services.rpc.principals import caller
from services.storage.asset import Asset, Visibility, asset_expired, asset_id, asset_missing
from services.storage.assets import Assets
from services.storage.urls import AssetUrls
from services.timestamps import MICROSECONDS, now

DEFAULT_SECONDS = 3600
MOST_SECONDS = 7 * 24 * 3600
# Of the back end's own URLs: who is sent there goes at once.
REDIRECT_SECONDS = 300


class SharedAssets:
    """
    Opens assets to whoever has their URL.

    Args:
        assets: Which.
        urls: Who signs.
        redirects: Send readers to the back end, where it has URLs of its own.
    """

    def __init__(self, assets: Assets, urls: AssetUrls, *, redirects: bool) -> None:
        self._assets = assets
        self._urls = urls
        self._redirects = redirects

    @property
    def base_url(self) -> str:
        """The URL of the gateway, without a slash at its end."""
        return self._urls.base_url

    async def sign(self, name: str, seconds: float | None) -> tuple[str, int]:
        """
        Make a URL that opens one of the caller's assets.

        Args:
            name: Of the asset.
            seconds: How long it is good; None for an hour.

        Returns:
            The URL, and when it stops, in seconds since the epoch.

        Raises:
            InvalidRequest: If *seconds* is out of range.
            NotFound: If there is none of this name for the caller, or it has expired.
        """
        seconds = DEFAULT_SECONDS if seconds is None else seconds
        if not 1 <= seconds <= MOST_SECONDS:
            raise invalid(
                "ttl",
                f"ttl {seconds:g} s is out of range; give 1 s to {MOST_SECONDS} s (7 days)",
                error_reason_pb2.ERROR_REASON_FIELD_OUT_OF_RANGE,
            )
        asset = await self._assets.get(name)
        if asset.expired(now()):
            raise asset_expired(name)
        expires = now() // MICROSECONDS + int(seconds)
        if asset.expire_time is not None:
            expires = min(expires, asset.expire_time // MICROSECONDS)
        return self._urls.signed(asset, expires), expires

    async def resolve(
        self, name: str, method: str, expires: str, signature: str
    ) -> tuple[Asset, str]:
        """
        Find what a request for an asset's URL may have.

        Returns:
            The asset, and the back end's URL of its bytes if they are a file, or if readers are
            sent there.

        Raises:
            PermissionDenied: If it is signed, and not by us.
            NotFound: If there is no such asset, it is private and the URL not signed, or it has
                expired.
        """
        if caller().account or not caller().is_service:
            raise _for_the_suite_only()
        is_signed = bool(expires or signature)
        if is_signed:
            # Before the asset is looked for: a forged URL must not tell whether there is one.
            self._urls.check(asset_id(name), method, expires, signature)
        asset = await self._assets.get(name)
        if not is_signed and asset.visibility != Visibility.VISIBILITY_PUBLIC:
            raise asset_missing(name)
        if asset.expired(now()):
            raise asset_expired(name)
        if not (self._redirects or self._assets.on_disk):
            return asset, ""
        # What is signed for less is not opened for longer elsewhere.
        left = int(expires) - now() // MICROSECONDS if is_signed else REDIRECT_SECONDS
        return asset, await self._assets.url(asset, max(1, min(left, REDIRECT_SECONDS)))


def _for_the_suite_only() -> NotFound:
    return NotFound("only the suite itself resolves assets; read them by name")
