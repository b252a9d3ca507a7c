import pytest


@pytest.fixture
def silent(engine):
    """A pipeline from a picture, as diffusers once wrote them: it tells nobody of its steps."""
    import torch
    from diffusers import DDIMScheduler

    from services.inference.worker.stepwise import stepwise

    class SilentPipeline:
        def __init__(self):
            self.scheduler = DDIMScheduler()
            self.taken = 0

        def __call__(self, steps, left_out):
            self.scheduler.set_timesteps(steps)
            latents = torch.zeros(1, 4, 2, 2)
            for timestep in self.scheduler.timesteps[left_out:]:
                latents = self.scheduler.step(latents, timestep, latents).prev_sample
                self.taken += 1
            return latents

    return stepwise(SilentPipeline)()


def test_steps_are_counted_from_the_first_that_is_taken(silent):
    """
    A picture to start from leaves out the first ones; the number of the others is known at once.
    """
    told = []

    def on_step_end(pipeline, index, _timestep, tensors):
        told.append((index, pipeline.num_timesteps, tuple(tensors["latents"].shape)))
        return tensors

    silent(10, 4, callback_on_step_end=on_step_end)

    assert told == [(index, 6, (1, 4, 2, 2)) for index in range(6)]


def test_an_error_in_the_callback_ends_the_call(silent):
    """
    Nothing is computed afterwards, and the scheduler is as it was.
    """
    take = silent.scheduler.step

    def on_step_end(_pipeline, index, _timestep, tensors):
        if index == 2:
            raise KeyError
        return tensors

    with pytest.raises(KeyError):
        silent(10, 0, callback_on_step_end=on_step_end)

    assert silent.taken == 2
    assert silent.scheduler.step == take


def test_a_pipeline_that_tells_of_its_steps_stays_as_it_is(engine):
    """
    Those of the families have a callback of their own, which may change the latents.
    """
    from diffusers import FluxPipeline, PixArtSigmaPipeline

    from services.inference.worker.stepwise import stepwise

    assert stepwise(FluxPipeline) is FluxPipeline
    assert stepwise(PixArtSigmaPipeline).__name__ == "PixArtSigmaPipeline"
    assert issubclass(stepwise(PixArtSigmaPipeline), PixArtSigmaPipeline)
