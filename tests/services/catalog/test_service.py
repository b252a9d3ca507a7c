"""CatalogService, asked over gRPC."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pictor.catalog.v1.catalog_service_pb2 import GetModelRequest, ListModelsRequest
from pictor.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from pictor.errors.v1 import error_reason_pb2
from services.catalog.__main__ import Settings, running
from services.rpc.channels import open_channel
from services.rpc.errors import InvalidRequest, NotFound
from services.rpc.settings import SettingError


async def test_anybody_may_list_models(tmp_path: Path):
    """
    The catalog is public: no key is asked for, and a bad one is ignored.
    """
    settings = Settings(data_dir=tmp_path, catalog_address="127.0.0.1:0")
    async with running(settings) as address, open_channel(address, "no-such-key") as channel:
        answer = await CatalogServiceStub(channel).ListModels(ListModelsRequest())

    assert answer.models[0].name == "models/pictor/shapes"
    assert answer.next_page_token == ""


async def test_pages_join_to_the_whole_list(catalog: CatalogServiceStub):
    """
    Following next_page_token gives every model once, in the order of the file.
    """
    whole = (await catalog.ListModels(ListModelsRequest())).models
    names, token = [], ""
    while True:
        page = await catalog.ListModels(ListModelsRequest(page_size=4, page_token=token))
        names += [model.name for model in page.models]
        token = page.next_page_token
        if not token:
            break

    assert names == [model.name for model in whole]


@pytest.mark.parametrize("token", ["nonsense", "WyJtb2RlbHMvbm8iXQ"])
async def test_a_bad_page_token_is_refused(catalog: CatalogServiceStub, token: str):
    """
    A token that is none, or that names a model which is gone, is an invalid page_token.
    """
    with pytest.raises(InvalidRequest, match="page_token"):
        await catalog.ListModels(ListModelsRequest(page_token=token))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("models/pictor/shapes", "models/pictor/shapes"),
        (
            "models/stable-diffusion-v1-5/stable-diffusion-v1-5",
            SD := "models/stable-diffusion-v1-5-pruned.safetensors",
        ),
        ("models/stable-diffusion-v1-5-pruned", SD),
        ("models/gpt-image-1.5", "models/openai/gpt-image-1.5-T2I"),
        ("models/Qwen/Qwen-Image", "models/Qwen/qwen-image"),
        ("models/Realistic_Vision_V5.1", "models/Realistic_Vision_V5.1.safetensors"),
    ],
)
async def test_a_model_is_found_by_name_and_alias(
    catalog: CatalogServiceStub, asked: str, found: str
):
    """
    Whatever spelling is asked for, the answer carries the canonical name.
    """
    assert (await catalog.GetModel(GetModelRequest(name=asked))).name == found


@pytest.mark.parametrize(
    "name",
    [
        "",
        "models/",
        "pictor/shapes",
        "models/pictor%2Fshapes",
        "models/pictor/../pictor/shapes",
        "models/PICTOR/shapes",
        "models/pictor/shapes ",
        "models/" + "x" * 1_000_000,
    ],
)
async def test_names_are_compared_exactly(catalog: CatalogServiceStub, name: str):
    """
    An encoded slash, two dots, another case or a blank make another name, which is not found.
    """
    with pytest.raises(NotFound) as caught:
        await catalog.GetModel(GetModelRequest(name=name))

    assert caught.value.reason == error_reason_pb2.ERROR_REASON_MODEL_NOT_FOUND
    assert len(caught.value.message) < 600


async def test_an_unknown_model_gets_close_ids(catalog: CatalogServiceStub):
    """
    Who misspells a model is told up to three that are close.
    """
    with pytest.raises(NotFound) as caught:
        await catalog.GetModel(GetModelRequest(name="models/black-forest-labs/flux.2_dev"))

    assert "did you mean black-forest-labs/FLUX.2-dev" in caught.value.message
    assert caught.value.metadata == {"model": "models/black-forest-labs/flux.2_dev"}


async def test_a_stand_in_must_be_a_model(open_catalog: Callable[..., Any]):
    """
    The catalog does not start with a stand-in that does not exist, and says which are close.
    """
    with pytest.raises(SettingError, match=r"PICTOR_STAND_IN='pictor/shape': .*pictor/shapes"):
        async with open_catalog(stand_in="pictor/shape"):
            pass


async def test_another_catalog_file_replaces_the_models(
    open_catalog: Callable[..., Any], tmp_path: Path
):
    """
    PICTOR_CATALOG_FILE names all the models that there are.
    """
    packaged = (Path(__file__).parents[3] / "services/catalog/models.toml").read_text("utf-8")
    file = tmp_path / "mine.toml"
    file.write_text(
        packaged.split("# RemoteGPU", 1)[0].replace("pictor/shapes", "mine/own"), "utf-8"
    )
    async with open_catalog(catalog_file=file) as catalog:
        answer = await catalog.ListModels(ListModelsRequest())

    assert [model.name for model in answer.models] == ["models/mine/own"]
