# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pocketrec.errors import ConfigError, QuantizationError
from pocketrec_cloud.backbones.caser import Caser, CaserConfig
from pocketrec_cloud.export import device_form
from pocketrec_quantization.backbone import BackboneConfig, coded_layers, dense_shapes
from pocketrec_quantization.caser_reference import CaserReference

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE: dict[str, Any] = {
    "n_items": 12,
    "embedding_dim": 8,
    "window": 4,
    "max_height": 3,
    "n_horizontal": 5,
    "n_vertical": 2,
}


def backbone(seed: int = 0, **changes: Any) -> Caser:
    """Return a backbone whose weights are all random, in evaluation mode."""
    torch.manual_seed(seed)
    model = Caser(CaserConfig(**SHAPE | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        model.item_embedding.weight[0] = 0
    return model


def states(model: Caser, *items: int) -> torch.Tensor:
    """Return (T, D), the state after each event of one history."""
    with torch.inference_mode():
        hidden: torch.Tensor = model(torch.tensor([items]))[0]
    return hidden


def test_a_state_by_hand() -> None:
    """Two dimensions, two events (1, 2) and (3, -1), and weights that can be followed.

    The filter of height 1 adds both dimensions: 3 and 2, so 3. That of height 2 subtracts
    the second event's sum from the first one's first: 1 - 2, and the ReLU makes 0 of it. The
    vertical filter takes the newer event less the older: (2, -3). The last layer gives
    (mixed[0] + strongest[0], mixed[1] + 10 strongest[1]).
    """
    model = Caser(
        CaserConfig(
            n_items=2, embedding_dim=2, window=2, max_height=2, n_horizontal=1, n_vertical=1
        )
    ).eval()
    model.input_scale = 1.0
    weights = {
        "item_embedding.weight": [[0, 0], [1, 2], [3, -1]],
        "horizontal.1.weight": [[1, 1]],
        "horizontal.2.weight": [[1, 0, -1, -1]],
        "vertical.weight": [[-1, 1]],
        "fc.weight": [[1, 0, 1, 0], [0, 1, 0, 10]],
    }
    with torch.no_grad():
        for name, rows in weights.items():
            model.get_parameter(name).copy_(torch.tensor(rows, dtype=torch.float32))

    assert states(model, 1, 2)[-1].tolist() == [2 + 3, -3 + 0]


def test_only_the_window_counts() -> None:
    """A state depends on the last L events up to its own, on every one, and on no other."""
    model = backbone()
    first = states(model, 1, 2, 3, 4, 5, 6)

    assert torch.equal(states(model, 9, 9, 3, 4, 5, 6)[-1], first[-1])
    assert torch.equal(states(model, 1, 2, 3, 4, 9, 9)[:4], first[:4])
    for place in range(2, 6):
        items = [1, 2, 3, 4, 5, 6]
        items[place] = 9
        assert not torch.allclose(states(model, *items)[-1], first[-1])


def test_padding_at_the_end_changes_nothing() -> None:
    """Histories of a batch do not see what fills them up."""
    model = backbone()

    with torch.inference_mode():
        batch = model(torch.tensor([[1, 2, 0, 0], [1, 2, 3, 4]]))

    torch.testing.assert_close(batch[0, :2], states(model, 1, 2))
    torch.testing.assert_close(batch[1], states(model, 1, 2, 3, 4))


@pytest.mark.parametrize("changes", [{}, {"window": 1, "max_height": 1}, {"window": 7}])
def test_last_states_are_those_of_the_last_events(changes: dict[str, int]) -> None:
    """Computing only one state per history gives the same state."""
    model = backbone(**changes)
    items, lengths = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]), torch.tensor([5, 2])

    with torch.inference_mode():
        last, everything = model.last_states(items, lengths), model(items)

    torch.testing.assert_close(last, everything[torch.arange(2), lengths - 1])


def test_it_computes_what_the_reference_computes() -> None:
    """Torch and NumPy agree on histories shorter and longer than the window."""
    model = device_form(backbone())
    arrays = {name: value.detach().numpy() for name, value in model.named_parameters()}
    embeddings = arrays.pop("item_embedding.weight")
    reference = CaserReference(arrays, model.config.architecture())
    items = np.array([3, 1, 4, 1, 5, 9])

    found = states(model, *items).numpy()

    for n_events in range(1, 7):
        expected = reference.state_after(embeddings[items[:n_events]])
        np.testing.assert_allclose(found[n_events - 1], expected, atol=1e-5)


