# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from pocketrec.errors import ConfigError
from pocketrec_cloud.planning.configuration import TRAINED_LEVELS, PlannerTraining
from pocketrec_quantization.levels import DEFAULT_LEVELS, SPEED_PRESETS


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: 0} for name in ("max_epochs", "patience", "evaluate_every", "tokens_per_batch")),
        *({name: 0} for name in ("n_negatives", "n_targets", "extract_window")),
        {"n_validation_users": 0},
        {"learning_rate": 0.0},
        {"planner_learning_rate": -1.0},
        {"max_gradient_norm": 0.0},
        {"temperature": (1.0, 0.0)},
        {"average_bits": 2.1},
        {"average_bits": 8.1},
        {"average_bits": float("nan")},
        {"bit_range": (1.9, 8.0)},
        {"bit_range": (2.5, 9.0)},
        {"high_share": 1.1},
        {"high_share": float("nan")},
        {"level_tables": ()},
    ],
    ids=str,
)
def test_impossible_fields_are_refused(wrong: dict[str, Any]) -> None:
    """A training that cannot run is refused when it is configured."""
    with pytest.raises(ConfigError, match="expected"):
        PlannerTraining(**wrong)


def test_every_preset_is_trained_for() -> None:
    """The default table first, then each preset's own."""
    assert TRAINED_LEVELS[0] == DEFAULT_LEVELS
    assert set(TRAINED_LEVELS[1:]) == set(SPEED_PRESETS.values()) - {None}
