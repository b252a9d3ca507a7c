"""Tensors under the names of the repositories that models were first published in."""

import re

import torch

Tensors = dict[str, torch.Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_MIDDLE = {"resnets.0": "block_1", "resnets.1": "block_2", "attentions.0": "attn_1"}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
KINDS = ("weight", "bias")
# Side, its norm, what is joined, perceptron, way out, norms of queries and keys.
FLUX_SIDES = (
    ("img", "norm1", ("to_q", "to_k", "to_v"), "ff", "to_out.0", "norm_"),
    (
        "txt",
        "norm1_context",
        ("add_q_proj", "add_k_proj", "add_v_proj"),
        "ff_context",
        "to_add_out",
        "norm_added_",
    ),
)
OPEN_CLIP = {
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
}


def unet(module) -> Tensors:
    """A UNet in the names of latent-diffusion."""
    layers, has_attention = module.config.layers_per_block, {}
    for kind in ("down", "up"):
        for index, block in enumerate(getattr(module, f"{kind}_blocks")):
            has_attention[kind, index] = hasattr(block, "attentions")

    def rename(name: str) -> str:
        for theirs, original in UNET.items():
            if name.startswith(f"{theirs}."):
                return name.replace(theirs, original, 1)
        if middle := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
            kind, number, rest = middle.groups()
            place = 1 if kind == "attentions" else 2 * int(number)
            return f"middle_block.{place}.{_in_resnet(kind, rest)}"
        kind, block, part, number, rest = re.match(
            r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name
        ).groups()
        block, number = int(block), int(number)
        if kind == "down":
            if part == "downsamplers":
                return f"input_blocks.{(block + 1) * (layers + 1)}.0.{rest.replace('conv', 'op')}"
            first = f"input_blocks.{1 + block * (layers + 1) + number}"
        elif part == "upsamplers":
            last = block * (layers + 1) + layers
            return f"output_blocks.{last}.{2 if has_attention[kind, block] else 1}.{rest}"
        else:
            first = f"output_blocks.{block * (layers + 1) + number}"
        return f"{first}.{1 if part == 'attentions' else 0}.{_in_resnet(part, rest)}"

    return {f"model.diffusion_model.{rename(k)}": v for k, v in module.state_dict().items()}


def vae(module) -> Tensors:
    """A decoder in the names of latent-diffusion, in which attention is a convolution."""
    count = len(module.config.block_out_channels)

    def rename(name: str) -> str:
        if middle := re.match(r"(\w+)\.mid_block\.(\w+\.\d)\.(.*)", name):
            half, part, rest = middle.groups()
            if part.startswith("attentions"):
                for theirs, original in VAE_ATTENTION.items():
                    rest = re.sub(rf"^{re.escape(theirs)}\.", f"{original}.", rest)
            return f"{half}.mid.{VAE_MIDDLE[part]}.{rest}"
        if block := re.match(r"(\w+)\.(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name):
            half, kind, number, part, layer, rest = block.groups()
            number = int(number) if kind == "down" else count - 1 - int(number)
            if part == "resnets":
                rest = rest.replace("conv_shortcut", "nin_shortcut")
                return f"{half}.{kind}.{number}.block.{layer}.{rest}"
            return f"{half}.{kind}.{number}.{kind}sample.{rest}"
        return name.replace("conv_norm_out", "norm_out")

    tensors = {}
    for name, tensor in module.state_dict().items():
        original = rename(name)
        convolved = ".attn_1." in original and original.endswith("weight") and tensor.ndim == 2
        tensors[f"first_stage_model.{original}"] = tensor[..., None, None] if convolved else tensor
    return tensors


def clip(module, prefix: str) -> Tensors:
    """A text encoder in transformers' names, with the positions that were once saved."""
    count = module.config.max_position_embeddings
    tensors = {f"{prefix}text_model.{_unwrapped(k)}": v for k, v in module.state_dict().items()}
    positions = torch.arange(count).unsqueeze(0)
    return {**tensors, f"{prefix}text_model.embeddings.position_ids": positions}


def open_clip(module, prefix: str) -> Tensors:
    """A text encoder in OpenCLIP's names, in which queries, keys and values are one tensor."""
    state = {_unwrapped(k): v for k, v in module.state_dict().items()}
    tensors = {
        "token_embedding.weight": state.pop("embeddings.token_embedding.weight"),
        "positional_embedding": state.pop("embeddings.position_embedding.weight"),
        "ln_final.weight": state.pop("final_layer_norm.weight"),
        "ln_final.bias": state.pop("final_layer_norm.bias"),
        "text_projection": state.pop("text_projection.weight").T,
        "logit_scale": torch.tensor(4.6),
    }
    for layer in range(module.config.num_hidden_layers):
        theirs, original = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in KINDS:
            joined = [state.pop(f"{theirs}self_attn.{one}_proj.{kind}") for one in "qkv"]
            tensors[f"{original}attn.in_proj_{kind}"] = torch.cat(joined)
            for name, name_then in OPEN_CLIP.items():
                tensors[f"{original}{name_then}.{kind}"] = state.pop(f"{theirs}{name}.{kind}")
    assert not state
    return {prefix + name: tensor for name, tensor in tensors.items()}


def flux(module) -> Tensors:
    """FLUX.1's transformer in its maker's names."""
    state = dict(module.state_dict())
    tensors = _flux_ends(state)
    for layer in range(module.config.num_layers):
        names = f"double_blocks.{layer}.", f"transformer_blocks.{layer}."
        for side in FLUX_SIDES:
            tensors |= _flux_side(state, names, side)
    for layer in range(module.config.num_single_layers):
        new, old = f"single_transformer_blocks.{layer}.", f"single_blocks.{layer}."
        joined = [f"{new}attn.to_{one}" for one in "qkv"]
        tensors |= _moved(state, f"{old}modulation.lin", f"{new}norm.linear")
        tensors |= _moved(state, f"{old}linear1", *joined, f"{new}proj_mlp")
        tensors |= _moved(state, f"{old}linear2", f"{new}proj_out")
        tensors |= _flux_norms(state, f"{old}norm.", f"{new}attn.norm_")
    assert not state, sorted(state)
    return tensors


def _flux_ends(state: Tensors) -> Tensors:
    tensors = {}
    for original, theirs in (("time", "timestep"), ("vector", "text"), ("guidance", "guidance")):
        new, old = f"time_text_embed.{theirs}_embedder.", f"{original}_in."
        tensors |= _moved(state, f"{old}in_layer", f"{new}linear_1")
        tensors |= _moved(state, f"{old}out_layer", f"{new}linear_2")
    tensors |= _moved(state, "txt_in", "context_embedder")
    tensors |= _moved(state, "img_in", "x_embedder")
    tensors |= _moved(state, "final_layer.linear", "proj_out")
    for kind in KINDS:
        # Scale and shift stand the other way round.
        scale, shift = state.pop(f"norm_out.linear.{kind}").chunk(2)
        tensors[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat([shift, scale])
    return tensors


def _flux_side(state: Tensors, names: tuple[str, str], parts: tuple) -> Tensors:
    (old, new), (side, norm, joined, perceptron, out, norms) = names, parts
    return {
        **_moved(state, f"{old}{side}_mod.lin", f"{new}{norm}.linear"),
        **_moved(state, f"{old}{side}_attn.qkv", *(f"{new}attn.{one}" for one in joined)),
        **_moved(state, f"{old}{side}_attn.proj", f"{new}attn.{out}"),
        **_moved(state, f"{old}{side}_mlp.0", f"{new}{perceptron}.net.0.proj"),
        **_moved(state, f"{old}{side}_mlp.2", f"{new}{perceptron}.net.2"),
        **_flux_norms(state, f"{old}{side}_attn.norm.", f"{new}attn.{norms}"),
    }


def _flux_norms(state: Tensors, old: str, new: str) -> Tensors:
    pairs = (("query", "q"), ("key", "k"))
    return {f"{old}{one}_norm.scale": state.pop(f"{new}{letter}.weight") for one, letter in pairs}


def _moved(state: Tensors, original: str, *theirs: str) -> Tensors:
    """Take layers out of a state, side by side under their original name; none where none are."""
    return {
        f"{original}.{kind}": torch.cat([state.pop(f"{name}.{kind}") for name in theirs])
        for kind in KINDS
        if f"{theirs[0]}.{kind}" in state
    }


def _in_resnet(kind: str, rest: str) -> str:
    if kind != "resnets":
        return rest
    name, dot, end = rest.partition(".")
    return RESNET[name] + dot + end


def _unwrapped(name: str) -> str:
    return name.removeprefix("text_model.")
