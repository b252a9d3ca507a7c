"""
Checkpoints made by code: whole pipelines in diffusers' format, with random weights.

    UNET         a UNet of SDXL's kind, two text encoders, a decoder
    TRANSFORMER  a transformer of FLUX.1's kind, two text encoders, a decoder

The denoisers are of such a width that batching gains on one core what ``forwards`` lists, much as
on a GPU that waits for its host: 3.5 times with eight rows at latent 8, 2.4 times at latent 16. All
else is as small as the pipelines allow. Weights are drawn from N(0, 1 / inputs), and nothing is
left at zero: products of zeros are faster, and a layer of zeros hides what batching does to it.
"""

import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

TEXT_WIDTH = 32
CLIP_TOKENS = 16
# What FLUX.1 reads of a prompt is 512 tokens, which would leave 64 of a small image no weight.
T5_TOKENS = 64
SMALLEST_DECODER: dict[str, Any] = {
    "block_out_channels": (4, 4, 4, 4),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "mid_block_add_attention": False,
}


@dataclass(frozen=True)
class Checkpoint:
    """
    A checkpoint that can be written.

    Attributes:
        name: Of its folder, and of its model.
        family: Draws with it.
        pipeline: The diffusers class.
        parts: Makes its parts.
        call: What its calls are told beside prompt, size, steps and guidance.
    """

    name: str
    family: str
    pipeline: str
    parts: Callable[[], dict[str, Any]]
    call: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: pathlib.Path, device: str = "cpu") -> None:
        """Write it to a folder of its name below *folder*; the same weights every time."""
        torch.manual_seed(0)
        with torch.device(device):
            parts = self.parts()
        for part in parts.values():
            if isinstance(part, torch.nn.Module):
                draw_weights(part)
        getattr(diffusers, self.pipeline)(**parts).save_pretrained(folder / self.name)


@torch.no_grad()
def draw_weights(module: torch.nn.Module) -> None:
    """Draw matrices from N(0, 1 / inputs); disturb biases and norms, which begin as constants."""
    for weight in module.parameters():
        if weight.ndim > 1:
            weight.normal_(std=(weight.numel() / len(weight)) ** -0.5)
        else:
            weight.add_(0.02 * torch.randn_like(weight))


def unet() -> Any:
    """Make the UNet: 5 million weights in three stages."""
    return diffusers.UNet2DConditionModel(  # type: ignore[no-untyped-call]  # diffusers
        sample_size=8,
        block_out_channels=(64, 96, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=2 * TEXT_WIDTH,
        attention_head_dim=(2, 3, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        # Six numbers of the size, and the second encoder's summary.
        projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
    )


def transformer() -> Any:
    """Make the transformer: 0.2 million weights in six blocks."""
    return diffusers.FluxTransformer2DModel(  # type: ignore[no-untyped-call]  # diffusers
        in_channels=64,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )


def sdxl_parts(
    denoiser: Any,
    text_widths: tuple[int, int] = (TEXT_WIDTH, TEXT_WIDTH),
    **decoder: Any,
) -> dict[str, Any]:
    """
    Put SDXL's other parts around a UNet.

    Args:
        denoiser: The UNet.
        text_widths: Of the two text encoders; what attention sees is as wide as both.
        decoder: Options of the decoder.
    """
    first, second = text_widths
    tokenizer = _clip_tokenizer()
    return {
        "vae": _decoder(latent_channels=4, scaling_factor=0.13025, **decoder),
        "unet": denoiser,
        "text_encoder": transformers.CLIPTextModel(_clip_config(tokenizer, first)),
        "tokenizer": tokenizer,
        "text_encoder_2": transformers.CLIPTextModelWithProjection(_clip_config(tokenizer, second)),
        "tokenizer_2": _clip_tokenizer(),
        "scheduler": _scheduler("EulerDiscreteScheduler", beta_schedule="scaled_linear"),
    }


def flux_parts(
    denoiser: Any, clip_width: int = TEXT_WIDTH, t5_width: int = TEXT_WIDTH, **decoder: Any
) -> dict[str, Any]:
    """
    Put FLUX.1's other parts around a transformer.

    Args:
        denoiser: The transformer.
        clip_width: Of the summary of the prompt.
        t5_width: Of its tokens.
        decoder: Options of the decoder.
    """
    tokenizer, tokenizer_2 = _clip_tokenizer(), _t5_tokenizer()
    return {
        "scheduler": _scheduler("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True),
        "vae": _decoder(
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
            **decoder,
        ),
        "text_encoder": transformers.CLIPTextModel(_clip_config(tokenizer, clip_width)),
        "tokenizer": tokenizer,
        "text_encoder_2": transformers.T5EncoderModel(
            transformers.T5Config(
                vocab_size=len(tokenizer_2),
                d_model=t5_width,
                d_kv=16,
                d_ff=TEXT_WIDTH,
                num_layers=1,
                num_heads=2,
            )
        ),
        "tokenizer_2": tokenizer_2,
        "transformer": denoiser,
    }


def _scheduler(name: str, **options: Any) -> Any:
    return getattr(diffusers, name)(**options)


def _decoder(**options: Any) -> Any:
    return diffusers.AutoencoderKL(  # type: ignore[no-untyped-call]  # diffusers
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **SMALLEST_DECODER | options,
    )


def _clip_tokenizer() -> Any:
    letters = sorted(ByteLevel.alphabet())
    ends = [f"{letter}</w>" for letter in letters]
    tokens = [*letters, *ends, "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=CLIP_TOKENS)


def _clip_config(tokenizer: Any, width: int) -> Any:
    return transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=TEXT_WIDTH,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _t5_tokenizer() -> Any:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(chr(code), -3.0) for code in range(ord("a"), ord("z") + 1)]
    return transformers.T5TokenizerFast(  # type: ignore[attr-defined]  # found when asked for
        vocab=[*special, *letters], extra_ids=0, model_max_length=512
    )


UNET = Checkpoint(
    "bench/unet", "stable-diffusion-xl", "StableDiffusionXLPipeline", lambda: sdxl_parts(unet())
)
TRANSFORMER = Checkpoint(
    "bench/transformer",
    "flux",
    "FluxPipeline",
    lambda: flux_parts(transformer()),
    {"max_sequence_length": T5_TOKENS},
)
