import subprocess
import sys

import pytest

from pictor.errors.v1 import error_reason_pb2 as reasons
from services.inference import samplers
from services.inference.samplers import check_sampler, resolve
from services.rpc.errors import InvalidRequest


@pytest.mark.parametrize(
    ("sampler", "schedule", "scheduler", "spacing"),
    [
        ("Euler a", "", "EulerAncestralDiscreteScheduler", "automatic"),
        ("euler A", "", "EulerAncestralDiscreteScheduler", "automatic"),
        ("DPM++ 2M Karras", "", "DPMSolverMultistepScheduler", "karras"),
        ("DPM++ 2M SGM Uniform", "", "DPMSolverMultistepScheduler", "sgm_uniform"),
        ("DPM++ 2M", "Karras", "DPMSolverMultistepScheduler", "karras"),
        ("DPM++ 2M Karras", "exponential", "DPMSolverMultistepScheduler", "exponential"),
        ("UniPCMultistepScheduler", "", "UniPCMultistepScheduler", "automatic"),
        ("DDIM", "automatic", "DDIMScheduler", "automatic"),
    ],
)
def test_names_are_found(sampler, schedule, scheduler, spacing):
    """
    AUTOMATIC1111's names and diffusers' classes are known; a name may end in a schedule.
    """
    choice = resolve(sampler, schedule)

    assert (choice.sampler.scheduler, choice.schedule.name) == (scheduler, spacing)


def test_nothing_named_keeps_the_models_own():
    """
    Without a sampler the model's scheduler stays as it is.
    """
    choice = resolve("", "")

    assert choice.sampler is None
    assert choice.options == {}


def test_an_unknown_sampler_lists_the_close_names_first():
    """
    A slip of the pen is answered with what was probably meant.
    """
    with pytest.raises(InvalidRequest) as refused:
        check_sampler("DPM+ 2M", "")

    assert refused.value.reason == reasons.ERROR_REASON_FIELD_UNSUPPORTED
    assert refused.value.violations[0].field == "generation.sampler"
    assert "'DPM+ 2M' is not known; there are DPM++ 2M, " in refused.value.message
    assert "Euler a" in refused.value.message


def test_an_unknown_schedule_lists_the_names():
    """
    The error of a schedule names its field and the alternatives.
    """
    with pytest.raises(InvalidRequest) as refused:
        check_sampler("Euler", "karas")

    assert refused.value.violations[0].field == "generation.schedule"
    assert "there are karras, automatic" in refused.value.message


def test_a_schedule_that_a_sampler_lacks_is_refused():
    """
    DDIM has no Karras schedule, and says which it has.
    """
    with pytest.raises(InvalidRequest, match="sampler DDIM has no schedule karras; it has auto"):
        check_sampler("DDIM Karras", "")


def test_names_need_neither_torch_nor_diffusers():
    """
    The inference service checks names without the seconds that torch takes to import.
    """
    code = f"import sys, {samplers.__name__}; print({{'torch', 'diffusers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"
