"""Single files draw what the folders draw that they were made from."""

import json
import shutil

import numpy as np
import pytest

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.inference.worker.layouts import layout_of, layouts
from services.inference.worker.tensor_files import Tensor
from services.rpc.errors import Internal
from tests.services.inference.worker.conftest import Drawer

# diffusers hands tensors to NumPy in the ways of NumPy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

# What was published of each architecture: the numbers of its parameters.
PUBLISHED = {
    ("stable-diffusion", "unet"): 859_520_964,
    ("stable-diffusion", "vae"): 83_653_863,
    ("stable-diffusion", "text_encoder"): 123_060_480,
    ("stable-diffusion-xl", "unet"): 2_567_463_684,
    ("stable-diffusion-xl", "vae"): 83_653_863,
    ("stable-diffusion-xl", "text_encoder"): 123_060_480,
    ("stable-diffusion-xl", "text_encoder_2"): 694_659_840,
    ("flux", "transformer"): 11_901_408_320,
    ("flux", "vae"): 83_819_683,
    ("flux", "text_encoder"): 123_060_480,
    ("flux", "text_encoder_2"): 4_762_310_656,
}
GUIDANCE_IN = {"guidance_in.in_layer.weight": Tensor("BF16", (3072, 256), 0, 0)}


def tiny_vae(**options):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        # Widths that differ have shortcuts between them.
        block_out_channels=(4, 8, 8, 8),
        layers_per_block=2,
        norm_num_groups=4,
        **options,
    )


def tiny_unet(**options):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        attention_head_dim=2,
        norm_num_groups=4,
        **options,
    )


