import functools
from types import SimpleNamespace

import numpy as np
import pytest
import structlog
from PIL import Image

from services.inference.worker.families import families
from services.inference.worker.frames import Size

FAMILY = "stable-diffusion"


@pytest.fixture
def sketches(engine):
    """The module, which imports torch."""
    from services.inference.worker import sketches

    return sketches


@functools.cache
def linear_decoder():
    """A class of decoders that are linear maps, and say how often they were asked."""
    import torch

    class LinearDecoder(torch.nn.Module):
        def __init__(self, channels=4, factor=8):
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.mix = torch.randn(channels, 3, generator=generator)
            self.factor, self.asked = factor, 0
            self.config = {"scaling_factor": 0.5, "shift_factor": None}
            self.dtype = torch.float32

        def encode(self, pictures, return_dict):
            self.asked += 1
            small = torch.nn.functional.avg_pool2d(pictures, self.factor)
            return (torch.einsum("cd,ndhw->nchw", self.mix, small) + 0.3,)

        def decode(self, latents, return_dict):
            back = torch.linalg.pinv(self.mix)
            small = torch.einsum("dc,nchw->ndhw", back, latents - 0.3)
            return (small.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3),)

    return LinearDecoder


def latents_of(vae, picture):
    """What a pipeline's callback gives at the end."""
    import torch

    pixels = torch.tensor(np.asarray(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
    return vae.encode(pixels, return_dict=False)[0] * 0.5


def sketched(sketches, vae, latents, folders=()):
    size = Size(latents.shape[-1] * 8, latents.shape[-2] * 8)
    pipeline = SimpleNamespace(vae=vae)
    sketch = sketches.Sketcher(folders).sketch(families()[FAMILY], pipeline, latents, size)
    return sketch.picture()


def difference(one, other):
    return np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max()


@pytest.mark.parametrize(("channels", "factor"), [(4, 8), (16, 8), (32, 16), (32, 32)])
def test_a_decoder_that_is_linear_is_known_exactly(sketches, gradient, channels, factor):
    """
    Whatever its channels mean, and however many pixels a latent has.
    """
    vae, picture = linear_decoder()(channels, factor), gradient(640, 320)
    sketch = sketched(sketches, vae, latents_of(vae, picture))

    assert sketch.size == (640 // factor, 320 // factor)
    assert difference(sketch, picture.reduce(factor)) <= 2


def test_a_decoder_is_studied_once(sketches, gradient):
    """
    At the first sketch of a model; later ones cost no more than the map.
    """
    vae = linear_decoder()()
    latents = latents_of(vae, gradient(64, 64))
    sketcher, before = sketches.Sketcher(), vae.asked
    for _ in range(3):
        sketcher.sketch(
            families()[FAMILY], SimpleNamespace(vae=vae), latents, Size(64, 64)
        ).picture()

    assert vae.asked == before + 1


@pytest.mark.parametrize("factor", [8, 16, 32])
def test_examples_are_as_many_latents_for_every_decoder(sketches, factor):
    """
    Where a latent has more pixels, examples are larger; fewer would not do.
    """
    import torch

    latents, pictures = sketches.studied(linear_decoder()(64, factor), torch.device("cpu"))

    assert latents.shape == (16, 64, 8, 8)
    assert pictures.shape == (16, 3, 8, 8)


def test_studying_a_decoder_costs_one_small_picture(sketches):
    """
    All examples together have no more pixels than one picture of 256 by 256.
    """
    pixels = sketches.examples(sketches.EXAMPLE_LATENTS * sketches.USUAL_FACTOR)

    assert pixels.shape[0] * pixels.shape[2] * pixels.shape[3] <= 256 * 256
    assert pixels.min() >= -1
    assert pixels.max() <= 1


def test_a_large_picture_is_sketched_small(sketches, gradient):
    """
    A sketch is never larger than a preview, and keeps the ratio.
    """
    vae = linear_decoder()()
    sketch = sketched(sketches, vae, latents_of(vae, gradient(4096, 2048)))

    assert sketch.size == (256, 128)


def test_latents_that_are_not_finite_are_sketched(sketches):
    """
    That the job fails is for its last step to say.
    """
    import torch

    latents = torch.full((1, 4, 8, 8), float("nan"))

    assert sketched(sketches, linear_decoder()(), latents).size == (8, 8)


def test_a_family_without_a_layout_has_no_sketches(sketches):
    """
    Nothing is studied for it.
    """
    import dataclasses

    import torch

    family = dataclasses.replace(families()[FAMILY], spatial=None)
    vae = linear_decoder()()

    assert (
        sketches.Sketcher().sketch(
            family, SimpleNamespace(vae=vae), torch.zeros(1, 4, 8, 8), Size(64, 64)
        )
        is None
    )
    assert vae.asked == 0


@pytest.fixture(scope="module")
def tiny_module(engine):
    """A tiny decoder with random weights."""
    import torch
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    small = {"block_out_channels": (8, 8), "num_blocks": (1, 1)}
    return AutoencoderTiny(
        **{f"encoder_{name}": value for name, value in small.items() if name != "num_blocks"},
        **{f"decoder_{name}": value for name, value in small.items() if name != "num_blocks"},
        num_encoder_blocks=small["num_blocks"],
        num_decoder_blocks=small["num_blocks"],
        upsampling_scaling_factor=8,
    ).eval()


@pytest.fixture
def folder(tmp_path, tiny_module):
    """A model folder in which that decoder lies under its usual name."""
    tiny_module.save_pretrained(tmp_path / "madebyollin" / families()[FAMILY].tiny_decoder)
    return tmp_path


def imitated(tiny):
    """A decoder that makes of latents what the tiny one does."""

    class Imitated(linear_decoder()):
        def decode(self, latents, return_dict):
            return tiny.decode(latents * self.config["scaling_factor"], return_dict=False)

    return Imitated()


def test_a_tiny_decoder_is_used_where_it_is_the_models(sketches, folder, tiny_module, gradient):
    """
    It lies below a model folder under its usual name, and draws what the model's own would.
    """
    vae = imitated(tiny_module)
    latents = latents_of(vae, gradient(64, 64))
    expected = vae.decode(latents / 0.5, return_dict=False)[0][0].permute(1, 2, 0)
    shown = ((expected.detach().clamp(-1, 1) + 1) * 127.5).numpy()

    assert sketched(sketches, vae, latents, [folder]).size == (64, 64)
    assert difference(sketched(sketches, vae, latents, [folder]), shown) <= 1
    assert sketched(sketches, vae, latents).size == (8, 8), "there is none"


def test_a_tiny_decoder_of_another_model_is_left_alone(sketches, folder, gradient):
    """
    Families are larger than latent formats: what draws worse than the linear map is not used.
    """
    vae, picture = linear_decoder()(), gradient(64, 64)
    sketch = sketched(sketches, vae, latents_of(vae, picture), [folder])

    assert difference(sketch, picture.reduce(8)) <= 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda place: (place / "weights.bin").write_bytes(b"pickled"),
        lambda place: (place / "config.json").write_text('{"_class_name": "AutoencoderKL"}'),
        lambda place: (place / "diffusion_pytorch_model.safetensors").write_bytes(b"cut off"),
    ],
    ids=["not data", "another class", "damaged"],
)
def test_a_tiny_decoder_that_cannot_be_read_is_logged(
    sketches, folder, tiny_module, gradient, spoil
):
    """
    Previews do without it; nothing of it is run.
    """
    spoil(folder / "madebyollin" / families()[FAMILY].tiny_decoder)
    vae = imitated(tiny_module)
    with structlog.testing.capture_logs() as logs:
        sketch = sketched(sketches, vae, latents_of(vae, gradient(64, 64)), [folder])

    assert sketch.size == (8, 8)
    assert [entry["decoder"] for entry in logs if "tiny_decoder" in entry["event"]] == ["taesd"]


@pytest.mark.gpu
def test_the_host_does_not_wait_for_the_device(sketches):
    """
    Predicting and sketching only hand work to the device; the pixels are waited for elsewhere.
    """
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    from diffusers import FlowMatchEulerDiscreteScheduler

    from services.inference.worker.previews import Predictions

    vae, sketcher = linear_decoder()(16).cuda(), sketches.Sketcher()
    vae.mix = vae.mix.cuda()
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4, device="cuda")
    scheduler.set_begin_index(0)
    predictions = Predictions(scheduler)
    tokens = torch.randn(1, 64, 64, device="cuda")
    scheduler.step(tokens, scheduler.timesteps[0], tokens)

    def sketch():
        pipeline = SimpleNamespace(vae=vae)
        return sketcher.sketch(families()["flux"], pipeline, predictions.latents, Size(128, 128))

    sketch()  # studies the decoder
    torch.cuda.set_sync_debug_mode("error")
    try:
        sent = sketch()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sent.picture().size == (16, 16)


