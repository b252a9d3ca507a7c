"""Which devices there are processes for."""

import os
import subprocess
import sys

import pytest

from services.inference.worker.__main__ import WorkerSettings
from services.inference.worker.devices import devices, further, may_have_gpus
from services.rpc.settings import SettingError, read


def test_several_devices_are_named_with_commas():
    """
    Each name is one process's device, in the order given; blanks do not matter.
    """
    assert devices("cuda:0, cuda:1") == ("cuda:0", "cuda:1")
    assert devices("auto") == ("auto",)


@pytest.mark.parametrize("text", ["cuda:0,auto", "cpu,", "cuda:0;cuda:1", "gpu"])
def test_what_names_no_devices_is_refused(text):
    """
    The error says what may be named; auto stands alone, since it means all there are.
    """
    with pytest.raises(SettingError, match="must be auto, cpu, mps, cuda or cuda:N"):
        read(WorkerSettings, {"PICTOR_DEVICE": text})


def test_one_process_has_one_device():
    """
    A process that is started by itself with several devices says that it cannot.
    """
    done = subprocess.run(
        [sys.executable, "-m", "services.inference.worker"],
        env={**os.environ, "PICTOR_DEVICE": "cpu,cpu"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "PICTOR_DEVICE='cpu,cpu': one device process draws on one device" in done.stderr
    assert "Traceback" not in done.stderr


def test_gpus_are_looked_for_where_a_driver_shows_them(tmp_path):
    """
    Torch is not imported for counting where no driver has left its mark.
    """
    (tmp_path / "nvidiactl").touch()
    assert not may_have_gpus(tmp_path)

    (tmp_path / "nvidia0").touch()
    assert may_have_gpus(tmp_path)


def test_auto_takes_the_first_gpu_and_the_others_follow():
    """
    The first process chooses for itself; each further GPU gets a process of its own.
    """
    assert further(3) == ("cuda:1", "cuda:2")
    assert further(0) == further(1) == ()


def test_gpus_are_counted_by_a_child():
    """
    The child prints torch's number and nothing else.
    """
    import torch  # seconds, which only this test needs

    counted = subprocess.run(
        [sys.executable, "-m", "services.inference.worker.devices"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert counted.stdout.strip() == str(torch.cuda.device_count())
