# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from tests.quantization.hypernetwork_samples import (
    CONFIG,
    DIGEST,
    LAYERS,
    random_planner,
    random_users,
)

from pocketrec.errors import (
    ConfigError,
    IncompatibleArtifactError,
    InfeasibleBudgetError,
    MalformedArtifactError,
)
from pocketrec_quantization.allocation import allocate_scores
from pocketrec_quantization.budget import budget_bytes, coded_bytes
from pocketrec_quantization.layers import LayerShape, total_channels
from pocketrec_quantization.levels import DEFAULT_LEVELS
from pocketrec_quantization.personal import (
    MAX_MAGNITUDE,
    TERMS,
    HypernetworkConfig,
    PersonalPlanner,
)

PLANNER = random_planner()
USERS = random_users(40)
BUDGET = budget_bytes(LAYERS, 3.0)
ALL_TERMS = [
    terms for n_terms in range(len(TERMS) + 1) for terms in itertools.combinations(TERMS, n_terms)
]

GOLDEN_HEADER = (
    b'{"__metadata__":{"embedding_dim":"2","format":"pocketrec.planner","hidden_dim":"1",'
    b'"high_share":"0.5","layers":"a:2:4","levels":"0,2,4,8","model_digest":"'
    + DIGEST.hex().encode()
    + b'","name":"personal","rank":"1","terms":"layer","version":"1.0"},'
    b'"hidden/bias":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    b'"hidden/weight":{"dtype":"F32","shape":[1,2],"data_offsets":[4,12]},'
    b'"input/mean":{"dtype":"F32","shape":[2],"data_offsets":[12,20]},'
    b'"layer/bias":{"dtype":"F32","shape":[1],"data_offsets":[20,24]},'
    b'"layer/weight":{"dtype":"F32","shape":[1,1],"data_offsets":[24,28]},'
    b'"score/gain":{"dtype":"F32","shape":[2],"data_offsets":[28,36]},'
    b'"score/shift":{"dtype":"F32","shape":[2],"data_offsets":[36,44]}}'
)
GOLDEN_DATA = bytes.fromhex(
    "0000003f 0000803f 000000c0 00000000 0000803e 000080bf 00004040"
    "0000803f 0000803f 00000000 00000041"
)


def scores_by_hand(planner: PersonalPlanner, z: np.ndarray) -> np.ndarray:
    """Return one user's scores in float64, one channel after the other."""
    arrays = {name: array.astype(np.float64) for name, array in planner.arrays.items()}
    config, networks = planner.config, planner.config.networks(planner.layers)
    hidden = {}
    for number, name in enumerate(networks):
        rows = slice(number * config.hidden_dim, (number + 1) * config.hidden_dim)
        centred = z - arrays["input/mean"]
        found = arrays["hidden/weight"][rows] @ centred + arrays["hidden/bias"][rows]
        hidden[name] = np.maximum(found, 0)

    def head(name: str) -> np.ndarray:
        return arrays[f"{name}/weight"] @ hidden[name] + arrays[f"{name}/bias"]

    scores = []
    for number, layer in enumerate(planner.layers):
        for channel in range(layer.n_channels):
            score = 0.0
            if "filter" in config.terms:
                f = head(f"filter/{layer.name}")[channel]
                score += np.log(np.log1p(np.exp(f)) + 1e-6)
            if "element" in config.terms:
                factors = head(f"element/{layer.name}")
                left, right = np.split(factors, [layer.n_channels * config.rank])
                row = left.reshape(-1, config.rank)[channel]
                elements = row @ right.reshape(config.rank, layer.n_elements)
                score += np.log(np.abs(elements).mean() + 1e-6)
            if "layer" in config.terms:
                score += np.log(np.log1p(np.exp(head("layer")[number])) + 1e-6)
            scores.append(score)
    return np.array(scores) * arrays["score/gain"] + arrays["score/shift"]


