"""The whole suite over mutual TLS, its device process included."""

from tests.certificates import Authority
from tests.conftest import run, suite_in_a_thread


async def test_a_picture_is_drawn_over_mutual_tls(tmp_path):
    """
    Every part finds every other; the command line does with a certificate, and not without.
    """
    authority = Authority(tmp_path / "tls")
    tls = authority.environ(mutual=True)
    with suite_in_a_thread(tmp_path / "data", **tls) as suite:
        async with suite.client() as client:
            reply = await client.post(
                "/v1/images/generations",
                json={"model": "pictor/shapes", "prompt": "a red circle", "n": 1},
            )
        environ = {**suite.environ, "PICTOR_API_KEY": suite.api_key}
        with_certificate = run("-m", "cli", "models", **environ)
        without = run("-m", "cli", "models", **{**environ, **dict.fromkeys(tls, "")})

    assert reply.status_code == 200, reply.text
    assert with_certificate.returncode == 0, with_certificate.stderr
    assert "pictor/shapes" in with_certificate.stdout
    assert without.returncode == 1
    assert "Traceback" not in without.stderr
