"""The settings that every process of the suite reads."""

import pathlib
from dataclasses import dataclass

from services.rpc.settings import address, choice, directory, setting, url


@dataclass(frozen=True)
class ProcessSettings:
    """
    Where the parts of the suite find each other, and how they log.

    Raises:
        SettingError: From ``settings.read``, if a value breaks its rule.
    """

    data_dir: pathlib.Path = setting(
        "PICTOR_DATA_DIR",
        "./data",
        directory,
        "Folder of databases, assets, keys and the service token.",
    )
    http_address: str = setting(
        "PICTOR_HTTP_ADDRESS",
        "127.0.0.1:8000",
        address,
        "Where the REST gateway listens; port 0 for any.",
    )
    accounts_address: str = setting(
        "PICTOR_ACCOUNTS_ADDRESS", "127.0.0.1:50051", address, "Where the accounts service listens."
    )
    catalog_address: str = setting(
        "PICTOR_CATALOG_ADDRESS", "127.0.0.1:50052", address, "Where the catalog service listens."
    )
    inference_address: str = setting(
        "PICTOR_INFERENCE_ADDRESS",
        "127.0.0.1:50053",
        address,
        "Where the inference service listens.",
    )
    storage_address: str = setting(
        "PICTOR_STORAGE_ADDRESS", "127.0.0.1:50054", address, "Where the storage service listens."
    )
    public_url: str = setting(
        "PICTOR_PUBLIC_URL",
        "",
        url,
        "URL under which clients reach the gateway; empty: http:// and PICTOR_HTTP_ADDRESS.",
    )
    log_level: str = setting(
        "PICTOR_LOG_LEVEL",
        "info",
        choice("debug", "info", "warning", "error"),
        "Least level that is logged.",
    )
    log_form: str = setting(
        "PICTOR_LOG_FORM",
        "console",
        choice("console", "json"),
        "Log lines for people or for machines.",
    )

    @property
    def base_url(self) -> str:
        """The URL under which clients reach the gateway, without a slash at its end."""
        return self.public_url or f"http://{self.http_address}"