class TestScores:
    """What the networks say about each channel."""

    @pytest.mark.parametrize("terms", ALL_TERMS, ids="+".join)
    def test_they_are_the_logarithm_of_the_product(self, terms: tuple[str, ...]) -> None:
        """Of the terms that are used; without any, the shift alone."""
        planner = random_planner(replace(CONFIG, terms=terms))

        scores = planner.scores(USERS[:3])

        assert scores.dtype == np.float32
        for z, row in zip(USERS, scores, strict=False):
            np.testing.assert_allclose(row, scores_by_hand(planner, z), rtol=1e-5, atol=1e-5)

    def test_every_term_counts(self) -> None:
        """Leaving one out changes the scores."""
        found = {
            random_planner(replace(CONFIG, terms=t)).scores(USERS[:1]).sum() for t in ALL_TERMS
        }

        assert len(found) == len(ALL_TERMS)

    @pytest.mark.parametrize("n_hidden", [1, 4, 7])
    def test_they_do_not_depend_on_company(self, n_hidden: int) -> None:
        """To the last bit: alone, elsewhere in a batch, or in a large one."""
        planner = random_planner(replace(CONFIG, hidden_dim=n_hidden))

        together = planner.scores(USERS)

        for number in range(len(USERS)):
            alone = planner.scores(USERS[number : number + 1])[0]
            assert alone.tobytes() == together[number].tobytes()
        assert planner.scores(USERS[::-1]).tobytes() == together[::-1].tobytes()

    def test_unknown_users_are_average(self) -> None:
        """They get what the population's mean gets."""
        mean = PLANNER.arrays["input/mean"]

        scores = PLANNER.scores([None, USERS[0], mean])

        assert scores[0].tobytes() == scores[2].tobytes() != scores[1].tobytes()

    def test_extreme_users_have_finite_scores(self) -> None:
        """As far from the mean as is let in."""
        users = np.array([[MAX_MAGNITUDE] * 6, [-MAX_MAGNITUDE] * 6], np.float32)

        assert np.isfinite(PLANNER.scores(users)).all()

    @pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 2e6])
    def test_numbers_are_bounded(self, wrong: float) -> None:
        """NaN, infinity and what would overflow are refused."""
        users = USERS[:2].copy()
        users[1, 3] = wrong

        with pytest.raises(
            ConfigError, match=r"user_embedding: expected numbers of at most 1e\+06"
        ):
            PLANNER.scores(users)

    @pytest.mark.parametrize("shape", [(5,), (7,), (6, 1), ()])
    def test_embeddings_have_the_planners_dimension(self, shape: tuple[int, ...]) -> None:
        """Not one more or less."""
        with pytest.raises(ConfigError, match="user_embedding: expected 6 dimensions"):
            PLANNER.scores([np.zeros(shape, np.float32)])


class TestPlans:
    """Scores spent on a budget."""

    def test_plans_are_the_allocation_of_scores(self) -> None:
        """Within the budget, one for each user."""
        codes = PLANNER.plan(USERS, BUDGET)

        expected = allocate_scores(PLANNER.scores(USERS), LAYERS, BUDGET)
        np.testing.assert_array_equal(codes, expected)
        assert all(coded_bytes(LAYERS, DEFAULT_LEVELS.widths(row)) <= BUDGET for row in codes)
        assert len({row.tobytes() for row in codes}) > 1

    def test_bits_become_bytes(self) -> None:
        """The same plans for the same budget, however it is said."""
        np.testing.assert_array_equal(PLANNER.plan_bits(USERS, 3.0), PLANNER.plan(USERS, BUDGET))

    def test_without_terms_everybody_has_one_plan(self) -> None:
        """The control of a personal plan."""
        codes = random_planner(replace(CONFIG, terms=())).plan(USERS, BUDGET)

        assert len({row.tobytes() for row in codes}) == 1

    def test_nobody_is_fine(self) -> None:
        """No users, no plans."""
        assert PLANNER.plan([], BUDGET).shape == (0, total_channels(LAYERS))

    def test_impossible_budgets_are_refused(self) -> None:
        """Below uniform 2 bits there is no plan."""
        with pytest.raises(InfeasibleBudgetError, match="budget_bytes: expected"):
            PLANNER.plan(USERS, 10)

    def test_the_share_is_the_planners(self) -> None:
        """It was trained with it."""
        greedy = replace(PLANNER, arrays=dict(PLANNER.arrays), high_share=1.0)

        expected = allocate_scores(PLANNER.scores(USERS), LAYERS, BUDGET, high_share=1.0)
        np.testing.assert_array_equal(greedy.plan(USERS, BUDGET), expected)


class TestConstruction:
    """What a planner is made of."""

    def test_arrays_cannot_change(self) -> None:
        """A planner is shared between threads."""
        with pytest.raises(ValueError, match="read-only"):
            PLANNER.arrays["score/gain"][0] = 1

    def test_a_renamed_planner_plans_alike(self) -> None:
        """Only its plans carry another name."""
        other = PLANNER.with_name("global-learned")

        assert other.name == "global-learned"
        np.testing.assert_array_equal(other.plan(USERS, BUDGET), PLANNER.plan(USERS, BUDGET))

    @pytest.mark.parametrize(
        ("name", "array"),
        [
            ("input/mean", np.zeros(5, np.float32)),
            ("input/mean", np.zeros(6, np.float64)),
            ("score/gain", np.full(16, np.nan, np.float32)),
            ("filter/b/weight", np.zeros((8, 5), np.float32)),
        ],
    )
    def test_arrays_have_their_shapes(self, name: str, array: np.ndarray) -> None:
        """Finite float32, or nothing."""
        with pytest.raises(ConfigError, match=f"{name}: expected finite float32"):
            replace(PLANNER, arrays={**PLANNER.arrays, name: array})

    def test_arrays_are_complete(self) -> None:
        """And no other is among them."""
        arrays = dict(PLANNER.arrays)
        del arrays["layer/bias"]

        with pytest.raises(ConfigError, match="layer/bias: expected exactly"):
            replace(PLANNER, arrays=arrays)
        with pytest.raises(ConfigError, match="another: expected exactly"):
            replace(PLANNER, arrays={**PLANNER.arrays, "another": np.ones(1, np.float32)})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model_digest": b"short"}, "model_digest: expected 32 bytes"),
            ({"high_share": 1.5}, r"high_share: expected 0\.\.1"),
        ],
    )
    def test_other_fields_are_checked(self, change: dict[str, object], message: str) -> None:
        """Each names itself."""
        with pytest.raises(ConfigError, match=message):
            replace(PLANNER, arrays=dict(PLANNER.arrays), **change)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"embedding_dim": 0}, "embedding_dim"),
            ({"hidden_dim": 0}, "hidden_dim"),
            ({"rank": 0}, "rank"),
            ({"terms": ("layer", "filter")}, "terms: expected some of"),
            ({"terms": ("filter", "filter")}, "terms: expected some of"),
            ({"terms": ("mood",)}, "terms: expected some of"),
        ],
    )
    def test_networks_have_sizes_and_known_terms(
        self, change: dict[str, object], message: str
    ) -> None:
        """From 1, in order, once."""
        with pytest.raises(ConfigError, match=message):
            replace(CONFIG, **change)


