"""
URLs of assets: the one of a public asset, which cannot be guessed, and those that are signed.

A signature is an HMAC-SHA-256 over method, path and moment of expiry, so that none of them can be
altered. The newest key signs and all of them verify, so a key is rotated by putting a new one in
front, and the old one is taken away when the last URL that it signed has expired.
"""

import hashlib
import hmac
import pathlib
import secrets
from collections.abc import Sequence

from pictor.errors.v1 import error_reason_pb2
from services.rpc.errors import PermissionDenied
from services.rpc.principals import write_secret
from services.storage.asset import Asset
from services.timestamps import MICROSECONDS, now

KEY_FILE = "url-key"
LEAST_KEY_CHARACTERS = 16
METHODS = {"GET": "GET", "HEAD": "GET"}
MOST_DIGITS = 12


class AssetUrls:
    """
    Makes URLs of assets, and tells which of those that come back are its own.

    Args:
        base_url: The URL of the gateway, without a slash at its end.
        keys: Secrets; the first one signs.
    """

    def __init__(self, base_url: str, keys: Sequence[str]) -> None:
        self.base_url = base_url
        self._keys = [key.encode() for key in keys]

    def signed(self, asset: Asset, expires: int) -> str:
        """Return a URL that is good until *expires*, in seconds since the epoch."""
        signature = _signature(self._keys[0], "GET", asset.id, str(expires))
        path = _path(asset.id)
        return f"{self.base_url}{path}?expires={expires}&signature={signature}"

    def check(self, asset_id: str, method: str, expires: str, signature: str) -> None:
        """
        Check what a signed URL brought; *expires* and *signature* are as they stood in it.

        Raises:
            PermissionDenied: If it is not a URL that was signed here for this, or has expired.
        """
        signed = METHODS.get(method, method)
        ours = [_signature(key, signed, asset_id, expires) for key in self._keys]
        # All are compared, so that time tells nothing of which key it was.
        good = sum(hmac.compare_digest(one.encode(), signature.encode()) for one in ours)
        digits = expires.isascii() and expires.isdigit() and len(expires) <= MOST_DIGITS
        if not good or not digits or int(expires) * MICROSECONDS <= now():
            raise PermissionDenied(
                "the URL's signature is not valid, or has expired; ask for a new URL",
                reason=error_reason_pb2.ERROR_REASON_URL_SIGNATURE_INVALID,
            )


def url_keys(text: str) -> tuple[str, ...]:
    """Parse secrets, separated by commas."""
    keys = tuple(part.strip() for part in text.split(",") if part.strip())
    if any(len(key) < LEAST_KEY_CHARACTERS for key in keys):
        # Not the value: it would stand in the logs.
        raise ValueError(f"each secret must have at least {LEAST_KEY_CHARACTERS} characters")
    return keys


def own_key(data_dir: pathlib.Path) -> str:
    """Read the key of this suite, or make it on the first start."""
    path = data_dir / KEY_FILE
    if not path.exists():
        write_secret(path, secrets.token_urlsafe(32))
    return path.read_text(encoding="ascii").strip()


def _path(asset_id: str) -> str:
    return f"/api/inference/assets/{asset_id}/"


def _signature(key: bytes, method: str, asset_id: str, expires: str) -> str:
    text = f"{method}\n{_path(asset_id)}\n{expires}"
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
