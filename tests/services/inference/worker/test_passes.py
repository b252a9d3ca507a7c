import numpy as np
import pytest
from PIL import Image

from pictor.catalog.v1 import model_pb2
from pictor.inference.v1.refinement_pb2 import HiresPass, MaskTreatment, TiledPass
from pictor.storage.v1 import resampling_pb2
from services.inference.worker.frames import Size
from services.inference.worker.inputs import Inputs
from services.inference.worker.masking import close_up
from services.inference.worker.passes import tile_boxes

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
SIDE = 64
HIRES = {"width_px": 2 * SIDE, "height_px": 2 * SIDE, "strength": 0.5}


def test_a_hires_pass_starts_from_the_first_ones_picture(draw):
    """
    It equals image-to-image from the enlarged picture, with the same seed.
    """
    small = draw.picture(step_count=4)
    drawn = draw.picture(step_count=4, hires=HiresPass(**HIRES))
    enlarged = small.resize((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS)
    again = draw.picture(
        Inputs(image=enlarged),
        step_count=4,
        strength=0.5,
        width_px=2 * SIDE,
        height_px=2 * SIDE,
    )

    assert drawn.size == (2 * SIDE, 2 * SIDE)
    assert drawn.tobytes() == again.tobytes()


def test_a_hires_pass_without_strength_only_enlarges(draw):
    """
    By the resampling that was asked for.
    """
    nearest = resampling_pb2.RESAMPLING_NEAREST
    hires = HiresPass(**{**HIRES, "strength": 0}, resampling=nearest)
    drawn = draw.picture(step_count=2, hires=hires)

    small = draw.picture(step_count=2)
    expected = small.resize((2 * SIDE, 2 * SIDE), Image.Resampling.NEAREST)
    assert drawn.tobytes() == expected.tobytes()


def test_progress_counts_the_steps_of_both_passes(draw):
    """
    It never falls, and ends at its count.
    """
    draw.reports.clear()
    draw(step_count=4, hires=HiresPass(**HIRES, step_count=6))

    told = [(one.step, one.step_count) for one in draw.progress if one.step_count]
    assert told[-1] == (7, 7)
    assert [step for step, _ in told] == sorted(step for step, _ in told)


def test_the_second_pass_may_have_a_prompt_of_its_own(draw):
    """
    Without one it has the first one's.
    """
    same = draw.picture(step_count=2, hires=HiresPass(**HIRES, prompt="a red circle"))
    other = draw.picture(step_count=2, hires=HiresPass(**HIRES, prompt="b"))
    plain = draw.picture(step_count=2, hires=HiresPass(**HIRES))

    assert same.tobytes() == plain.tobytes()
    assert other.tobytes() != plain.tobytes()


def test_tiles_draw_every_part_of_the_enlarged_picture(draw, gradient):
    """
    Parts differ from what was only enlarged, up to the edges.
    """
    tiles = TiledPass(factor=2, overlap_px=16)
    drawn = draw.picture(Inputs(image=gradient()), step_count=4, strength=0.5, tiles=tiles)

    enlarged = gradient().resize((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS)
    changed = (np.asarray(drawn) != np.asarray(enlarged)).any(axis=2)
    assert drawn.size == (2 * SIDE, 2 * SIDE)
    assert changed[:SIDE, :SIDE].any()
    assert changed[SIDE:, SIDE:].any()


def test_one_tile_is_plain_image_to_image(draw, gradient):
    """
    Where the enlarged picture is no larger than a tile.
    """
    given = {"step_count": 4, "strength": 0.5}
    tiles = TiledPass(factor=1, overlap_px=8)
    drawn = draw.picture(Inputs(image=gradient()), **given, tiles=tiles)

    assert drawn.tobytes() == draw.picture(Inputs(image=gradient()), **given).tobytes()


@pytest.mark.parametrize(
    ("picture", "tile", "overlap"),
    [((128, 128), (64, 64), 16), ((100, 64), (64, 64), 0), ((200, 50), (64, 64), 63)],
)
def test_tiles_cover_the_picture_and_overlap(picture, tile, overlap):
    """
    No pixel is left out, and no tile reaches beyond the edge.
    """
    covered = np.zeros(picture[::-1], int)
    for left, top, right, bottom in tile_boxes(Size(*picture), Size(*tile), overlap):
        assert 0 <= left < right <= picture[0]
        assert 0 <= top < bottom <= picture[1]
        covered[top:bottom, left:right] += 1

    assert covered.min() >= 1


def test_a_close_up_has_the_proportions_of_what_is_drawn():
    """
    It holds the mask and its padding, and stays within the picture.
    """
    mask = Image.new("L", (200, 100), 0)
    mask.paste(255, (180, 40, 200, 60))
    part = close_up(Inputs(Image.new("RGB", (200, 100)), mask), 10, Size(64, 64))

    left, top, right, bottom = part.box
    assert right - left == bottom - top
    assert left <= 170
    assert (right, top) == (200, 30)
    assert close_up(Inputs(Image.new("RGB", (8, 8)), Image.new("L", (8, 8))), 0, Size(8, 8)) is None


def test_a_close_up_keeps_what_the_mask_keeps(draw, gradient):
    """
    The result has the picture's size; only masked pixels change.
    """
    mask = Image.new("L", (160, 120), 0)
    mask.paste(255, (20, 20, 60, 50))
    whole = gradient(160, 120)
    drawn = draw.picture(
        Inputs(whole, mask),
        operation=model_pb2.OPERATION_INPAINT,
        strength=1.0,
        mask_treatment=MaskTreatment(padding_px=8),
    )

    changed = (np.asarray(drawn) != np.asarray(whole)).any(axis=2)
    assert drawn.size == (160, 120)
    assert changed[20:50, 20:60].any()
    changed[20:50, 20:60] = False
    assert not changed.any()


def test_an_interrupted_drawing_ends_with_what_it_has(draw):
    """
    No step is taken after that, and the receipt says how many were.
    """
    draw.reports.clear()
    draw.on_report = lambda reports, report: report.progress.step >= 2 and reports.finish()
    drawing = draw(step_count=20)
    draw.on_report = None

    notes = {note.parameter: note.used for note in drawing.receipt}
    assert int(notes["step_count"]) == 2
    assert max(one.step for one in draw.progress) == 2
    assert drawing.images[0].size == (SIDE, SIDE)


def test_an_interrupted_first_pass_is_only_enlarged(draw):
    """
    The second pass is left out.
    """
    draw.on_report = lambda reports, report: report.progress.step >= 1 and reports.finish()
    drawing = draw(step_count=20, hires=HiresPass(**HIRES))
    draw.on_report = None

    assert drawing.images[0].size == (2 * SIDE, 2 * SIDE)
    assert "step_count" in [note.parameter for note in drawing.receipt]
