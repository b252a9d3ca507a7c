import pytest


@pytest.fixture(scope="module")
def torch(engine):
    import torch

    return torch


@pytest.fixture
def batch(torch):
    from services.inference.worker.batches import Batch

    return Batch(doubler(torch))


def doubler(torch):
    class Doubler(torch.nn.Module):
        """Answers with its sample, its conditions and its timestep, added up."""

        def __init__(self):
            super().__init__()
            self.counts = []

        def forward(self, sample, timestep, added, factor, return_dict):
            self.counts.append(len(sample))
            return (factor * sample + added["condition"] + timestep[:, None],)

    return Doubler()


@pytest.fixture
def evaluation(torch):
    """Make one, of as many lanes as are wanted, whose answer is known."""
    from services.inference.worker.evaluations import Prepared
    from services.inference.worker.families.family import Denoiser

    prepared = Prepared(Denoiser("unet"))

    def make(value, timestep=0.0, lane_count=1, condition=None):
        sample = torch.full((lane_count, 3), float(value))
        given = torch.zeros(lane_count, 3) if condition is None else condition
        return prepared.evaluation(
            {
                "sample": sample,
                "timestep": torch.tensor(timestep),
                "added": {"condition": given},
                "factor": 2,
                "return_dict": False,
            }
        )

    return make


def values(answers):
    return {row: [one[:, 0].tolist() for one in several] for row, several in answers.items()}


def test_each_row_gets_its_own_answer(batch, evaluation):
    """
    Rows with other samples, conditions and timesteps are answered by one forward.
    """
    answers = batch.forward({"a": [evaluation(1, 5.0)], "b": [evaluation(2, 7.0, lane_count=2)]})

    assert values(answers) == {"a": [[7.0]], "b": [[11.0, 11.0]]}
    assert batch._module.counts == [3]


def test_rows_come_and_go(batch, evaluation, torch):
    """
    Whoever leaves, in whatever order, the others' answers stay right.
    """
    present = ["a", "b", "c", "d"]
    lasting = {row: torch.full((1 + ord(row) % 2, 3), ord(row) / 8) for row in "abcdef"}
    for leaving, joining in (("b", "e"), ("a", None), ("e", "f"), ("d", "a"), ("c", None)):
        asked = {
            row: [evaluation(1, lane_count=len(lasting[row]), condition=lasting[row])]
            for row in present
        }
        answers = values(batch.forward(asked))
        for row in present:
            assert answers[row] == [[2.0 + ord(row) / 8] * len(lasting[row])]
        present.remove(leaving)
        present += [joining] if joining else []


def test_what_lasts_is_written_once(batch, evaluation, torch):
    """
    A condition is copied when its row joins, and not again as long as it stays the same tensor.
    """
    condition = torch.ones(1, 3)
    batch.forward({"a": [evaluation(1, condition=condition)]})
    batch._buffers["added.condition"].fill_(100.0)
    unchanged = values(batch.forward({"a": [evaluation(1, condition=condition)]}))
    condition += 1.0
    changed = values(batch.forward({"a": [evaluation(1, condition=condition)]}))

    assert unchanged == {"a": [[102.0]]}
    assert changed == {"a": [[4.0]]}


def test_a_bucketed_batch_has_few_shapes(evaluation, torch):
    """
    Where shapes are compiled, the number of lanes is a power of two.
    """
    from services.inference.worker.batches import Batch

    module = doubler(torch)
    batch = Batch(module, bucketed=True)
    for count in range(1, 8):
        answers = values(batch.forward({row: [evaluation(row)] for row in range(count)}))
        assert answers == {row: [[2.0 * row]] for row in range(count)}

    assert module.counts == [1, 2, 4, 4, 8, 8, 8]


def test_an_undeclared_shape_is_told(evaluation, torch):
    """
    An argument that has neither a row for each lane nor a place in the record is named.
    """
    with pytest.raises(TypeError, match=r"added\.condition has shape \(3, 3\)"):
        evaluation(1, lane_count=2, condition=torch.zeros(3, 3))


def test_rows_that_lie_elsewhere_do_not_share(torch):
    """
    What has no row for each lane must be equal in all of a batch: it is a part of the shape.
    """
    from services.inference.worker.evaluations import Prepared
    from services.inference.worker.families.family import Denoiser

    prepared = Prepared(Denoiser("transformer", shared=frozenset({"img_ids"})))

    def shape(places):
        ids = torch.tensor(places)
        sample = torch.zeros(1, 2, 3)
        return prepared.evaluation(
            {"sample": sample, "timestep": sample[0, 0, 0], "img_ids": ids}
        ).shape

    assert shape([[0, 0], [0, 1]]) == shape([[0, 0], [0, 1]])
    assert shape([[0, 0], [0, 1]]) != shape([[0, 0], [1, 0]])
