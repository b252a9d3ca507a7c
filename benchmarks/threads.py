"""
Threads that sleep while they wait, over threads that spin: a step on two threads.

The local executor gives its device processes OMP_WAIT_POLICY=PASSIVE; the baseline is the default.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.report import Row

REPEATS = 3
STEP = """
import json, sys, time, torch
from diffusers import UNet2DConditionModel
torch.manual_seed(0), torch.set_grad_enabled(False)
unet = UNet2DConditionModel(in_channels=4, out_channels=4, block_out_channels=(64, 128),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=64,
    attention_head_dim=8, layers_per_block=1).eval()
side = int(sys.argv[1])
latents, text = torch.randn(2, 4, side, side), torch.randn(2, 16, 64)
seconds = []
for turn in range(14):
    started = time.perf_counter()
    unet(latents, 500, encoder_hidden_states=text)
    seconds.append(time.perf_counter() - started)
print(json.dumps(sorted(seconds[3:])[5]))
"""


def measure() -> list[Row]:
    """Take the median step of *REPEATS* processes of each kind, in turn."""
    rows = []
    for load in (0, os.cpu_count() or 1):
        for side in (16,):
            seconds: dict[str, list[float]] = {"PASSIVE": [], "": []}
            with _busy(load):
                for _ in range(REPEATS):
                    for policy, taken in seconds.items():
                        taken.append(_median_step(policy, side))
            beside = f"beside {load} busy processes" if load else "alone"
            rows.append(Row(f"UNet, latent {side}, {beside}", seconds["PASSIVE"], seconds[""]))
    return rows


def _median_step(policy: str, side: int) -> float:
    environ = {**os.environ, "OMP_NUM_THREADS": "2"} | (
        {"OMP_WAIT_POLICY": policy} if policy else {}
    )
    done = subprocess.run(
        [sys.executable, "-c", STEP, str(side)],
        env=environ,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return float(json.loads(done.stdout))


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    """Keep *count* processes computing within the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
