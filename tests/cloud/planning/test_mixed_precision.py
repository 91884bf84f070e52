# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pocketrec.errors import QuantizationError
from pocketrec_cloud.backbones.base import Backbone
from pocketrec_cloud.export import coded_names, with_weights
from pocketrec_cloud.planning.mixed_precision import MixedBackbone, MixedLinear, freeze_backbone
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.layers import total_channels
from pocketrec_quantization.levels import DEFAULT_LEVELS, SPEED_PRESETS, LevelTable
from pocketrec_quantization.quantizer import freeze_matrix

pytestmark = pytest.mark.usefixtures("one_thread")

N_USERS = 5
PRUNING = LevelTable((0, 0, 2, 8))


@pytest.fixture(scope="module")
def fresh(backbone: Backbone) -> MixedBackbone:
    """A mixed copy of a small backbone, to be copied from."""
    return MixedBackbone.of(backbone)


@pytest.fixture
def mixed(fresh: MixedBackbone) -> MixedBackbone:
    """One of a test's own."""
    return copy.deepcopy(fresh)


@pytest.fixture(scope="module")
def frozen(backbone: Backbone) -> FrozenModel:
    """The coded matrices as devices read them."""
    return FrozenModel(matrices=freeze_backbone(backbone), dense={})


@pytest.fixture
def histories() -> Tensor:
    """(B, T), of unequal lengths."""
    items = torch.randint(1, 61, (N_USERS, 8), generator=torch.Generator().manual_seed(0))
    items[1, 3:] = 0
    items[4, 7:] = 0
    return items


@pytest.fixture
def codes(mixed: MixedBackbone) -> NDArray[np.uint8]:
    """(B, C_total), a plan of their own for all users."""
    rng = np.random.default_rng(5)
    return rng.integers(1, 4, (N_USERS, total_channels(mixed.layers))).astype(np.uint8)


def one_hot(codes: NDArray[np.uint8]) -> Tensor:
    """Return the tiers of plans."""
    return functional.one_hot(torch.from_numpy(codes.astype(np.int64)) - 1, 3).float()


class TestStates:
    @pytest.mark.parametrize(
        "levels", [DEFAULT_LEVELS, SPEED_PRESETS["full"], PRUNING], ids=lambda t: str(t.bits)
    )
    def test_every_user_has_the_weights_of_their_plan(
        self,
        backbone: Backbone,
        mixed: MixedBackbone,
        frozen: FrozenModel,
        histories: Tensor,
        codes: NDArray[np.uint8],
        levels: LevelTable,
    ) -> None:
        """One batch gives what as many backbones with adapted weights give, one by one."""
        lengths = (histories > 0).sum(1)
        with torch.inference_mode():
            mixed.use_tiers(one_hot(codes), levels)
            states = mixed.model(histories)
            last = mixed.model.last_states(histories, lengths)
            for user in range(N_USERS):
                own = with_weights(backbone, frozen.adapt(levels.widths(codes[user])))
                alone = slice(user, user + 1)
                torch.testing.assert_close(states[user], own(histories[alone])[0])
                expected = own.last_states(histories[alone], lengths[alone])[0]
                torch.testing.assert_close(last[user], expected)

    def test_plans_make_a_difference(
        self, mixed: MixedBackbone, histories: Tensor, codes: NDArray[np.uint8]
    ) -> None:
        """Other users' plans give other states."""
        with torch.inference_mode():
            mixed.use_tiers(one_hot(codes), DEFAULT_LEVELS)
            own = mixed.model(histories)
            mixed.use_tiers(one_hot(np.roll(codes, 1, axis=0)), DEFAULT_LEVELS)

            assert ((own - mixed.model(histories)).abs().amax((1, 2)) > 1e-4).all()

    def test_training_mode_is_the_same(
        self, mixed: MixedBackbone, histories: Tensor, codes: NDArray[np.uint8]
    ) -> None:
        """Caser shares responses between windows while it trains."""
        with torch.inference_mode():
            mixed.use_tiers(one_hot(codes), DEFAULT_LEVELS)
            evaluated = mixed.model(histories)
            trained = mixed.model.train()(histories)

        real = histories > 0
        torch.testing.assert_close(trained[real], evaluated[real])

    def test_without_plans_it_is_the_original(
        self, backbone: Backbone, mixed: MixedBackbone, histories: Tensor, codes: NDArray[np.uint8]
    ) -> None:
        """Float weights, also after plans."""
        with torch.inference_mode():
            mixed.use_tiers(one_hot(codes), DEFAULT_LEVELS)
            mixed.use_tiers(None, DEFAULT_LEVELS)

            torch.testing.assert_close(mixed.model(histories), backbone(histories))


