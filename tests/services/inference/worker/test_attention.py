import pytest

from pictor.inference.v1 import generation_pb2
from services.inference.worker.families import families
from tests.services.inference.worker.conftest import Drawer
from tests.services.inference.worker.families import test_stable_diffusion_xl as xl

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
WEBUI = generation_pb2.Generation.PROMPT_SYNTAX_WEBUI


@pytest.fixture(params=["stable-diffusion", "stable-diffusion-xl"])
def weigh(request, engine, model, tmp_path_factory):
    """Draw with one encoder or with two; return the pixels."""
    if request.param == "stable-diffusion":
        drawer = Drawer(engine, model)
    else:
        import torch

        from pictor.catalog.v1 import model_pb2

        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("xl") / request.param
        xl.TestStableDiffusionXL.save(folder)
        checkpoint = model_pb2.Checkpoint(folder=request.param)
        two = model_pb2.Model(name="models/xl", family=request.param, checkpoint=checkpoint)
        drawer = Drawer(type(engine)("cpu", [folder.parent]), two)

    def draw(prompt, **fields):
        fields = {"prompt_syntax": WEBUI, "step_count": 4, **fields}
        return drawer.picture(prompt=prompt, **fields).tobytes()

    draw.er = drawer
    return draw


def test_a_prompt_without_signs_is_drawn_as_by_the_pipeline(weigh):
    """
    Bit for bit, with and without a negative prompt.
    """
    for negative in ("", "blue"):
        plain = weigh("a red", negative_prompt=negative, prompt_syntax=0)
        assert weigh("a red", negative_prompt=negative) == plain


def test_signs_are_words_unless_the_syntax_is_asked_for(weigh):
    """
    A prompt of another public API may hold brackets.
    """
    assert weigh("(red:1.5)", prompt_syntax=0) != weigh("red", prompt_syntax=0)
    assert weigh("(red:1.0)") == weigh("red")


def test_attention_changes_the_picture(weigh):
    """
    More and less of a word, in the prompt and in the negative one.
    """
    drawn = [weigh(prompt) for prompt in ("a red", "a (red:1.5)", "a [red]", "(a:1.5) red")]
    drawn += [weigh("a red", negative_prompt=text) for text in ("ab", "(a:1.6)b")]

    assert len(set(drawn)) == 6


def test_a_long_prompt_is_not_cut(weigh):
    """
    What lies behind the encoder's first part counts too.
    """
    assert weigh("a" * 40) != weigh("a" * 40 + "b")


def test_break_begins_a_new_part(weigh):
    """
    The same words, cut elsewhere, are another condition.
    """
    assert weigh("a BREAK b") != weigh("a b")


def test_the_text_changes_in_the_midst_of_the_steps(weigh):
    """
    Until then it is the picture of the one text, and at once of the other.
    """
    cat, dog = weigh("cat"), weigh("dog")
    changing, alternating = weigh("[cat:dog:0.5]"), weigh("[cat|dog]")

    assert len({cat, dog, changing, alternating}) == 4
    assert weigh("[cat:dog:4]") == cat
    assert weigh("[cat:dog:0]") == dog
    assert weigh("[cat|cat]") == cat


def test_clip_skip_stops_the_encoder_earlier(weigh):
    """
    One layer less is another condition; more layers than there are is the first of them.
    """
    assert weigh("a red", clip_skip=1) == weigh("a red")
    assert weigh("a red", clip_skip=2) != weigh("a red")
    assert weigh("a red", clip_skip=12)


def test_weights_that_leave_nothing_are_no_error(weigh):
    """
    Nor are those that are far too large.
    """
    assert weigh("(red:0)")
    assert weigh(f"(red:{'9' * 40})")
    brackets = "(" * 500 + "a" + ")" * 500
    assert weigh(brackets, negative_prompt=brackets)


def test_images_of_one_job_share_their_conditions(weigh):
    """
    Image k of a batch is the picture of its own seed, also where the prompt changes.
    """
    batch = weigh.er(
        prompt="[cat:(dog:1.3):2]", prompt_syntax=WEBUI, step_count=4, image_count=2
    ).images

    assert batch[1].tobytes() == weigh("[cat:(dog:1.3):2]", seed=8)


def test_only_clips_families_read_attention():
    """
    All others are given the words alone, and the receipt says so.
    """
    readers = {name for name, family in families().items() if family.reads_attention}

    assert readers == {"stable-diffusion", "stable-diffusion-xl"}