class TestFile:
    """A planner as bytes."""

    @pytest.mark.parametrize("terms", ALL_TERMS, ids="+".join)
    def test_it_comes_back(self, terms: tuple[str, ...]) -> None:
        """With the same plans, and the same bytes."""
        planner = replace(
            random_planner(replace(CONFIG, terms=terms)).with_name("mine"),
            high_share=0.25,
            arrays=dict(random_planner(replace(CONFIG, terms=terms)).arrays),
        )

        read = PersonalPlanner.from_bytes(planner.to_bytes())

        assert (read.layers, read.config, read.name) == (LAYERS, planner.config, "mine")
        assert (read.high_share, read.model_digest) == (0.25, DIGEST)
        np.testing.assert_array_equal(read.plan(USERS, BUDGET), planner.plan(USERS, BUDGET))
        assert read.to_bytes() == planner.to_bytes()

    def test_its_bytes_are_fixed(self) -> None:
        """Version 1.0 of the file: changing this is changing the format."""
        config = HypernetworkConfig(embedding_dim=2, hidden_dim=1, rank=1, terms=("layer",))
        numbers = {
            "input/mean": [0, 0.25],
            "score/gain": [1, 1],
            "score/shift": [0, 8],
            "hidden/weight": [[1, -2]],
            "hidden/bias": [0.5],
            "layer/weight": [[3]],
            "layer/bias": [-1],
        }
        planner = PersonalPlanner(
            layers=(LayerShape("a", 2, 4),),
            model_digest=DIGEST,
            config=config,
            arrays={name: np.array(value, np.float32) for name, value in numbers.items()},
        )

        data = planner.to_bytes()

        header = GOLDEN_HEADER + b" " * (-len(GOLDEN_HEADER) % 8)
        assert data == len(header).to_bytes(8, "little") + header + GOLDEN_DATA

    @pytest.mark.parametrize(
        ("old", "new", "field"),
        [
            ("pocketrec.planner", "pocketrec.plunder", "format"),
            ('"rank":"2"', '"rank":"0"', "planner"),
            ('"rank":"2"', '"rank":"x"', "rank"),
            ('"rank":"2"', '"rank":"3"', "element/"),
            ('"terms":"filter,element,layer"', '"terms":"filter,layer,element"', "planner"),
            ('"terms":"filter,element,layer"', '"terms":"filter,element,lover"', "planner"),
            ('"high_share":"0.5"', '"high_share":"5.0"', "planner"),
            ('"high_share":"0.5"', '"high_share":"nan"', "planner"),
            ('"high_share":"0.5"', '"high_share":"abc"', "planner"),
            ('"layers":"a:5:7,', '"layers":"a:5;7,', "planner"),
            ('"model_digest":"00', '"model_digest":"0x', "planner"),
            ('"name":"personal"', '"mane":"personal"', "name"),
        ],
    )
    def test_what_is_malformed_is_refused(self, old: str, new: str, field: str) -> None:
        """The error names the field."""
        data = PLANNER.to_bytes()
        assert data.count(old.encode()) == 1

        with pytest.raises(MalformedArtifactError) as error:
            PersonalPlanner.from_bytes(data.replace(old.encode(), new.encode()))

        assert error.value.field.startswith(field)

    def test_numbers_in_it_are_finite(self) -> None:
        """NaN in a weight is no planner."""
        data = PLANNER.to_bytes()
        value = PLANNER.arrays["input/mean"].tobytes()

        with pytest.raises(MalformedArtifactError, match="input/mean"):
            PersonalPlanner.from_bytes(data.replace(value, b"\xff" * len(value)))

    @pytest.mark.parametrize("cut", [0, 7, 100, -1])
    def test_half_a_file_is_refused(self, cut: int) -> None:
        """Wherever it ends."""
        with pytest.raises(MalformedArtifactError):
            PersonalPlanner.from_bytes(PLANNER.to_bytes()[:cut])

    def test_a_newer_major_version_is_told_apart(self) -> None:
        """Nothing is wrong with the file."""
        data = PLANNER.to_bytes().replace(b'"version":"1.0"', b'"version":"2.0"')

        with pytest.raises(IncompatibleArtifactError, match="planner"):
            PersonalPlanner.from_bytes(data)