class TestLinear:
    def test_by_hand(self) -> None:
        """Two users, two channels: each output is the sum over widths of share times product."""
        weights = np.array([[1.0, -0.5], [0.25, 0.125]], np.float32)
        linear = nn.Linear(2, 2)
        with torch.no_grad():
            linear.bias.copy_(torch.tensor([10.0, 20.0]))
        layer = MixedLinear(linear, freeze_matrix(weights))
        two, four, eight = torch.split(layer.readings.detach(), 2)
        x = torch.tensor([[[1.0, 2.0]], [[3.0, -1.0]]])
        layer.mix = torch.tensor([[[1.0, 0, 0], [0, 0.5, 0.5]], [[0, 0, 0], [0, 0, 1.0]]])

        y = layer(x)

        assert y.shape == (2, 1, 2)
        first = 10 + x[0, 0] @ two[0]
        second = 20 + (x[0, 0] @ four[1] + x[0, 0] @ eight[1]) / 2
        torch.testing.assert_close(y[0, 0], torch.stack([first, second]))
        assert y[1, 0, 0].item() == 10  # pruned: the bias alone
        torch.testing.assert_close(y[1, 0, 1], 20 + x[1, 0] @ eight[1])

    def test_pruned_tiers_add_nothing(self, mixed: MixedBackbone) -> None:
        """Under a table whose lowest tier is 0 bits, every output is the bias."""
        lowest = np.ones((2, total_channels(mixed.layers)), np.uint8)
        mixed.use_tiers(one_hot(lowest), PRUNING)

        for layer in mixed.linears.values():
            x = torch.randn(2, 3, layer.weight.shape[1])
            assert torch.equal(layer(x), layer.bias.expand(2, 3, -1))

    def test_a_layer_without_a_bias_is_refused(self) -> None:
        """No coded layer is without one."""
        weights = np.ones((2, 3), np.float32)

        with pytest.raises(QuantizationError, match="bias"):
            MixedLinear(nn.Linear(3, 2, bias=False), freeze_matrix(weights))


class TestGradients:
    def test_coded_matrices_have_none(
        self, mixed: MixedBackbone, histories: Tensor, codes: NDArray[np.uint8]
    ) -> None:
        """They are no parameters; embeddings, norms and biases are, and plans get theirs."""
        tiers = one_hot(codes).requires_grad_()
        mixed.use_tiers(tiers, DEFAULT_LEVELS)
        mixed.model(histories).square().sum().backward()

        names = {name for name, _ in mixed.model.named_parameters()}
        assert not names & {f"{name}.weight" for name in mixed.linears}
        assert {f"{name}.bias" for name in mixed.linears} < names
        gradients = {name: p.grad for name, p in mixed.model.named_parameters()}
        assert all(g is not None for g in gradients.values())
        for layer in mixed.linears.values():
            assert not layer.weight.requires_grad
            assert not layer.readings.requires_grad
        assert tiers.grad is not None
        assert (tiers.grad != 0).any(dim=(0, 1)).all()

    def test_the_backbone_given_is_left_alone(self, backbone: Backbone) -> None:
        """Training a mixed copy moves nothing of the original."""
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        mixed = MixedBackbone.of(backbone)
        with torch.no_grad():
            for parameter in mixed.model.parameters():
                parameter.add_(1.0)

        after = backbone.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())


class TestPlain:
    def test_it_is_the_original_again(
        self, backbone: Backbone, mixed: MixedBackbone, histories: Tensor
    ) -> None:
        """The same tensors under the same names, and the same states."""
        plain = mixed.plain().eval()

        expected = backbone.state_dict()
        assert list(plain.state_dict()) == list(expected)
        assert all(torch.equal(v, expected[k]) for k, v in plain.state_dict().items())
        assert coded_names(plain) == coded_names(backbone)
        with torch.inference_mode():
            torch.testing.assert_close(plain(histories), backbone(histories))

    def test_what_was_trained_is_in_it(self, backbone: Backbone, mixed: MixedBackbone) -> None:
        """Biases and embeddings have moved, coded matrices have not; nothing is shared."""
        with torch.no_grad():
            for parameter in mixed.model.parameters():
                parameter.add_(1.0)
        plain = mixed.plain()
        with torch.no_grad():
            for parameter in mixed.model.parameters():
                parameter.add_(1.0)

        coded = {f"{name}.weight" for name in mixed.linears}
        for name, value in backbone.state_dict().items():
            moved = value if name in coded else value + 1.0
            torch.testing.assert_close(plain.state_dict()[name], moved)

    def test_it_can_be_taken_in_the_middle_of_training(
        self, mixed: MixedBackbone, histories: Tensor, codes: NDArray[np.uint8]
    ) -> None:
        """Plans with gradients, which cannot be copied, are in nobody's way."""
        tiers = one_hot(codes).requires_grad_() * 1.0
        mixed.use_tiers(tiers, DEFAULT_LEVELS)

        assert mixed.plain()(histories).shape == (N_USERS, 8, 16)
