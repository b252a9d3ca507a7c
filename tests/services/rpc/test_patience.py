"""Work that waits for a part of the suite that is being started again."""

import pytest
from structlog.testing import capture_logs

from services.rpc.errors import Unavailable, invalid
from services.rpc.patience import outlast

PROMPT = "nobody may read this"


class Away:
    """Is away for some calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    async def draw(self, prompt: str) -> str:
        self.left -= 1
        if self.left >= 0:
            raise Unavailable("is being started again")
        return prompt


async def test_what_comes_back_is_waited_for():
    """
    A restart in between is no failure.
    """
    away = Away(2)

    assert await outlast(lambda: away.draw(PROMPT)) == PROMPT


async def test_what_stays_away_is_told():
    """
    After a while the caller learns of it.
    """
    away = Away(1000)
    with pytest.raises(Unavailable):
        await outlast(lambda: away.draw(PROMPT), away_seconds=0.3)


async def test_what_is_wrong_is_not_tried_again():
    """
    A refusal is an answer.
    """
    calls = []

    async def refuse():
        calls.append(1)
        raise invalid("prompt", "prompt is empty")

    with pytest.raises(Exception, match="prompt is empty"):
        await outlast(refuse)
    assert len(calls) == 1


async def test_what_is_tried_again_is_not_logged():
    """
    The log says that something is tried again, and not the job with its prompt.
    """
    away = Away(1)
    with capture_logs() as logs:
        await outlast(lambda: away.draw(PROMPT))

    assert [line["event"] for line in logs] == ["stamina.retry_scheduled"]
    assert PROMPT not in repr(logs)
