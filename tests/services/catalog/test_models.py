"""The catalog's file: what it says of each model, and what the reader refuses."""

from pathlib import Path

import pytest

from pictor.catalog.v1 import model_pb2
from pictor.catalog.v1.model_pb2 import Model, ParameterSupport
from services.catalog.models import PACKAGED, PARAMETERS, read_models
from services.catalog.rules import CatalogError

ENTRY = """
[[models]]
name = "a/b"
display_name = "A"
aliases = ["b"]
owner = "a"
family = ""
description = ""
license = ""
created = 2026-11-21
operations = ["text-to-image", "inpaint"]
native_size = { width_px = 64, height_px = 64 }
dtypes = ["bfloat16", "float32"]
acceleration = ["compile", "first-block-cache=0.08"]
checkpoint = { folder = "a/b" }

[models.limits]
min_input_images = 0
max_input_images = 1
max_prompt_chars = 100
min_side_px = 64
max_side_px = 512
max_pixels = 65536
size_multiple_px = 8
max_step_count = 50
max_image_count = 4
max_guidance_scale = 20

[models.defaults]
width_px = 256
height_px = 256
step_count = 20
guidance_scale = 5
strength = 0.5

[models.parameters]
required = ["prompt"]

[models.parameters.ignored]
sampler = "it has its own"
"""

# What the seed documents say of RemoteGPU's models: images, characters, size, steps, guidance.
REMOTEGPU = {
    "black-forest-labs/FLUX.1-dev": (0, 0, 2048, 512, 512, 30, 3.5),
    "black-forest-labs/FLUX.2-dev": (0, 10, 4096, 512, 512, 30, 4.0),
}
NAMED_BY_SEEDS = (
    "pictor/shapes",
    "black-forest-labs/FLUX.1-dev",
    "black-forest-labs/FLUX.2-dev",
    "black-forest-labs/FLUX.1-schnell",
    "black-forest-labs/FLUX.1-Fill-dev",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "Realistic_Vision_V5.1.safetensors",
    "illustriousRealismBy_v10VAE.safetensors",
    "stable-diffusion-v1-5-pruned.safetensors",
    "black-forest-labs/FLUX-2-pro",
    "google/gemini-3-pro-T2I",
    "openai/gpt-image-1.5-T2I",
    "openai/gpt-image-1.5-I2I",
    "Qwen/qwen-image",
    "Qwen/qwen-image-edit",
)
# Every size of the vendor's table for the Pro image model has sides out of these two rows.
GEMINI_4K = ((4096, 4096), (3392, 5056), (3584, 4800), (3712, 4608), (3072, 5504), (6336, 2688))

