from typing import ClassVar

from gateway.dialects.relay import DIALECT
from tests.gateway.dialect_conformance import DialectConformance
from tests.gateway.house import SERVED, png_base64

GOOD = {"prompt": "a red circle", "model": SERVED}
EDIT = {**GOOD, "image": png_base64(), "size": "64x64"}


class TestConformance(DialectConformance):
    """What every dialect must do."""

    dialect = DIALECT
    good_body: ClassVar = GOOD
    good_requests: ClassVar = {
        f"POST /v2/image/{family}/edit": {"json": EDIT} for family in ("gpt-image", "qwen")
    }
    asynchronous: ClassVar = {"async": True}

    def assert_envelope(self, body, status):
        assert set(body["error"]) == {"message", "type", "code"}
        assert body["detail"] == body["error"]["message"]