def stable_diffusion():
    """A tiny Stable Diffusion 1, and its tensors under their first names."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    from tests.services.inference.worker import original
    from tests.services.inference.worker.families import parts

    tokenizer = parts.clip_tokenizer()
    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(),
        unet=tiny_unet(cross_attention_dim=parts.WIDTH),
        text_encoder=parts.clip(tokenizer),
        tokenizer=tokenizer,
        scheduler=PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, {
        **original.unet(pipeline.unet),
        **original.vae(pipeline.vae),
        **original.clip(pipeline.text_encoder, "cond_stage_model.transformer."),
    }


def stable_diffusion_xl():
    """A tiny Stable Diffusion XL, and its tensors under their first names."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModelWithProjection

    from tests.services.inference.worker import original
    from tests.services.inference.worker.families import parts

    tokenizer = parts.clip_tokenizer()
    wide = parts.clip_config(tokenizer)
    # The converter tells the encoders by their widths.
    wide.hidden_size, wide.projection_dim = 24, 24
    pipeline = StableDiffusionXLPipeline(
        vae=tiny_vae(scaling_factor=0.13025),
        unet=tiny_unet(
            cross_attention_dim=parts.WIDTH + 24,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + 24,
        ),
        text_encoder=parts.clip(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(wide),
        tokenizer_2=parts.clip_tokenizer(),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
    )
    pipeline.tokenizer_2.pad_token = "!"
    return pipeline, {
        **original.unet(pipeline.unet),
        **original.vae(pipeline.vae),
        **original.clip(pipeline.text_encoder, "conditioner.embedders.0.transformer."),
        **original.open_clip(pipeline.text_encoder_2, "conditioner.embedders.1.model."),
    }


class Folder:
    """A model folder in which single files are made from checkpoints in diffusers' format."""

    def __init__(self, path):
        self.path = path

    def save(self, name, pipeline):
        pipeline.save_pretrained(self.path / name)

    def write(self, name, tensors):
        from safetensors.torch import save_file

        whole = {key: tensor.contiguous().clone() for key, tensor in tensors.items()}
        save_file(whole, self.path / f"{name}.safetensors")

    def configs(self, name, source, *, without=()):
        """Copy the configs of a checkpoint, which are not those of its real sisters."""
        for config in self.path.joinpath(source).glob("*/*config.json"):
            part = config.parent.name
            if not part.startswith("tokenizer") and part not in without:
                to = self.path / name / part
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy(config, to / config.name)


@pytest.fixture
def folder(tmp_path, engine):
    import torch

    torch.manual_seed(0)
    return Folder(tmp_path)


@pytest.fixture
def draw(folder, engine):
    """Draw with a model of the folder."""

    def drawn(family, **source):
        name = next(iter(source.values()))
        model = model_pb2.Model(
            name=f"models/{name}", family=family, checkpoint=model_pb2.Checkpoint(**source)
        )
        drawer = Drawer(type(engine)("cpu", [folder.path]), model)
        return np.asarray(drawer.picture(step_count=3))

    return drawn


@pytest.fixture
def refused(draw):
    """Why a file is refused."""

    def reason(family, file):
        with pytest.raises(Internal) as error:
            draw(family, file=file)
        assert error.value.reason == reasons.ERROR_REASON_WEIGHTS_UNREADABLE
        return error.value.message

    return reason


@pytest.mark.parametrize(
    ("family", "make"),
    [("stable-diffusion", stable_diffusion), ("stable-diffusion-xl", stable_diffusion_xl)],
)
def test_a_file_draws_what_its_folder_draws(folder, draw, family, make):
    """
    Under the names of its first repository; the vocabulary is another checkpoint's.
    """
    pipeline, tensors = make()
    folder.save("whole", pipeline)
    folder.write("file", tensors)
    folder.configs("file", "whole")

    from_folder, from_file = draw(family, folder="whole"), draw(family, file="file.safetensors")

    assert (from_folder == from_file).all()
    assert from_folder.std() > 1


@pytest.mark.parametrize("kind", ["flux", "qwen-image", "flux2-klein"])
def test_a_transformer_alone_takes_the_rest_from_its_sister(folder, draw, kind):
    """
    Decoder, encoders and tokenizers are those of a checkpoint of the same architecture.
    """
    pipeline = sister(kind)
    folder.save("whole", pipeline)
    folder.write("file", pipeline.transformer.state_dict())
    folder.configs("file", "whole", without=("vae", "text_encoder", "text_encoder_2"))
    if kind != "flux":
        # Nothing is published in the layout: the config is the sister's too.
        shutil.rmtree(folder.path / "file")

    from_folder, from_file = draw(kind, folder="whole"), draw(kind, file="file.safetensors")

    assert (from_folder == from_file).all()


def sister(kind):
    """A tiny transformer, and what it needs."""
    import diffusers

    from tests.services.inference.worker.families import test_flux, test_flux2, test_qwen_image

    if kind == "flux2-klein":
        return klein(test_flux2.flux2_parts(guidance_embeds=False))
    if kind == "qwen-image":
        return diffusers.QwenImagePipeline(**test_qwen_image.qwen_parts())
    return diffusers.FluxPipeline(**test_flux.flux_parts())


def klein(made):
    from diffusers import Flux2KleinPipeline
    from transformers import Qwen3ForCausalLM

    from tests.services.inference.worker.families import parts

    tokenizer = parts.qwen_tokenizer()
    encoder = Qwen3ForCausalLM(parts.qwen3_config(tokenizer, 28))
    return Flux2KleinPipeline(**made, text_encoder=encoder, tokenizer=tokenizer)


def test_a_decoder_that_the_file_lacks_is_lent(folder, draw):
    """
    Some files leave the decoder out; one of the same architecture lies beside.
    """
    pipeline, tensors = stable_diffusion()
    folder.save("whole", pipeline)
    folder.write("file", {k: v for k, v in tensors.items() if "first_stage" not in k})
    folder.configs("file", "whole")

    from_file = draw("stable-diffusion", file="file.safetensors")

    assert (from_file == draw("stable-diffusion", folder="whole")).all()


def test_a_vocabulary_beside_the_file_goes_first(folder, draw):
    """
    The folder that has the file's name is asked before any other checkpoint.
    """
    pipeline, tensors = stable_diffusion()
    folder.save("whole", pipeline)
    folder.write("file", tensors)
    folder.configs("file", "whole")
    expected = draw("stable-diffusion", folder="whole")
    shutil.move(folder.path / "whole" / "tokenizer", folder.path / "file")
    shutil.rmtree(folder.path / "whole")

    assert (draw("stable-diffusion", file="file.safetensors") == expected).all()


def test_without_a_vocabulary_the_error_says_what_to_put_where(folder, refused):
    """
    Nothing is downloaded: the user reads which files are missing, and where they go.
    """
    pipeline, tensors = stable_diffusion()
    folder.save("whole", pipeline)
    folder.write("file", tensors)
    folder.configs("file", "whole")
    # One of another size, and one beside what is not data.
    with_fewer_tokens = folder.path / "file" / "text_encoder" / "config.json"
    config = json.loads(with_fewer_tokens.read_text())
    with_fewer_tokens.write_text(json.dumps({**config, "vocab_size": 49408}))
    why = refused("stable-diffusion", "file.safetensors")

    assert "file.safetensors holds no tokenizer" in why
    assert "vocab.json, merges.txt and tokenizer_config.json" in why
    assert "file/tokenizer/" in why
    assert "pictor models pull stable-diffusion-v1-5/stable-diffusion-v1-5" in why
    assert str(folder.path) not in why


def test_a_vocabulary_that_lies_beside_code_is_passed_over(folder, refused):
    """
    Another checkpoint's folder is held to the same rules as a model's own.
    """
    pipeline, tensors = stable_diffusion()
    folder.save("whole", pipeline)
    folder.write("file", tensors)
    folder.configs("file", "whole")
    (folder.path / "whole" / "tokenizer" / "tokenization.py").write_text("")

    assert "no checkpoint here has one that fits" in refused("stable-diffusion", "file.safetensors")


def test_code_beside_a_file_is_refused(folder, refused):
    """
    The folder that has the file's name belongs to the checkpoint.
    """
    _, tensors = stable_diffusion()
    folder.write("file", tensors)
    (folder.path / "file").mkdir()
    (folder.path / "file" / "weights.bin").write_bytes(b"")

    assert "weights.bin is not data" in refused("stable-diffusion", "file.safetensors")


def test_a_file_of_another_kind_is_refused(folder, refused):
    """
    Tensors that no layout knows, weights that need scales, a family of another architecture, and a
    file that lacks some of its tensors each have an error of their own.
    """
    import torch

    pipeline, tensors = stable_diffusion()
    folder.save("whole", pipeline)
    for number, end in enumerate(("middle_block.0.in_layers.2.weight", "q_proj.bias")):
        folder.configs(f"short-{number}", "whole")
        folder.write(f"short-{number}", {k: v for k, v in tensors.items() if not k.endswith(end)})
    folder.write("plain", tensors)
    folder.write("strange", {"strange.weight": torch.zeros(1)})
    folder.write("scaled", {**tensors, "scaled_fp8": torch.zeros(1)})

    assert "not named as those of any known" in refused("flux", "strange.safetensors")
    assert "scaled to fewer bits" in refused("stable-diffusion", "scaled.safetensors")
    assert "it holds a unet, which FluxPipeline" in refused("flux", "plain.safetensors")
    assert "text_encoder_2" in refused("stable-diffusion-xl", "plain.safetensors")
    assert "lacks tensors" in refused("stable-diffusion", "short-0.safetensors")
    assert "lacks 2 tensors of the text_enc" in refused("stable-diffusion", "short-1.safetensors")


def test_a_transformer_without_a_sister_is_refused(folder, refused):
    """
    The error names what is missing, and from where it may be had.
    """
    import torch

    from tests.services.inference.worker.families import test_flux

    torch.manual_seed(0)
    folder.write("file", test_flux.flux_parts()["transformer"].state_dict())
    why = refused("flux", "file.safetensors")

    assert "text_encoder, text_encoder_2" in why
    assert "vae" in why


@pytest.mark.parametrize(("layout", "part"), PUBLISHED)
def test_a_layout_describes_the_published_model(engine, layout, part):
    """
    A part that is made from its config has as many parameters as its makers say.
    """
    tensors = GUIDANCE_IN if layout == "flux" else {}
    model = published(layouts()[layout], part, tensors)

    assert sum(weight.numel() for weight in model.parameters()) == PUBLISHED[layout, part]


@pytest.mark.parametrize(
    ("layout", "converted"),
    [
        ("stable-diffusion", "unet"),
        ("stable-diffusion-xl", "unet"),
        ("stable-diffusion", "vae"),
        ("flux", "transformer"),
        ("flux", "vae"),
    ],
)
def test_a_file_of_the_real_size_becomes_the_model(engine, layout, converted):
    """
    Every tensor of the published size is given its place, without being read.
    """
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    from tests.services.inference.worker import original

    model = published(layouts()[layout], converted, GUIDANCE_IN)
    names = {"unet": original.unet, "vae": original.vae, "transformer": original.flux}[converted]
    convert = SINGLE_FILE_LOADABLE_CLASSES[type(model).__name__]["checkpoint_mapping_fn"]
    found = convert(checkpoint=names(model), config=dict(model.config))
    shapes = {name: tensor.shape for name, tensor in found.items()}

    assert shapes == {name: tensor.shape for name, tensor in model.state_dict().items()}


def published(layout, part, tensors):
    """A part of the published size, whose weights have no memory."""
    import diffusers
    import torch
    import transformers

    library = {"diffusers": diffusers, "transformers": transformers}[layout.parts[part].library]
    cls, config = getattr(library, layout.parts[part].class_name), layout.config(part, tensors)
    with torch.device("meta"):
        if library is diffusers:
            return cls.from_config(config)
        return cls(cls.config_class(**config))


def test_what_checkpoints_of_one_architecture_differ_in_is_read_from_the_tensors():
    """
    FLUX.1 schnell, dev and Fill, and checkpoints that paint within masks or predict velocity.
    """
    flux, xl = layouts()["flux"], layouts()["stable-diffusion-xl"]
    fill = {**GUIDANCE_IN, "img_in.weight": Tensor("BF16", (3072, 384), 0, 0)}
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in fill.items()}
    unet = "model.diffusion_model.input_blocks.0.0.weight"
    nine = {unet: Tensor("F16", (320, 9, 3, 3), 0, 0), "v_pred": Tensor("F32", (0,), 0, 0)}

    assert flux.config("transformer", {})["guidance_embeds"] is False
    assert flux.config("scheduler", {})["use_dynamic_shifting"] is False
    assert flux.config("transformer", GUIDANCE_IN)["guidance_embeds"] is True
    assert flux.config("transformer", GUIDANCE_IN)["in_channels"] == 64
    assert flux.config("transformer", fill)["in_channels"] == 384
    assert flux.config("transformer", prefixed)["in_channels"] == 384
    assert xl.config("unet", nine)["in_channels"] == 9
    assert xl.config("scheduler", nine)["prediction_type"] == "v_prediction"
    assert "prediction_type" not in xl.config("scheduler", {})


def test_layouts_are_told_apart(engine):
    """
    A file of either kind of Stable Diffusion is recognised as its own, FLUX.1 by all its names.
    """
    from tests.services.inference.worker import original

    flux = published(layouts()["flux"], "transformer", GUIDANCE_IN)
    for names in (original.flux(flux), flux.state_dict()):
        tensors = {name: Tensor("BF16", tuple(t.shape), 0, 0) for name, t in names.items()}
        assert layout_of(tensors) is layouts()["flux"]
    for make, name in ((stable_diffusion, "stable-diffusion"), (stable_diffusion_xl, None)):
        _, names = make()
        tensors = {key: Tensor("F32", tuple(t.shape), 0, 0) for key, t in names.items()}
        assert layout_of(tensors) is layouts()[name or "stable-diffusion-xl"]
    assert layout_of({}) is None
