# SPDX-License-Identifier: Apache-2.0
"""Slices of a pool, and what is made for each user beside them, by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from benchmarks.personal_settings import SETUPS, Setup

torch = pytest.importorskip("torch", reason="needs the extra 'cloud'")
pytest.importorskip("matplotlib", reason="needs the extra 'plots'")

if TYPE_CHECKING:
    from pocketrec_cloud.backbones.sasrec import SASRec


@pytest.fixture
def model() -> SASRec:
    """A tiny SASRec with a pool of 16 channels a block."""
    from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig

    torch.manual_seed(0)
    shape = SASRecConfig(n_items=9, embedding_dim=8, window=5, ffn_multiplier=2)
    found = SASRec(shape).eval()
    with torch.no_grad():
        for number in range(2):
            found.get_parameter(f"blocks.{number}.ffn1.bias").normal_()
    return found


class TestTakeSlice:
    def test_the_highest_scores_are_on(self) -> None:
        """As many as asked for, row by row."""
        from benchmarks.personal_slices import take_slice

        scores = torch.tensor([[0.1, 3.0, 2.0, -1.0], [5.0, 4.0, 3.0, 2.0]])

        assert take_slice(scores, 2, 1.0).tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]

    def test_channels_that_are_off_learn(self) -> None:
        """Those near the border most."""
        from benchmarks.personal_slices import take_slice

        scores = torch.tensor([3.0, 1.0, 0.9, -5.0], requires_grad=True)
        torch.autograd.backward(take_slice(scores, 2, 1.0).sum())

        assert scores.grad is not None
        assert scores.grad[2] > scores.grad[0] > scores.grad[3] > 0

    def test_a_slice_as_wide_as_the_pool_is_the_pool(self) -> None:
        """Without a border there is nothing to rank."""
        from benchmarks.personal_slices import take_slice

        assert take_slice(torch.zeros(2, 3), 3, 1.0).tolist() == [[1.0] * 3] * 2


class TestDecayedMeans:
    def test_by_hand(self) -> None:
        """An event one half-life old counts half, and what lies behind the end not at all."""
        from benchmarks.personal_slices import HALF_LIVES, decayed_means

        rows = torch.tensor([[100.0], [3.0], [6.0]])
        past = torch.tensor([[1, *[2] * int(HALF_LIVES[0]), 0]])
        ages = torch.arange(int(HALF_LIVES[0]))
        recent = torch.exp2(-ages / HALF_LIVES[0]).sum()

        found = decayed_means(rows, past, torch.tensor([past.shape[1] - 1]))

        expected = (0.5 * 3 + recent * 6) / (0.5 + recent)
        assert found.shape == (1, 3)
        assert found[0, 0].item() == pytest.approx(expected.item(), rel=1e-5)


class TestSlicedSASRec:
    def test_with_all_channels_on_it_is_the_backbone(self, model: SASRec) -> None:
        """Without a slice, too."""
        from benchmarks.personal_slices import SlicedSASRec

        items = torch.tensor([[1, 2, 3], [4, 5, 0]])
        sliced = SlicedSASRec(model).eval()
        expected = model(items)

        assert torch.allclose(sliced.backbone(items), expected)
        sliced.use(torch.ones(2, 2, 16))
        assert torch.allclose(sliced.backbone(items), expected, atol=1e-6)

    def test_a_channel_that_is_off_is_one_of_no_weights(self, model: SASRec) -> None:
        """As the product prunes it: its bias stays."""
        from benchmarks.personal_slices import SlicedSASRec

        items = torch.tensor([[1, 2, 3]])
        slices = torch.ones(1, 2, 16)
        slices[0, 1, 4] = 0
        sliced = SlicedSASRec(model).eval()
        sliced.use(slices)
        found = sliced.backbone(items)
        with torch.no_grad():
            model.get_parameter("blocks.1.ffn1.weight")[4] = 0

        assert torch.allclose(found, model(items), atol=1e-6)

    def test_users_differ(self, model: SASRec) -> None:
        """Each row of a batch has its own slice, and its own vector."""
        from benchmarks.personal_slices import SlicedSASRec

        items = torch.tensor([[1, 2, 3], [1, 2, 3]])
        sliced = SlicedSASRec(model).eval()
        offsets = torch.zeros(2, 2, 8)
        offsets[1, :, 0] = 1  # the same for all dimensions, the norm would take it away
        sliced.use(None, offsets)
        first, second = sliced.backbone(items)

        assert torch.allclose(first, model(items)[0])
        assert not torch.allclose(first, second)


class TestTernary:
    def test_codes(self) -> None:
        """Two bits a number, and gradients where it is not clipped."""
        from benchmarks.personal_slices import ternary

        raw = torch.tensor([-3.0, -0.6, 0.2, 0.7], requires_grad=True)
        found = ternary(raw)
        torch.autograd.backward(found.sum())

        assert found.tolist() == [-1, -1, 0, 1]
        assert raw.grad is not None
        assert raw.grad.tolist() == [0, 1, 1, 1]


class TestRouter:
    @pytest.mark.parametrize("uses_batch", [True, False])
    def test_scores_are_deviations_from_the_population(self, *, uses_batch: bool) -> None:
        """Mean zero and standard deviation one over the users it was fitted to."""
        from benchmarks.personal_slices import Router

        torch.manual_seed(0)
        router = Router(
            6, (2, 5), hidden=8, dropout=0.0, is_standardised=True, uses_batch=uses_batch
        ).eval()
        z = torch.randn(40, 6)
        router.fit_population(z)

        scores = router(z)

        assert scores.shape == (40, 2, 5)
        assert torch.allclose(scores.mean(0), torch.zeros(2, 5), atol=1e-5)
        assert (scores.std(0, correction=0) <= 1.0).all()

    def test_the_batch_can_be_the_population(self) -> None:
        """Then a router that shrinks still tells users apart while it trains."""
        from benchmarks.personal_slices import Router

        torch.manual_seed(0)
        router = Router(6, (1, 4), hidden=8, dropout=0.0, is_standardised=True, uses_batch=True)
        z = torch.randn(50, 6)
        with torch.no_grad():
            router.outer.weight.mul_(100)

        assert router(z).std(0, correction=0).min() > 0.9


class TestSizes:
    @pytest.mark.parametrize("group", ["narrow-2", "personal", "codes-slice-trained"])
    def test_a_slice_weighs_as_much_as_no_pool(self, group: str) -> None:
        """Per block 4 matrices of 64 x 64, and two for a slice of 64: 2 bits and scales."""
        from benchmarks.personal_measures import sizes
        from benchmarks.personal_model import Trained

        from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig

        setup = SETUPS[group]
        shape = SASRecConfig(n_items=3, window=4, ffn_multiplier=setup.multiplier)
        found = sizes(Trained(SASRec(shape), setup))

        assert found["resident_bytes"] == 2 * 6 * 64 * (64 * 2 // 8 + 4) == 15_360
        assert found["effective_bits"] == 2.5

    def test_every_setup_but_floats_keeps_to_the_target(self) -> None:
        """No more bytes than without a pool."""
        from benchmarks.personal_measures import sizes
        from benchmarks.personal_model import Trained

        from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig

        for name, setup in SETUPS.items():
            shape = SASRecConfig(n_items=3, window=4, ffn_multiplier=setup.multiplier)
            found = sizes(Trained(SASRec(shape), setup))
            if setup.bits:
                assert found["effective_bits"] <= 3, name
                assert found["resident_bytes"] <= 15_360, name


class TestRivals:
    def test_an_adapter_turns_what_a_layer_says(self, model: SASRec) -> None:
        """It adds one vector as far as the output has the other."""
        from benchmarks.personal_slices import SlicedSASRec

        sliced = SlicedSASRec(model).eval()
        block = sliced.blocks[1]
        x = torch.randn(1, 3, 8)
        expected = block.feed_forward(x)
        pair = torch.randn(1, 2, 16)
        sliced.use(None, pair)
        left, right = pair[0, 1].chunk(2)

        found = block.feed_forward(x)

        assert torch.allclose(found, expected + (expected @ right)[..., None] * left, atol=1e-5)

    def test_an_adapter_starts_as_none_and_learns(self, model: SASRec) -> None:
        """Of the two vectors one begins at zero, not both."""
        from benchmarks.personal_model import Trained

        trained = Trained(model, SETUPS["adapter-trained"])
        pair = trained.offsets(torch.randn(2, 24))

        assert pair is not None
        left, right = pair.chunk(2, dim=-1)
        assert not left.any()
        assert right.all()

    def test_a_caser_adds_vectors_to_its_states(self) -> None:
        """Each user their own, whether a state is the last one or not."""
        from benchmarks.personal_slices import ShiftedCaser

        from pocketrec_cloud.backbones.caser import Caser, CaserConfig

        torch.manual_seed(0)
        model = Caser(CaserConfig(n_items=9, embedding_dim=8, window=3, max_height=2)).eval()
        items, own = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.randn(2, 1, 8)
        lengths = torch.tensor([3, 2])
        shifted = ShiftedCaser(model).eval()
        shifted.use(None, own)

        assert torch.allclose(shifted.backbone(items), model(items) + own, atol=1e-6)
        found = shifted.backbone.last_states(items, lengths)
        assert torch.allclose(found, model.last_states(items, lengths) + own[:, 0], atol=1e-6)

    def test_the_blind_are_told_nothing(self, model: SASRec) -> None:
        """Whoever the user is, the vector is the same."""
        from benchmarks.personal_model import Trained

        trained = Trained(model, SETUPS["shared-after"])

        described = trained.describe(torch.tensor([[1, 2], [3, 4]]), torch.tensor([2, 2]))

        assert not described.any()
        assert not trained.is_personal


class TestKeepAs:
    def test_only_what_tells_users_apart_is_trained(self) -> None:
        """And it starts with the model it keeps, whoever the user is."""
        from benchmarks.personal_model import Trained

        from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig

        shape = SASRecConfig(n_items=9, embedding_dim=8, window=5, ffn_multiplier=4)
        backbone = SASRec(shape).eval()
        base = Trained(backbone, SETUPS["global-trained"])
        with torch.no_grad():
            for value in base.parameters():
                value.add_(0.1 * torch.randn_like(value))
        base.refresh()
        after = Trained(backbone, SETUPS["offset-after"])
        after.keep_as(base.state_dict())
        items = torch.tensor([[1, 2, 3]])
        expected, found = (
            model.eval().scorer([items[0].numpy()], torch.randn(1, 24))(np.array([0]))
            for model in (base, after.train())
        )

        assert torch.equal(found, expected)
        trained = {name for name, value in after.named_parameters() if value.requires_grad}
        assert all(name.startswith(("router.", "steps", "future.")) for name in trained)


class TestFoldedBytes:
    def test_by_hand(self) -> None:
        """Of a pool of 256 the columns of 64 are needed: as much as without a pool."""
        from benchmarks.personal_device import SHAPE, _plan

        from pocketrec_quantization.backbone import BackboneConfig, coded_layers, layer_feeds
        from pocketrec_quantization.folding import resident_bytes
        from pocketrec_quantization.testing import tiny_plan

        config = BackboneConfig(
            kind="sasrec",
            embedding_dim=SHAPE.d,
            n_blocks=SHAPE.blocks,
            n_heads=2,
            window=SHAPE.window,
            ffn_multiplier=4,
        )
        whole = tiny_plan(tuple(coded_layers(config)), bytes(32))

        def needed(n_kept: int) -> int:
            plan = _plan(whole, n_kept)
            return resident_bytes(layer_feeds(config), plan.layers, plan.widths)

        assert needed(64) == 15_360
        assert needed(0) == 15_360 + 2 * 192 * (64 * 2 // 8 + 4 + 64 * 2 // 8)


class TestRoundActivations:
    def test_event_by_event(self, model: SASRec) -> None:
        """The largest number of each stays, and there are 255 steps at most."""
        from benchmarks.personal_model import Trained
        from benchmarks.personal_regimes import round_activations

        trained = Trained(model, Setup(multiplier=2, bits=0, plan="none")).eval()
        round_activations(trained)
        seen: list[Any] = []
        trained.coded[0].register_forward_hook(lambda _layer, inputs, _output: seen.append(inputs))
        x = torch.randn(2, 3, 8)
        trained.coded[0](x)

        steps = seen[0][0] * 127 / x.abs().amax(-1, keepdim=True)
        assert torch.allclose(steps, steps.round(), atol=1e-3)
        assert steps.abs().max().item() == pytest.approx(127)