# What is replaced in ENTRY, by what, and what the error must say.
BROKEN = [
    ('owner = "a"', 'onwer = "a"', "model 'a/b': unknown key 'onwer'"),
    ('owner = "a"\n', "", "model 'a/b': owner is missing"),
    ('owner = "a"', "owner = 3", "model 'a/b': owner = 3: must be a text"),
    ('name = "a/b"', 'name = "models/a/b"', "name: the id 'models/a/b' must not"),
    ('name = "a/b"', 'name = ""', "entry 1: name: the id '' must not be empty"),
    ('["b"]', '["b", "b"]', "the id 'b' is taken by 'a/b'"),
    ('["b"]', "[1]", "aliases = [1]: must be a list of texts"),
    ("2026-11-21", '"today"', "created = 'today': must be a date"),
    ("2026-11-21", "2026-11-21T10:00:00Z", "must be a date"),
    ('["text-to-image", "inpaint"]', "[]", "operations = []: must name at least one"),
    ('"inpaint"]', '"text-to-image"]', "must name at least one, and none twice"),
    ('"inpaint"]', '"draw"]', "operations: 'draw' is unknown; there are text-to-image"),
    ('{ folder = "a/b" }', '{ folder = "/srv/a" }', "checkpoint = '/srv/a': must lie below"),
    ('{ folder = "a/b" }', '{ folder = "../a" }', "checkpoint = '../a': must lie below"),
    ('{ folder = "a/b" }', "{}", "must give one of folder, file and hub_repository"),
    ('{ folder = "a/b" }', '{ url = "a/b" }', "checkpoint: unknown key 'url'"),
    ("width_px = 64, ", "", "native_size: width_px is missing"),
    ("width_px = 64,", "width_px = 60,", "native_size.width_px = 60: must be 64 to 512"),
    (
        "max_side_px = 512",
        "max_side_px = true",
        "limits: max_side_px = True: must be a whole number",
    ),
    ("max_side_px = 512", "max_side_px = 1.5", "max_side_px = 1.5: must be a whole number"),
    ("max_side_px = 512", "max_side_px = 5000000000", "limits: Value out of range"),
    ("max_side_px = 512", "max_side_px = 32", "min_side_px = 64: must not be above max_side_px"),
    ("max_side_px = 512\n", "", "limits: max_side_px is missing"),
    ("size_multiple_px = 8", "size_multiple_px = 0", "size_multiple_px = 0: must be at least 1"),
    ("max_input_images = 1", "max_input_images = 0", "above 0 exactly where an operation"),
    ("min_input_images = 0", "min_input_images = 1", "must be 0 exactly where operations has"),
    ("\nwidth_px = 256", "\nwidth_px = 260", "defaults.width_px = 260: must be a multiple of 8"),
    ("\nwidth_px = 256", "\nwidth_px = 520", "defaults.width_px = 520: must be 64 to 512"),
    ("\nwidth_px = 256", "\nwidth_px = 512", "defaults: 131072 pixels: must be at most 65536"),
    ("\nwidth_px = 256", "", "defaults.width_px = 0: must be 64 to 512"),
    ("step_count = 20", "step_count = 51", "defaults.step_count = 51: must be 1 to 50"),
    ("guidance_scale = 5", "guidance_scale = 21", "guidance_scale = 21: must be 0 to 20"),
    ("strength = 0.5", "strength = 0.0", "defaults.strength = 0: must be above 0, at most 1"),
    ('["prompt"]', '["promt"]', "parameters.required: unknown key 'promt'"),
    ('["prompt"]', '["prompt", "sampler"]', "sampler is both required and ignored"),
    ('"it has its own"', '""', "parameters.ignored.sampler: must give the reason"),
    ('["bfloat16", "float32"]', '["bf16"]', "dtypes: 'bf16' is unknown; there are bfloat16"),
    ('"bfloat16", "float32"', '"float32", "float32"', "dtypes: must name none twice"),
    ('["compile", ', '["Compile!", ', "acceleration: 'Compile!': must be a profile's name"),
    ('["compile", ', '["first-block-cache", ', "acceleration: must name no profile twice"),
    ('["compile", ', "[1, ", "must be a list of texts"),
    ("sampler =", "mask =", "mask must be ignored exactly where operations lacks inpaint"),
]


def packaged() -> dict[str, Model]:
    return {model.name.removeprefix("models/"): model for model in read_models(PACKAGED)}


def test_every_model_that_a_seed_document_names_is_there():
    """
    The packaged catalog lists the models of all five public APIs, the bundled one first.
    """
    assert tuple(packaged()) == NAMED_BY_SEEDS


@pytest.mark.parametrize("name", REMOTEGPU)
def test_remotegpu_limits_are_as_documented(name: str):
    """
    Image counts, prompt lengths and defaults are those of RemoteGPU's table.
    """
    limits, defaults = packaged()[name].limits, packaged()[name].parameter_defaults

    assert REMOTEGPU[name] == (
        limits.min_input_images,
        limits.max_input_images,
        limits.max_prompt_chars,
        defaults.width_px,
        defaults.height_px,
        defaults.step_count,
        defaults.guidance_scale,
    )


def test_gemini_takes_every_size_of_its_table():
    """
    The sizes that the relay documents for 4K lie within the model's limits, both ways round.
    """
    limits = packaged()["google/gemini-3-pro-T2I"].limits

    for sides in GEMINI_4K:
        assert max(sides) <= limits.max_side_px
        assert sides[0] * sides[1] <= limits.max_pixels
        assert not any(side % limits.size_multiple_px for side in sides)


def test_models_without_public_weights_have_no_checkpoint():
    """
    What only its maker hosts names no place of weights; everything else does.
    """
    without = {name for name, model in packaged().items() if not model.HasField("checkpoint")}

    assert without == {
        "black-forest-labs/FLUX-2-pro",
        "google/gemini-3-pro-T2I",
        "openai/gpt-image-1.5-T2I",
        "openai/gpt-image-1.5-I2I",
    }


def test_no_model_is_accelerated_unless_the_operator_asks():
    """
    The packaged catalog names no profile and no number format.
    """
    assert not any(model.acceleration or model.dtypes for model in packaged().values())


