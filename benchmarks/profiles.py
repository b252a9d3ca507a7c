"""
Acceleration profiles and number formats, each over eager execution of the same random weights.

A forward pass of a transformer (FLUX.1's kind) and of a decoder, and for the step cache a whole
loop of steps. On a GPU where there is one, else on the CPU.
"""

import copy
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from benchmarks.report import Row
from pictor.catalog.v1 import model_pb2

REPEATS = 5
WARM_UP = 1
# The first block's residual of random weights changes by four fifths at each step.
THRESHOLD = 0.8
STEPS = 8
HEADS, HEAD, TEXT_TOKENS, TEXT_WIDTH = 8, 64, 64, 256
LATENT_SIDE = 32
STD = 0.05


def measure() -> list[Row]:
    """Measure what this device can do, and print the reasons for what it cannot."""
    import torch  # noqa: PLC0415 - the other benchmarks need none
    from diffusers.utils import logging  # noqa: PLC0415

    logging.set_verbosity_error()
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    print(f"device {device}, {torch.get_num_threads()} threads\n")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    transformer, decoder = (part.to(device, dtype) for part in (_transformer(), _decoder()))
    inputs, latents = _inputs(device, dtype), torch.randn(1, 16, 32, 32).to(device, dtype)
    rows = [_bfloat16(transformer, inputs)] if device.type == "cpu" else []
    claims = [
        ("compile", "one forward pass", transformer, lambda part: _forward(part, inputs)),
        ("fp8-weights", "one forward pass", transformer, lambda part: _forward(part, inputs)),
        ("attention=_native_flash", "one forward pass", transformer, _bound(inputs)),
        ("channels-last", "one decode", decoder, lambda part: part.decode(latents).sample),
        (
            f"first-block-cache={THRESHOLD}",
            f"{STEPS} steps",
            transformer,
            lambda part: _loop(part, inputs),
        ),
    ]
    for words, what, plain, call in claims:
        if row := _compare(words, what, plain, call, device):
            rows.append(row)
    return rows


def _compare(
    words: str, what: str, plain: Any, call: Callable[[Any], Any], device: Any
) -> Row | None:
    from services.inference.worker.acceleration import accelerate  # noqa: PLC0415 - imports torch
    from services.rpc.errors import Internal  # noqa: PLC0415

    fast = copy.deepcopy(plain)
    is_decoder = hasattr(plain, "decode")
    pipeline = SimpleNamespace(
        components={"vae" if is_decoder else "transformer": fast, "unet": fast}
    )
    model = model_pb2.Model(name="models/random", acceleration=[words])
    try:
        accelerate(model, pipeline, device)
    except Internal as error:
        print(f"{words}: {error.message}")
        return None
    return _row(f"{words}: {what}", lambda: call(fast), lambda: call(plain))


def _bfloat16(transformer: Any, inputs: dict[str, Any]) -> Row:
    import torch  # noqa: PLC0415

    short = copy.deepcopy(transformer).to(torch.bfloat16)
    halves = {name: value.to(torch.bfloat16) for name, value in inputs.items()}
    return _row(
        "bfloat16 over float32: one forward pass",
        lambda: _forward(short, halves),
        lambda: _forward(transformer, inputs),
    )


def _row(claim: str, ours: Callable[[], Any], plain: Callable[[], Any]) -> Row:
    """Time both in turn; the outputs of the first turn are compared."""
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    outputs: dict[str, Any] = {}
    for turn in range(REPEATS + WARM_UP):
        for name, call in (("ours", ours), ("plain", plain)):
            took, output = _timed(call)
            outputs.setdefault(name, output.float())
            if turn >= WARM_UP:
                seconds[name].append(took)
    off = (outputs["ours"] - outputs["plain"]).norm() / outputs["plain"].norm()
    print(f"{claim}: relative difference {float(off):.2g}")
    return Row(claim, seconds["ours"], seconds["plain"])


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    import torch  # noqa: PLC0415

    started = time.perf_counter()
    output = call()
    if output.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started, output


def _bound(inputs: dict[str, Any]) -> Callable[[Any], Any]:
    return lambda part: _forward(part, inputs)


def _forward(transformer: Any, inputs: dict[str, Any]) -> Any:
    return transformer(**inputs, return_dict=False)[0]


def _loop(transformer: Any, inputs: dict[str, Any]) -> Any:
    """Take Euler steps, as a pipeline does."""
    latents = inputs["hidden_states"]
    for step in range(STEPS):
        timestep = inputs["timestep"] * (1 - step / STEPS)
        velocity = _forward(transformer, inputs | {"hidden_states": latents, "timestep": timestep})
        latents = latents - velocity / STEPS
    return latents


def _transformer() -> Any:
    from diffusers import FluxTransformer2DModel  # noqa: PLC0415

    return _drawn(
        FluxTransformer2DModel(  # type: ignore[no-untyped-call]  # diffusers
            in_channels=64,
            num_layers=2,
            num_single_layers=6,
            attention_head_dim=HEAD,
            num_attention_heads=HEADS,
            joint_attention_dim=TEXT_WIDTH,
            pooled_projection_dim=TEXT_WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(16, 24, 24),
        )
    )


def _decoder() -> Any:
    from diffusers import AutoencoderKL  # noqa: PLC0415

    return _drawn(
        AutoencoderKL(  # type: ignore[no-untyped-call]  # diffusers
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32, 64, 128, 128),
            latent_channels=16,
        )
    )


def _drawn(module: Any) -> Any:
    """Draw all weights: matrix products run faster on zeros."""
    for weight in module.parameters():
        weight.normal_(std=STD)
    return module.eval()


def _inputs(device: Any, dtype: Any) -> dict[str, Any]:
    import torch  # noqa: PLC0415

    side = LATENT_SIDE // 2
    shapes = {
        "hidden_states": torch.randn(1, side * side, 64),
        "encoder_hidden_states": torch.randn(1, TEXT_TOKENS, TEXT_WIDTH),
        "pooled_projections": torch.randn(1, TEXT_WIDTH),
        "timestep": torch.ones(1),
        "guidance": torch.full((1,), 4.0),  # exact in bfloat16, times 1000
        "img_ids": torch.stack(
            (
                torch.zeros(side * side),
                torch.arange(side).repeat_interleave(side).float(),
                torch.arange(side).repeat(side).float(),
            ),
            dim=1,
        ),
        "txt_ids": torch.zeros(TEXT_TOKENS, 3),
    }
    return {name: value.to(device, dtype) for name, value in shapes.items()}
