"""What every family keeps to; its test subclasses this with a tiny checkpoint and its calls."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1.job_pb2 import ParameterNote
from pictor.inference.v1.progress_pb2 import Progress
from services.inference.worker.families import families
from services.inference.worker.frames import Size
from services.inference.worker.inputs import Inputs
from services.rpc.errors import Canceled, InvalidRequest
from tests.services.inference.worker.conftest import Drawer

SIZE = Size(64, 48)
STEPS = 3
SEED = 7
GUIDANCE = 4.0
PROMPT = "a red circle"
CHANGING = (model_pb2.OPERATION_IMAGE_TO_IMAGE, model_pb2.OPERATION_INPAINT)
OPERATIONS = [value for value in model_pb2.Operation.values() if value]


# diffusers hands tensors to NumPy in the ways of NumPy 1.
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
class FamilyConformance:
    """
    Tests of one family.

    Attributes:
        name: The family's.
    """

    name: str

    @classmethod
    def save(cls, folder: pathlib.Path) -> None:
        """Save a tiny checkpoint with random weights."""
        raise NotImplementedError

    def call(self, operation: model_pb2.Operation.ValueType, inputs: Inputs) -> dict[str, object]:
        """What a user of diffusers writes; prompt, steps and generator are added."""
        raise NotImplementedError

    def bare(self, folder: pathlib.Path, operation: model_pb2.Operation.ValueType, **parts: object):
        """Load the pipeline as a user of diffusers does."""
        import diffusers

        cls = getattr(diffusers, families()[self.name].pipelines[operation])
        pipeline = cls.from_pretrained(folder, **parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @pytest.fixture(scope="class")
    @classmethod
    def family(cls):
        return families()[cls.name]

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory, engine):
        import torch

        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("models") / cls.name
        cls.save(folder)
        return folder

    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls, engine, folder):
        return type(engine)("cpu", [folder.parent])

    @pytest.fixture
    def draw(self, loaded):
        model = model_pb2.Model(
            name=f"models/{self.name}",
            family=self.name,
            checkpoint=model_pb2.Checkpoint(folder=self.name),
        )
        drawer = Drawer(loaded, model)

        def merged(fields):
            size = {"width_px": SIZE.width_px, "height_px": SIZE.height_px}
            common = {"prompt": PROMPT, "step_count": STEPS, "guidance_scale": GUIDANCE, **size}
            return {**common, "seed": SEED, **fields}

        def draw(inputs=None, **fields):
            return drawer(inputs, **merged(fields))

        def staggered(requests):
            outcomes = []
            for fields in requests:
                given = {**fields}
                outcomes.append(drawer.begin(given.pop("inputs"), **merged(given)))
                loaded.step()
                loaded.step()
            while loaded.is_busy:
                loaded.step()
            return [outcome.result() for outcome in outcomes]

        draw.er, draw.staggered, draw.merged = drawer, staggered, merged
        return draw

    @pytest.fixture
    def inputs_of(self, gradient, half_mask):
        def make(operation, size=SIZE):
            if operation == model_pb2.OPERATION_EDIT:
                return Inputs(references=(gradient(80, 64),))
            image = gradient(*size) if operation in CHANGING else None
            mask = half_mask(*size) if operation == model_pb2.OPERATION_INPAINT else None
            return Inputs(image, mask)

        return make

    @pytest.fixture
    def first(self, family, inputs_of):
        """The first operation that the family has, as a request."""
        operation = next(iter(family.pipelines))
        return {"operation": operation, "inputs": inputs_of(operation), **strength(operation)}

    def bare_picture(self, pipeline, operation, inputs, **more):
        import torch

        return pipeline(
            prompt=PROMPT,
            num_inference_steps=STEPS,
            generator=torch.Generator("cpu").manual_seed(SEED),
            **self.call(operation, inputs),
            **more,
        ).images[0]

    def test_every_operation_draws_what_the_bare_pipeline_draws(
        self, family, folder, draw, inputs_of
    ):
        """
        Serving changes nothing: diffusers called by hand with the same seed draws the same picture.
        """
        for operation in family.pipelines:
            inputs = inputs_of(operation)
            (served,) = draw(inputs, operation=operation, **strength(operation)).images
            expected = self.bare_picture(self.bare(folder, operation), operation, inputs)
            # What the mask keeps is the input's, in which the decoder has no say.
            repainted = SIZE.width_px // 2 if inputs.mask else 0

            assert served.size == SIZE
            difference = np.abs(pixels(served) - pixels(scaled(expected)))[:, repainted:]
            assert difference.max() <= 1, model_pb2.Operation.Name(operation)

    def test_a_seed_gives_the_same_pixels_again(self, draw, first):
        """
        The same request draws the same picture; another seed draws another.
        """
        once, again, other = (draw(**first, seed=seed).images[0] for seed in (SEED, SEED, SEED + 1))

        assert once.tobytes() == again.tobytes()
        assert once.tobytes() != other.tobytes()

    def test_strangers_change_nothing(self, family, draw, inputs_of):
        """
        Jobs with other prompts, seeds, guidance and steps, which come and go in the midst of each
        other, draw what each of them draws alone.
        """
        for operation in family.pipelines:
            requests = [{"inputs": inputs_of(operation), **given} for given in strangers(operation)]
            singles = [draw(**fields).images[0] for fields in requests]
            together = draw.staggered(requests)
            for single, drawing in zip(singles, together, strict=True):
                assert np.abs(pixels(single) - pixels(drawing.images[0])).max() <= 1

    def test_strangers_share_forwards(self, family, draw, inputs_of):
        """
        Rows of different jobs are answered by common forwards, where the family is stepped.
        """
        if not family.denoiser:
            pytest.skip(f"family {self.name} is not stepped")
        for operation in family.pipelines:
            requests = [{"inputs": inputs_of(operation), **given} for given in strangers(operation)]
            with draw.er.forwards() as alone:
                for fields in requests:
                    draw(**fields)
            with draw.er.forwards() as shared:
                draw.staggered(requests)

            assert sum(shared) == sum(alone), "as many rows"
            assert len(shared) < 0.7 * len(alone), "in fewer forwards"

    def test_a_short_job_is_not_held_up_by_a_long_one(self, draw, first):
        """
        Whether or not they share forwards, a short job that comes later is done earlier.
        """
        fields = {**first}
        inputs = fields.pop("inputs")
        done = []
        for steps in (12, 3):
            outcome = draw.er.begin(inputs, **draw.merged({**fields, "step_count": steps}))
            outcome.add_done_callback(lambda _, steps=steps: done.append(steps))
            draw.er.engine.step()
        while draw.er.engine.is_busy:
            draw.er.engine.step()

        assert done == [3, 12]

    def test_guidance_takes_one_forward_a_step(self, family, loaded, draw, first):
        """
        The prediction without the prompt is computed with the other, from the second step on.
        """
        if not family.denoiser:
            pytest.skip(f"family {self.name} is not stepped")
        with draw.er.forwards() as forwards:
            draw(**first, negative_prompt="grey")

        assert len(forwards) <= STEPS + 1
        assert forwards[-1] == forwards[-2] <= 2

    def test_progress_rises_to_its_end(self, draw, first):
        """
        Every step is told, and no more; then the picture is decoded.
        """
        draw(**first)
        told = [
            (p.step, p.step_count) for p in draw.er.progress if p.phase != Progress.PHASE_LOADING
        ]
        steps = [step for step in told if step[1]]

        assert steps == [*((k, STEPS) for k in range(1, STEPS + 1)), (STEPS, STEPS)]
        assert draw.er.progress[-1].phase == Progress.PHASE_DECODING

    def test_a_stopped_attempt_ends_at_its_next_step(self, draw, first):
        """
        Nothing is computed after the step in which the caller went away.
        """

        def stop_at_one(reports, report):
            if report.progress.step == 1:
                reports.stop()

        draw.er.on_report = stop_at_one
        with pytest.raises(Canceled):
            draw(**first, step_count=50)

        assert draw.er.progress[-1].step == 1

    def test_a_preview_shows_the_whole_picture(self, family, draw, first):
        """
        As many as were asked for, of the picture's ratio; none where the family has none.
        """
        draw(**first, preview_count=1)
        sizes = [Image.open(io.BytesIO(preview.content)).size for preview in draw.er.previews]

        assert sizes == ([SIZE] if family.spatial else [])

    def test_a_preview_is_drawn_of_what_becomes_the_picture(self, family, folder, inputs_of):
        """
        Latents are laid out and scaled as the pipeline does it: its decoder makes the picture of
        them; and the last that a preview would show are the finished ones.
        """
        if not family.spatial:
            pytest.skip(f"family {self.name} has no previews")
        import torch

        from services.inference.worker import previews, sketches

        operation, kept = next(iter(family.pipelines)), {}
        pipeline = self.bare(folder, operation)
        predictions = previews.Predictions(pipeline.scheduler)

        def keep(_pipeline, _index, _timestep, tensors):
            return kept.update(tensors) or dict(tensors)

        inputs = inputs_of(operation)
        picture = self.bare_picture(pipeline, operation, inputs, callback_on_step_end=keep)
        for latents in (kept["latents"], predictions.latents):
            with torch.no_grad():
                laid_out = family.spatial(pipeline, latents, SIZE)
                drawn = sketches.decoded(pipeline.vae, laid_out)[0].permute(1, 2, 0)
            shown = (drawn.clamp(-1, 1) + 1) * 127.5
            assert np.abs(shown.numpy() - pixels(picture)).max() <= 1.5

    def test_a_preview_has_a_pixel_for_each_latent(self, family, folder, inputs_of):
        """
        The model's decoder is studied whatever it is made of, and what it was studied for drawn.
        """
        if not family.spatial:
            pytest.skip(f"family {self.name} has no previews")
        from services.inference.worker.sketches import Sketcher

        operation, kept = next(iter(family.pipelines)), {}
        pipeline = self.bare(folder, operation)

        def keep(_pipeline, _index, _timestep, tensors):
            return kept.update(tensors) or dict(tensors)

        picture = self.bare_picture(
            pipeline, operation, inputs_of(operation), callback_on_step_end=keep
        )
        sketch = Sketcher().sketch(family, pipeline, kept["latents"], SIZE)

        assert sketch.picture().size == (picture.width // 8, picture.height // 8)

    def test_an_operation_that_the_family_lacks_is_refused(self, family, draw, inputs_of):
        """
        Each operation that is not in the family's record is refused with its reason.
        """
        for operation in set(OPERATIONS) - set(family.pipelines):
            with pytest.raises(InvalidRequest) as refused:
                draw(inputs_of(operation), operation=operation)

            assert refused.value.reason == reasons.ERROR_REASON_OPERATION_UNSUPPORTED

    def test_references_are_taken_as_many_as_the_family_says(
        self, family, draw, gradient, inputs_of
    ):
        """
        One more is refused, instead of being left out.
        """
        for operation in family.pipelines:
            most = family.max_references.get(operation, 0)
            given = inputs_of(operation)
            inputs = Inputs(given.image, given.mask, (gradient(80, 64),) * (most + 1))
            with pytest.raises(InvalidRequest) as refused:
                draw(inputs, operation=operation)

            assert refused.value.reason == reasons.ERROR_REASON_INPUT_IMAGE_COUNT

    def test_inpainting_keeps_what_the_mask_keeps(self, family, draw, inputs_of):
        """
        Pixels outside of the mask are the input's, bit by bit; pixels within are not.
        """
        operation, size = model_pb2.OPERATION_INPAINT, (61, 47)
        if operation not in family.pipelines:
            pytest.skip(f"family {self.name} does not inpaint")
        inputs, middle = inputs_of(operation, size), size[0] // 2
        fields = {"operation": operation, "width_px": size[0], "height_px": size[1]}
        picture = draw(inputs, **fields, **strength(operation)).images[0]

        assert picture.size == size
        assert (pixels(picture)[:, :middle] == pixels(inputs.image)[:, :middle]).all()
        assert (pixels(picture)[:, middle:] != pixels(inputs.image)[:, middle:]).any()

    def test_samplers_and_schedules_are_used_or_noted(self, family, draw, first):
        """
        What the family cannot use leaves the picture as it is, and is in the receipt.
        """
        plain = draw(**first).images[0]
        for field, value in (("sampler", "DPM++ 2M"), ("schedule", "karras")):
            drawing = draw(**first, **{field: value})
            notes = [(note.parameter, note.treatment) for note in drawing.receipt]
            unused = [] if field in family.uses else [(field, ParameterNote.TREATMENT_IGNORED)]
            changed = drawing.images[0].tobytes() != plain.tobytes()

            assert notes == unused or (field == "schedule" and not changed)
            assert changed or notes


def strangers(operation: model_pb2.Operation.ValueType) -> list[dict[str, object]]:
    """Requests that have nothing in common but the operation and the size."""
    common = {"operation": operation, **strength(operation)}
    return [
        {**common, "seed": 1, "step_count": 4},
        {**common, "seed": 2, "step_count": 6, "prompt": "two words", "guidance_scale": 2.0},
        {**common, "seed": 3, "step_count": 3, "negative_prompt": "blue"},
    ]


def strength(operation: model_pb2.Operation.ValueType) -> dict[str, float]:
    """All of it, so that each step is taken."""
    return {"strength": 1.0} if operation in CHANGING else {}


def scaled(picture: Image.Image) -> Image.Image:
    """As the result is, where a pipeline draws a size of its own."""
    return picture if picture.size == SIZE else picture.resize(SIZE, Image.Resampling.LANCZOS)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)
