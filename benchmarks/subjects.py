"""
What is measured: the suite as ``make serve`` starts it, and the bare script it is compared with.

The bare script is what somebody would write without Pictor: import diffusers, load the same folder,
call the pipeline, save a PNG. It uses the same folder, steps, guidance, seed, dtype and threads.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import httpx

ROOT = pathlib.Path(__file__).parents[1]
MODEL = ROOT / "models/pictor/shapes"
PROMPT = "a red circle on a white background"
STEPS, GUIDANCE, SEED = 20, 3.0, 7

BARE = """
import sys, torch
from diffusers import StableDiffusionPipeline
folder, prompt, steps, guidance, seed = sys.argv[1:6]
pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
print("ready", flush=True)
for line in sys.stdin:
    generator = torch.Generator().manual_seed(int(seed))
    image = pipe(prompt, num_inference_steps=int(steps), guidance_scale=float(guidance),
                 generator=generator).images[0]
    image.save(line.strip())
    print("drawn", flush=True)
"""


class Bare:
    """The bare script, in a process of its own."""

    def __init__(self) -> None:
        arguments = [str(MODEL), PROMPT, str(STEPS), str(GUIDANCE), str(SEED)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", BARE, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ready(self) -> None:
        """Wait until the pipeline is loaded."""
        self._line()

    def draw(self, path: pathlib.Path) -> None:
        """Draw one picture into *path*."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        self._line()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _line(self) -> None:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError("the bare script has ended")


@dataclass
class Suite:
    """The suite, started as ``make serve`` does."""

    process: subprocess.Popen[bytes]
    url: str
    data_dir: pathlib.Path
    # One client for all requests, as a program has it: making one reads all root certificates.
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=120))

    def ready(self) -> None:
        """Wait until a picture can be drawn."""
        while True:
            with contextlib.suppress(httpx.TransportError):
                if self.client.get(f"{self.url}/readyz").status_code == 200:
                    return
            if self.process.poll() is not None:
                raise RuntimeError("the suite has ended")
            time.sleep(0.02)

    def draw(self, path: pathlib.Path) -> None:
        """Draw one picture through OpenAI's API and save what its URL answers."""
        key = (self.data_dir / "api-key").read_text().strip()
        body = {
            "model": "pictor/shapes",
            "prompt": PROMPT,
            "steps": STEPS,
            "guidance_scale": GUIDANCE,
            "seed": SEED,
        }
        answer = self.client.post(
            f"{self.url}/v1/images/generations",
            json=body,
            headers={"authorization": f"Bearer {key}"},
        )
        answer.raise_for_status()
        path.write_bytes(self.client.get(json.loads(answer.text)["data"][0]["url"]).content)


@contextlib.contextmanager
def suite_in(data_dir: pathlib.Path, settings: Mapping[str, str] | None = None) -> Iterator[Suite]:
    """
    Start a suite with its data in *data_dir*, and stop it at the end of the block.

    Args:
        data_dir: Of this suite only.
        settings: Further variables of its environment.
    """
    address = f"127.0.0.1:{free_port()}"
    ports = {
        f"PICTOR_{part}_ADDRESS": "127.0.0.1:0"
        for part in ("ACCOUNTS", "CATALOG", "INFERENCE", "STORAGE")
    }
    environ = {**os.environ, **ports, "PICTOR_HTTP_ADDRESS": address}
    process = subprocess.Popen(
        [sys.executable, "-m", "services"],
        cwd=ROOT,
        env={**environ, "PICTOR_DATA_DIR": str(data_dir), **(settings or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    suite = Suite(process, f"http://{address}", data_dir)
    try:
        yield suite
    finally:
        suite.client.close()
        process.terminate()
        process.wait(30)


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
