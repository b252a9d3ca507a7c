import pathlib
import re
import subprocess
import sys

import pytest
from google.protobuf import descriptor_pool

from pictor.accounts.v1 import access_pb2, accounts_service_pb2
from pictor.catalog.v1 import catalog_service_pb2
from pictor.inference.v1 import inference_service_pb2
from pictor.storage.v1 import storage_service_pb2
from pictor.worker.v1 import worker_service_pb2

ROOT = pathlib.Path(__file__).parents[2]
PROTOS = ROOT / "protos"
SERVICES = [
    accounts_service_pb2,
    catalog_service_pb2,
    inference_service_pb2,
    storage_service_pb2,
    worker_service_pb2,
]


def stubs_below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*_pb2*.py*")}


def test_the_committed_stubs_are_those_of_the_protos(tmp_path):
    """
    Compiling the protos again changes nothing.
    """
    subprocess.run([sys.executable, PROTOS / "compile.py", "stubs", tmp_path], check=True)

    made, committed = stubs_below(tmp_path), stubs_below(PROTOS)
    committed = {path: content for path, content in committed.items() if path.suffix != ".pyc"}
    assert made == committed


@pytest.mark.parametrize("module", SERVICES, ids=lambda m: m.DESCRIPTOR.package)
def test_every_method_says_who_may_call_it(module):
    """
    Each method carries the access option, from which servers and the gateway read it.
    """
    for service in module.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            assert method.GetOptions().HasExtension(access_pb2.access), method.full_name


@pytest.mark.parametrize("path", sorted(PROTOS.rglob("*.proto")), ids=lambda p: p.stem)
def test_a_proto_stays_short(path):
    """
    No proto has more than 270 lines: a service that needs more is two services.
    """
    assert len(path.read_text().splitlines()) <= 270


def test_every_error_reason_shows_the_json_it_produces():
    """
    The comment of each reason gives its gRPC code and an example of its ErrorInfo.
    """
    text = (PROTOS / "pictor/errors/v1/error_reason.proto").read_text()
    blocks = re.findall(r"((?:^  //.*\n)+)  ERROR_REASON_(\w+) = [1-9]\d*;", text, re.MULTILINE)

    assert len(blocks) > 30
    for comment, name in blocks:
        assert f'"reason": "{name}"' in comment, name
        assert re.search(r"// [A-Z_]+\. ", comment), name


def test_internal_methods_have_no_rest_route():
    """
    What only the suite itself may call is not in the REST API.
    """
    pool = descriptor_pool.Default()
    http = pool.FindExtensionByName("google.api.http")
    for module in SERVICES:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                options = method.GetOptions()
                access = options.Extensions[access_pb2.access]
                if not access.public and not access.scope:
                    assert not options.HasExtension(http), method.full_name
