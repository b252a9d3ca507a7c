import numpy as np
import pytest
from PIL import Image

from pictor.catalog.v1 import model_pb2
from services.inference.worker.frames import Size, fitted, frame

NATIVE = model_pb2.Size(width_px=256, height_px=256)


def test_a_size_that_the_model_draws_keeps_every_pixel(gradient):
    """
    Without a native size, or at it, nothing is resampled.
    """
    picture = gradient(64, 32)
    one = frame(Size(64, 32), None, 8, from_picture=False)

    assert one.canvas == (64, 32)
    assert one.finish(picture).tobytes() == picture.tobytes()
    assert frame(Size(256, 256), NATIVE, 8, from_picture=True).canvas == (256, 256)


def test_an_odd_size_is_drawn_larger_and_cut(gradient):
    """
    A canvas is a multiple of what the family draws, and the result as large as was asked for.
    """
    one = frame(Size(61, 47), None, 8, from_picture=True)
    picture = gradient(61, 47)
    canvas = one.inputs.onto(picture)

    assert one.canvas == canvas.size == (64, 48)
    assert one.finish(canvas).tobytes() == picture.tobytes()


def test_the_same_ratio_is_a_plain_enlargement(gradient):
    """
    A square on a square is scaled, and nothing is added.
    """
    picture = gradient(256, 256)
    large = frame(Size(768, 768), NATIVE, 8, from_picture=False).finish(picture)

    assert large.tobytes() == picture.resize((768, 768), Image.Resampling.LANCZOS).tobytes()


@pytest.mark.parametrize("size", [(512, 256), (100, 300), (1, 2000), (300, 299)])
def test_there_and_back_is_where_it_was(size):
    """
    A mark in an input image is at the same place in the result, whatever the sizes.
    """
    placement = fitted(Size(*size), Size(256, 256))
    scale_x = placement.scaled.width_px / size[0]
    scale_y = placement.scaled.height_px / size[1]

    assert placement.onto(Image.new("RGB", size)).size == (256, 256)
    assert placement.off(Image.new("RGB", (256, 256))).size == size
    assert scale_x == pytest.approx(scale_y, rel=0.01) or 1 in placement.scaled


def test_edges_are_repeated(gradient):
    """
    What a picture does not cover shows its outermost pixels.
    """
    picture = gradient(100, 50)
    pixels = np.asarray(fitted(Size(100, 50), Size(100, 70)).onto(picture))

    assert (pixels[:10] == pixels[10]).all()
    assert (pixels[60:] == pixels[59]).all()


def test_masks_stay_black_and_white(half_mask):
    """
    A mask is scaled without new values.
    """
    mask = fitted(Size(64, 64), Size(100, 90)).onto(half_mask(), Image.Resampling.NEAREST)

    assert set(np.unique(np.asarray(mask))) == {0, 255}
