"""
moto's S3 in a process of its own, one call at a time, with a way to make objects old.

    python moto_process.py

prints its port. ``POST /age?key=...&seconds=...`` moves an object's date back; calls wait for each
other since moto looks whether a key is taken and then takes it, which S3 does in one step.
"""

import datetime as dt
import threading
from urllib.parse import parse_qs

from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

turn = threading.Lock()
moto = DomainDispatcherApplication(create_backend_app)


def age(query):
    key, seconds = query["key"][0], float(query["seconds"][0])
    for account in s3_backends.values():
        for region in account.values():
            for bucket in region.buckets.values():
                if key in bucket.keys:
                    bucket.keys[key].last_modified -= dt.timedelta(seconds=seconds)


def application(environ, start_response):
    with turn:
        if environ["PATH_INFO"] == "/age":
            age(parse_qs(environ["QUERY_STRING"]))
            start_response("204 No Content", [])
            return [b""]
        return list(moto(environ, start_response))


server = make_server("127.0.0.1", 0, application, threaded=True)
print(server.server_port, flush=True)  # noqa: T201 - for who started it
server.serve_forever()
