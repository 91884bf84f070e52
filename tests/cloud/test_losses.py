# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch

from pocketrec_cloud.losses import sampled_softmax_loss, softmax_loss

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def hidden() -> torch.Tensor:
    """Six states of four dimensions."""
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def items() -> torch.Tensor:
    """Twenty items and padding."""
    table = torch.randn(21, 4, generator=torch.Generator().manual_seed(1))
    table[0] = 0
    return table


@pytest.fixture
def targets() -> torch.Tensor:
    """A target per state, one of them twice."""
    return torch.tensor([1, 20, 7, 7, 3, 12])


def test_softmax_by_hand() -> None:
    """Two items with logits 1 and 0: the loss is log(1 + 1/e)."""
    items = torch.tensor([[9.0], [1.0], [0.0]])

    loss = softmax_loss(torch.tensor([[1.0]]), torch.tensor([1]), items)

    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_padding_takes_no_part(
    hidden: torch.Tensor, targets: torch.Tensor, items: torch.Tensor
) -> None:
    """The row of padding is neither in the partition function nor trained."""
    items[0] = 100.0
    items.requires_grad_()
    torch.manual_seed(0)

    for n_negatives in (8, 20):
        torch.autograd.backward(
            sampled_softmax_loss(hidden, targets, items, n_negatives=n_negatives)
        )

    assert items.grad is not None
    assert not items.grad[0].any()
    assert items.grad[1:].any()


@pytest.mark.parametrize("n_negatives", [20, 21, 1000])
def test_enough_negatives_are_the_whole_catalogue(
    hidden: torch.Tensor, targets: torch.Tensor, items: torch.Tensor, n_negatives: int
) -> None:
    """With as many negatives as items the loss is the full softmax."""
    sampled = sampled_softmax_loss(hidden, targets, items, n_negatives=n_negatives)

    assert torch.equal(sampled, softmax_loss(hidden, targets, items))


def test_a_target_is_no_negative_of_itself() -> None:
    """Where the only negative drawn is the target, there is nothing to lose."""
    items = torch.tensor([[0.0], [1.0], [0.5]])
    hidden, targets = torch.tensor([[1.0]]), torch.tensor([1])
    torch.manual_seed(0)

    losses = {sampled_softmax_loss(hidden, targets, items, n_negatives=1).item() for _ in range(40)}

    against_the_other = math.log(1 + math.exp(0.5 + math.log(2) - 1))
    assert sorted(losses) == pytest.approx([0, against_the_other])


def test_the_partition_function_is_estimated_without_bias(
    hidden: torch.Tensor, targets: torch.Tensor, items: torch.Tensor
) -> None:
    """Averaged over many draws, the sampled partition function is that of the catalogue."""
    state, target = hidden[:1], targets[:1]
    logit = (state @ items[target].T).item()
    torch.manual_seed(0)

    estimates = torch.tensor(
        [
            math.exp(sampled_softmax_loss(state, target, items, n_negatives=5).item() + logit)
            for _ in range(3000)
        ]
    )

    exact = (state @ items[1:].T).exp().sum().item()
    standard_error = estimates.std().item() / math.sqrt(3000)
    assert abs(estimates.mean().item() - exact) < 3 * standard_error
    assert standard_error < 0.03 * exact


def test_negatives_are_shared_by_the_batch(items: torch.Tensor) -> None:
    """Equal states with equal targets lose the same."""
    torch.manual_seed(0)
    hidden = torch.ones(2, 4)
    both = sampled_softmax_loss(hidden, torch.tensor([5, 5]), items, n_negatives=3)
    torch.manual_seed(0)

    alone = sampled_softmax_loss(hidden[:1], torch.tensor([5]), items, n_negatives=3)

    assert both.item() == pytest.approx(alone.item(), rel=1e-6)