def test_parameter_tables_say_what_becomes_of_each_documented_parameter():
    """
    Ignored parameters carry the reason, and Fill insists on an image and a mask.
    """
    tables = {
        name: {line.parameter: line for line in model.parameters}
        for name, model in packaged().items()
    }
    negative = tables["black-forest-labs/FLUX.2-dev"]["negative_prompt"]
    guidance = tables["black-forest-labs/FLUX.1-schnell"]["guidance_scale"]
    fill = tables["black-forest-labs/FLUX.1-Fill-dev"]

    assert all(tuple(table) == PARAMETERS for table in tables.values())
    assert (negative.level, negative.reason) == (
        ParameterSupport.LEVEL_IGNORED,
        "the model has no negative prompt",
    )
    assert guidance.level == ParameterSupport.LEVEL_IGNORED
    assert "distilled" in guidance.reason
    assert {name for name, line in fill.items() if line.level == line.LEVEL_REQUIRED} == {
        "prompt",
        "input_images",
        "mask",
    }


def test_an_entry_becomes_a_message(tmp_path: Path):
    """
    Every key of an entry arrives in the model.
    """
    [model] = read(tmp_path, ENTRY)

    assert model.name == "models/a/b"
    assert list(model.aliases) == ["b"]
    assert list(model.operations) == [
        model_pb2.OPERATION_TEXT_TO_IMAGE,
        model_pb2.OPERATION_INPAINT,
    ]
    assert model.limits.max_guidance_scale == 20
    assert model.parameter_defaults.strength == 0.5
    assert model.checkpoint.folder == "a/b"
    assert model.native_size.width_px == 64
    assert list(model.dtypes) == ["bfloat16", "float32"]
    assert list(model.acceleration) == ["compile", "first-block-cache=0.08"]
    assert model.create_time.ToJsonString() == "2026-11-21T00:00:00Z"


@pytest.mark.parametrize(("old", "new", "message"), BROKEN)
def test_a_broken_entry_is_refused_by_name_key_and_rule(
    tmp_path: Path, old: str, new: str, message: str
):
    """
    The error of a broken entry tells which entry, which key and which rule.
    """
    assert old in ENTRY
    with pytest.raises(CatalogError) as caught:
        read(tmp_path, ENTRY.replace(old, new, 1))

    assert message in str(caught.value)


def test_two_models_may_not_share_an_alias(tmp_path: Path):
    """
    An id that two entries claim is refused, and both are named.
    """
    with pytest.raises(CatalogError, match=r"model 'c': the id 'b' is taken by 'a/b'"):
        read(tmp_path, ENTRY + ENTRY.replace('"a/b"', '"c"', 1))


@pytest.mark.parametrize("text", ["models = [", "", "models = []", "models = [1]", "\xff"])
def test_a_file_that_is_no_catalog_is_refused(tmp_path: Path, text: str):
    """
    A file without models, or one that is not TOML, is a CatalogError too.
    """
    with pytest.raises(CatalogError):
        read(tmp_path, text)


def test_an_absent_file_is_named(tmp_path: Path):
    """
    The error of a file that is not there names the file.
    """
    with pytest.raises(CatalogError, match=r"absent\.toml"):
        read_models(tmp_path / "absent.toml")


def read(folder: Path, text: str) -> list[Model]:
    path = folder / "models.toml"
    path.write_text(text, encoding="latin-1")
    return read_models(path)


def test_a_model_without_a_price_has_the_operators(tmp_path):
    """
    What an entry names wins over what the operator has set for all, zero included.
    """
    file = tmp_path / "models.toml"
    priced = ENTRY.replace('family = ""', 'family = ""\nprice_microcredits = 0')
    file.write_text(ENTRY + priced.replace('"a/b"', '"c/d"').replace('["b"]', '["d"]'))

    assert [model.price_microcredits for model in read_models(file, 7)] == [7, 0]


@pytest.mark.parametrize("price", ["-1", "1000000000001", "1.5", '"7"', "true"])
def test_a_price_that_is_none_is_refused(tmp_path, price):
    """
    Prices are whole micro-credits within what cannot overflow.
    """
    file = tmp_path / "models.toml"
    file.write_text(ENTRY.replace('family = ""', f'family = ""\nprice_microcredits = {price}'))

    with pytest.raises(CatalogError, match="price_microcredits"):
        read_models(file)
