from typing import ClassVar

from gateway.dialects.gemini import DIALECT
from tests.gateway.dialect_conformance import DialectConformance
from tests.gateway.house import SERVED

TURN = {"contents": [{"parts": [{"text": "a red circle"}]}]}


class TestConformance(DialectConformance):
    """What every dialect must do."""

    dialect = DIALECT
    good_body: ClassVar = TURN
    good_requests: ClassVar = {
        f"POST /{version}/models/{{model:path}}:{method}": {
            "url": f"/{version}/models/{SERVED}:{method}",
            "json": {"instances": [{"prompt": "a"}]} if method == "predict" else TURN,
        }
        for version in ("v1", "v1beta")
        for method in ("generateContent", "streamGenerateContent", "predict")
    }

    def assert_envelope(self, body, status):
        assert set(body) == {"error"}
        assert set(body["error"]) == {"code", "message", "status"}
        assert body["error"]["code"] == status
        assert body["error"]["status"].isupper()
