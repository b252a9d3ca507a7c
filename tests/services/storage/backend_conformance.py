"""
What every storage back end must do.

A back end's test subclasses ``BackendConformance`` and gives two fixtures: ``backend``, an empty
back end, and ``age``, which makes the bytes under a key look an hour and a minute old.
"""

import asyncio
import contextlib
import secrets

import pytest

from services.storage.backend import CHUNK_BYTES, KeyMissing, KeyTaken

FAR = 2**40


async def send(*chunks):
    for chunk in chunks:
        yield chunk


async def read(backend, key, offset=0, length=FAR):
    return b"".join([chunk async for chunk in backend.read(key, offset, length)])


class BackendConformance:
    """The contract of services.storage.backend.StorageBackend, as tests."""

    @pytest.fixture
    def key(self):
        return secrets.token_hex(16)

    async def test_what_is_put_can_be_read(self, backend, key):
        """
        The bytes of all chunks come back in order, and their number is known.
        """
        assert await backend.put(key, send(b"abc", b"", b"def")) == 6
        assert await read(backend, key) == b"abcdef"
        assert await backend.size(key) == 6

    @pytest.mark.parametrize(
        ("offset", "length", "expected"),
        [(0, 2, b"ab"), (2, 3, b"cde"), (4, 100, b"ef"), (6, 1, b""), (9, 1, b""), (1, 0, b"")],
    )
    async def test_a_range_can_be_read(self, backend, key, offset, length, expected):
        """
        A range gives the bytes that lie in it, and none behind the end.
        """
        await backend.put(key, send(b"abcdef"))

        assert await read(backend, key, offset, length) == expected

    async def test_chunks_are_bounded(self, backend, key):
        """
        However much was put at once, what is read comes in pieces of at most 256 KiB.
        """
        data = secrets.token_bytes(3 * CHUNK_BYTES + 17)
        await backend.put(key, send(data))

        chunks = [chunk async for chunk in backend.read(key, 0, FAR)]

        assert b"".join(chunks) == data
        assert max(len(chunk) for chunk in chunks) <= CHUNK_BYTES

    async def test_bytes_are_written_once(self, backend, key):
        """
        A second put under the same key is refused and changes nothing.
        """
        await backend.put(key, send(b"first"))
        with pytest.raises(KeyTaken):
            await backend.put(key, send(b"second"))

        assert await read(backend, key) == b"first"

    async def test_of_many_writers_one_wins(self, backend, key):
        """
        Of puts at the same moment one succeeds, and its bytes stay whole.
        """
        contents = [bytes([number]) * 100_000 for number in range(8)]
        results = await asyncio.gather(
            *(backend.put(key, send(content)) for content in contents), return_exceptions=True
        )

        assert [result for result in results if not isinstance(result, KeyTaken)] == [100_000]
        assert await read(backend, key) in contents

    async def test_a_put_that_fails_leaves_nothing(self, backend, key):
        """
        Nothing can be seen of bytes whose source breaks, and the key stays free.
        """

        async def breaking():
            yield b"abc"
            raise RuntimeError("the source broke")

        with pytest.raises(RuntimeError, match="the source broke"):
            await backend.put(key, breaking())

        assert await backend.size(key) is None
        assert await backend.put(key, send(b"again")) == 5

    async def test_a_put_that_is_canceled_leaves_nothing(self, backend, key):
        """
        Nothing can be seen while bytes arrive, nor after the put was canceled.
        """
        started = asyncio.Event()

        async def hanging():
            yield b"abc"
            started.set()
            await asyncio.sleep(60)

        put = asyncio.create_task(backend.put(key, hanging()))
        await started.wait()
        assert await backend.size(key) is None
        put.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await put

        assert await backend.size(key) is None

    async def test_a_missing_key_is_known_at_the_first_chunk(self, backend, key):
        """
        Reading what is not there raises KeyMissing, and its size is None.
        """
        assert await backend.size(key) is None
        with pytest.raises(KeyMissing):
            await read(backend, key)

    async def test_what_is_deleted_is_gone(self, backend, key):
        """
        Deleting removes the bytes; a second time changes nothing.
        """
        await backend.put(key, send(b"abc"))
        await backend.delete(key)
        await backend.delete(key)

        assert await backend.size(key) is None

    async def test_reading_can_stop_early(self, backend, key):
        """
        A reader that goes away gives everything back.
        """
        await backend.put(key, send(secrets.token_bytes(2 * CHUNK_BYTES)))
        async with contextlib.aclosing(backend.read(key, 0, FAR)) as chunks:
            await anext(chunks)

        await backend.delete(key)

    async def test_only_old_keys_are_listed(self, backend, age):
        """
        Keys are listed by the age of their bytes, from every part of the key space.
        """
        young, *old = (f"{number:02x}" + secrets.token_hex(15) for number in (0, 0, 127, 255))
        for name in (young, *old):
            await backend.put(name, send(b"abc"))
        for name in old:
            await age(name)

        assert sorted([name async for name in backend.keys(3600)]) == sorted(old)
        assert sorted([name async for name in backend.keys(0)]) == sorted([young, *old])

    @pytest.mark.parametrize(
        "name", ["", "..", "../" * 10 + "etc/passwd", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n"]
    )
    async def test_no_other_key_is_touched(self, backend, name):
        """
        A key that is not 32 lower-case hexadecimal digits is an error of the program.
        """
        with pytest.raises(ValueError, match="hexadecimal"):
            await backend.put(name, send(b"abc"))
        for call in (backend.size, backend.delete, lambda key: read(backend, key)):
            with pytest.raises(ValueError, match="hexadecimal"):
                await call(name)
