# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch

from pocketrec.errors import ConfigError
from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig
from pocketrec_quantization.backbone import BackboneConfig, coded_layers, dense_shapes

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE: dict[str, Any] = {
    "n_items": 12,
    "embedding_dim": 8,
    "n_heads": 2,
    "window": 6,
    "ffn_multiplier": 2,
}


def backbone(seed: int = 0, **changes: Any) -> SASRec:
    """Return a backbone whose weights are all random, in evaluation mode."""
    torch.manual_seed(seed)
    model = SASRec(SASRecConfig(**SHAPE | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        model.item_embedding.weight[0] = 0
    return model


def states(model: SASRec, *items: int) -> torch.Tensor:
    """Return (T, D), the state after each event of one history."""
    with torch.inference_mode():
        hidden: torch.Tensor = model(torch.tensor([items]))[0]
    return hidden


def test_a_later_event_never_changes_an_earlier_state() -> None:
    """The state after an event knows nothing of what follows."""
    model = backbone()

    one, other = states(model, 1, 2, 3, 4, 5), states(model, 1, 2, 3, 9, 9)

    torch.testing.assert_close(one[:3], other[:3])
    assert not torch.allclose(one[3:], other[3:])


def test_every_earlier_event_counts() -> None:
    """The last state of a full window depends on its first event."""
    model = backbone()

    assert not torch.allclose(
        states(model, 1, 2, 3, 4, 5, 6)[-1], states(model, 9, 2, 3, 4, 5, 6)[-1]
    )


def test_padding_changes_nothing() -> None:
    """A history in a batch with a longer one has the states it has alone."""
    model = backbone()
    batch = torch.tensor([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 9]])

    with torch.inference_mode():
        last = model.last_states(batch, torch.tensor([3, 6]))

    torch.testing.assert_close(last[0], states(model, 1, 2, 3)[-1])
    torch.testing.assert_close(last[1], states(model, 4, 5, 6, 7, 8, 9)[-1])


def test_positions_enter_by_distance_alone() -> None:
    """With one block that only looks 3 events back, what lies before them does not matter.

    Absolute positions would shift when the history grows; distances do not.
    """
    model = backbone(n_blocks=1)
    with torch.no_grad():
        model.get_parameter("blocks.0.relative_bias")[:, 3:] = float("-inf")

    torch.testing.assert_close(states(model, 5, 6, 7)[-1], states(model, 1, 2, 3, 5, 6, 7)[-1])


def test_order_matters() -> None:
    """The same events in another order lead to another state."""
    model = backbone()

    assert not torch.allclose(states(model, 1, 2, 3)[-1], states(model, 2, 1, 3)[-1])


def test_attention_fades_with_distance_at_first() -> None:
    """Heads start with slopes from a quarter to a sixty-fourth per event."""
    model = SASRec(SASRecConfig(**SHAPE))

    bias = model.get_parameter("blocks.1.relative_bias").detach()

    torch.testing.assert_close(bias[0], -torch.arange(6) / 4)
    torch.testing.assert_close(bias[1], -torch.arange(6) / 64)


def test_padding_is_the_zero_vector() -> None:
    """Row 0 of the embeddings is zero from the start and gets no gradient as an input."""
    model = SASRec(SASRecConfig(**SHAPE))

    # Not the sum of a state: what comes out of a norm sums to nothing, and so does its gradient.
    torch.autograd.backward(model(torch.tensor([[3, 0]]))[..., 0].sum())

    gradient = model.item_embedding.weight.grad
    assert gradient is not None
    assert not model.item_embedding.weight[0].any()
    assert not gradient[0].any()
    assert gradient[3].any()


def test_parameters_are_those_of_the_format() -> None:
    """Names and shapes are the ones that bundles, plans and the reference executor use."""
    shape = BackboneConfig(
        kind="sasrec", embedding_dim=8, n_blocks=2, n_heads=2, window=6, ffn_multiplier=2
    )
    expected = dict(dense_shapes(shape))
    expected |= {
        f"{layer.name}.weight": (layer.n_channels, layer.n_elements)
        for layer in coded_layers(shape)
    }
    expected["item_embedding.weight"] = (13, 8)

    found = {name: tuple(value.shape) for name, value in backbone().named_parameters()}

    assert found == expected
    names = [layer.name.rpartition(".")[2] for layer in coded_layers(shape)]
    assert names == ["q", "k", "v", "o", "ffn1", "ffn2"] * 2


def test_dropout_only_disturbs_training() -> None:
    """In evaluation mode the same history always leads to the same state."""
    model = backbone(dropout=0.5)

    assert torch.equal(states(model, 1, 2, 3), states(model, 1, 2, 3))
    model.train()
    assert not torch.allclose(states(model, 1, 2, 3), states(model, 1, 2, 3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_items": 0}, "at least 1"),
        ({"n_blocks": 0}, "at least 1"),
        ({"n_heads": 3}, "3 heads for 8 dimensions"),
        ({"dropout": 1.0}, r"within \[0, 1\)"),
        ({"dropout": -0.1}, r"within \[0, 1\)"),
    ],
)
def test_impossible_shapes_are_refused(wrong: dict[str, Any], message: str) -> None:
    """A shape that cannot be built is refused when it is made."""
    with pytest.raises(ConfigError, match=message):
        SASRecConfig(**SHAPE | wrong)
