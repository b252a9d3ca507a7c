"""
The parts of the model before training, and the pipeline they make together.

    autoencoder    picture (n, 3, 256, 256)     to and from latents (n, 4, 32, 32)
    tokenizer      any text                     to 77 tokens, a word of the captions to one each
    text encoder   tokens (n, 77)               to states (n, 77, 128)
    unet           latents, timestep, states    to velocity (n, 4, 32, 32)
    scheduler      says what noise the velocity is to be added up against
"""

import itertools
from collections import Counter
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.shapes.captions import vocabulary
from training.shapes.pictures import SIDE_PX

# What diffusers and transformers annotate is partly wrong; their objects are taken as they come.
Autoencoder: TypeAlias = Any
Pipeline: TypeAlias = Any
Scheduler: TypeAlias = Any
TextEncoder: TypeAlias = Any
Tokenizer: TypeAlias = Any
Unet: TypeAlias = Any

LATENT_CHANNELS = 4
LATENT_SIDE = 32
TOKENS = 77
TEXT_WIDTH = 128
_END_OF_WORD = "</w>"
_START, _END = "<|startoftext|>", "<|endoftext|>"


def new_autoencoder() -> Autoencoder:
    """Eight times smaller latents, no attention: 1.2 million parameters."""
    channels = (32, 64, 64, 64)
    kind: Autoencoder = AutoencoderKL
    autoencoder = kind(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIDE_PX,
    )
    # The posterior starts narrow: at its usual width of 1 the first latents are noise only.
    with torch.no_grad():
        autoencoder.quant_conv.weight[LATENT_CHANNELS:] *= 0.1
        autoencoder.quant_conv.bias[LATENT_CHANNELS:] = -5.0
    return autoencoder


def new_unet() -> Unet:
    """Convolutions alone at 32 x 32, where they are cheap; attention to the text below."""
    kind: Unet = UNet2DConditionModel
    unet = kind(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 96, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=16,
    )
    torch.nn.init.zeros_(unet.conv_out.weight)
    return unet


def new_tokenizer() -> Tokenizer:
    """A byte-level tokenizer: a word of the captions is one token, any other text is bytes."""
    letters = sorted(ByteLevel.alphabet())
    merges = merges_of(vocabulary())
    tokens = [*letters, *(letter + _END_OF_WORD for letter in letters)]
    tokens += dict.fromkeys(first + second for first, second in merges)
    vocab = {token: index for index, token in enumerate([*tokens, _START, _END])}
    tokenizer: Tokenizer = CLIPTokenizer
    return tokenizer(vocab=vocab, merges=merges, model_max_length=TOKENS)


def merges_of(words: list[str]) -> list[tuple[str, str]]:
    """The byte-pair merges, commonest pair first, that make every word one token."""
    splits = [(*word[:-1], word[-1] + _END_OF_WORD) for word in words]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for split in splits for pair in itertools.pairwise(split)):
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        splits = [_merged(split, merges[-1]) for split in splits]
    return merges


def _merged(split: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for part in split:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return tuple(merged)


def new_text_encoder(tokenizer: Tokenizer) -> TextEncoder:
    """Two layers, 128 wide, trained together with the UNet."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def new_scheduler() -> Scheduler:
    """
    Stable Diffusion's noise, ending in noise alone.

    Without the zero terminal signal the last step still shows the picture's mean, and the
    model learns to take the background from the noise in place of the prompt.
    """
    scheduler: Scheduler = DDIMScheduler
    return scheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


def pipeline_of(
    autoencoder: Autoencoder, tokenizer: Tokenizer, text_encoder: TextEncoder, unet: Unet
) -> Pipeline:
    """The parts as one text-to-image pipeline, without a safety checker."""
    pipeline: Pipeline = StableDiffusionPipeline
    return pipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