def test_coded_layers_have_users_first_and_channels_last() -> None:
    """One event's inputs to a layer lie under its user and event, whatever the layer."""
    model, seen = backbone(), {}
    for name in model.coded_names():
        model.get_submodule(name).register_forward_hook(
            lambda _, x, y, name=name: seen.update({name: (x[0].shape, y.shape)})
        )

    states(model, 1, 2, 3, 4, 5)

    assert seen == {
        "horizontal.1": ((1, 5, 4, 8), (1, 5, 4, 5)),
        "horizontal.2": ((1, 5, 3, 16), (1, 5, 3, 5)),
        "horizontal.3": ((1, 5, 2, 24), (1, 5, 2, 5)),
        "vertical": ((1, 5, 8, 4), (1, 5, 8, 2)),
        "fc": ((1, 5, 31), (1, 5, 8)),
    }


def test_parameters_are_those_of_the_format() -> None:
    """Names and shapes are the ones that bundles, plans and the reference executor use."""
    shape = BackboneConfig(
        kind="caser", embedding_dim=8, window=4, max_height=3, n_horizontal=5, n_vertical=2
    )
    expected = dict(dense_shapes(shape))
    expected |= {
        f"{layer.name}.weight": (layer.n_channels, layer.n_elements)
        for layer in coded_layers(shape)
    }
    expected["item_embedding.weight"] = (13, 8)

    found = {name: tuple(value.shape) for name, value in backbone().named_parameters()}

    assert found == expected


def test_the_device_form_scores_alike() -> None:
    """The scale of the inputs moves into the embeddings and out of the last layer."""
    model = backbone()
    folded = device_form(model)

    with torch.inference_mode():
        scores = states(model, 1, 2, 3) @ model.item_embedding.weight.T
        same = states(folded, 1, 2, 3) @ folded.item_embedding.weight.T

    assert folded.input_scale == 1.0
    torch.testing.assert_close(same, scores)


@pytest.mark.parametrize("changes", [{}, {"window": 1, "max_height": 1}, {"window": 7}])
def test_training_computes_the_same(changes: dict[str, int]) -> None:
    """Sharing responses between windows changes neither states nor gradients."""
    items = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 9], [3, 1, 4, 1, 5, 0, 0, 0, 0]])
    results = []
    for is_training in (True, False):
        model = backbone(dropout=0.0, **changes).train(is_training)
        found = model(items)
        torch.autograd.backward(found.square().sum())
        gradients = {name: value.grad for name, value in model.named_parameters()}
        results.append((found.detach(), gradients))

    (shared, shared_gradients), (own, own_gradients) = results
    torch.testing.assert_close(shared, own)
    torch.testing.assert_close(shared_gradients, own_gradients, rtol=1e-4, atol=1e-4)


def test_dropout_only_disturbs_training() -> None:
    """In evaluation mode the same history always leads to the same state."""
    model = backbone(dropout=0.5)

    assert torch.equal(states(model, 1, 2, 3), states(model, 1, 2, 3))
    model.train()
    assert not torch.allclose(states(model, 1, 2, 3), states(model, 1, 2, 3))


class TestUsers:
    def test_a_users_row_is_added_to_every_state(self) -> None:
        """The rest of the model is as without a table."""
        model = backbone(n_users=3)
        items, lengths = torch.tensor([[1, 2, 3], [1, 2, 3]]), torch.tensor([3, 3])
        assert model.user_embedding is not None
        row = model.user_embedding.weight[2] - model.user_embedding.weight[0]

        with torch.inference_mode():
            found = model(items, torch.tensor([0, 2]))
            last = model.last_states(items, lengths, torch.tensor([0, 2]))

        torch.testing.assert_close(found[1] - found[0], row.expand(3, 8))
        torch.testing.assert_close(last, found[:, -1])

    def test_users_and_table_go_together(self) -> None:
        """A table without users, or users without a table, would be silently wrong."""
        items, users = torch.tensor([[1, 2]]), torch.tensor([0])

        with pytest.raises(ConfigError, match="2 users and none given"):
            backbone(n_users=2)(items)
        with pytest.raises(ConfigError, match="0 users and some given"):
            backbone()(items, users)

    def test_such_a_model_has_no_device_form(self) -> None:
        """A bundle is the same for everybody; the refusal says so."""
        with pytest.raises(QuantizationError, match="the same for everybody"):
            device_form(backbone(n_users=2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_items": 0}, "at least 1"),
        ({"n_horizontal": 0}, "at least 1"),
        ({"n_users": -1}, "at least 1"),
        ({"max_height": 5}, "at most 4 events"),
        ({"dropout": 1.0}, r"within \[0, 1\)"),
    ],
)
def test_impossible_shapes_are_refused(wrong: dict[str, Any], message: str) -> None:
    """A shape that cannot be built is refused when it is made."""
    with pytest.raises(ConfigError, match=message):
        CaserConfig(**SHAPE | wrong)
