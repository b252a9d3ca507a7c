from typing import ClassVar

from gateway.dialects.nebula import DIALECT
from tests.gateway.dialect_conformance import DialectConformance
from tests.gateway.house import SERVED


class TestConformance(DialectConformance):
    """What every dialect must do."""

    dialect = DIALECT
    good_body: ClassVar = {"prompt": "a red circle", "model": SERVED}

    def assert_envelope(self, body, status):
        assert (body["status"], body["object"], body["data"]) == ("failed", "list", [])
        assert body["message"]