def test_sketches_of_the_shipped_model_are_recognisable(draw_shapes_previews):
    """
    Half-way, a small red star at the left of a yellow background is red, left, and on yellow.
    """
    preview = draw_shapes_previews("a small red star at the left on a yellow background")
    pixels = np.asarray(preview).astype(int)
    redness = pixels[..., 0] - pixels[..., 1]
    rows, columns = np.nonzero(redness > redness.max() / 2)
    ground = np.median(pixels.reshape(-1, 3), axis=0)

    assert ground[0] > 150
    assert ground[1] > 120
    assert ground[2] < 130
    assert redness.max() > 80
    assert columns.mean() < preview.width * 0.4
    assert 4 < len(rows) < preview.width * preview.height * 0.1


@pytest.fixture
def draw_shapes_previews(engine, draw):
    """Draw with the model that ships; the last of three previews."""
    import io

    from pictor.catalog.v1 import model_pb2
    from services.inference.worker.settings import MODELS

    if not (MODELS / "pictor" / "shapes" / "model_index.json").is_file():
        pytest.skip("models/pictor/shapes is not in this checkout")
    draw.engine = type(engine)("cpu", [MODELS])
    draw.model = model_pb2.Model(
        name="models/pictor/shapes", checkpoint=model_pb2.Checkpoint(folder="pictor/shapes")
    )

    def preview(prompt):
        size = {"width_px": 256, "height_px": 256}
        draw(prompt=prompt, step_count=20, guidance_scale=3.0, preview_count=1, **size)
        return Image.open(io.BytesIO(draw.previews[-1].content))

    return preview
