# SPDX-License-Identifier: Apache-2.0
"""What was tried to make plans personal: each with what was expected before it was run."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ATTEMPTS", "FINDINGS", "SHORT_WINDOW", "Attempt"]

SHORT_WINDOW = 5
"""Events that a re-ranker reads whose plan knows the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt.

    Attributes:
        group: Of ``SETUPS``.
        hypothesis: Why it should help.
        prediction: What was expected, written before its first run.
        shared: The shared plan of equal resident bytes that it has to beat.
        window: Events that the re-ranker reads; 0 = each dataset's usual number.
    """

    group: str
    hypothesis: str
    prediction: str
    shared: str
    window: int = 0


ATTEMPTS = (
    Attempt(
        group="personal",
        hypothesis=(
            "A wide frozen pool holds more than any one user needs: which quarter of it is "
            "switched on can be theirs."
        ),
        prediction=(
            "own > shuffled by 2 to 4 % of NDCG@10 on MovieLens, nothing on Beauty and Yelp, whose "
            "histories fit the window; level with the best global slice."
        ),
        shared="global",
    ),
    Attempt(
        group="personal-slots",
        hypothesis=(
            "Half the slice for channels that everybody needs, so that the personal half costs "
            "nobody the essentials."
        ),
        prediction="level with the global slice or above it by 1 %; own > shuffled by less.",
        shared="global",
    ),
    Attempt(
        group="personal-contrast",
        hypothesis="A term that asks the router to tell whose future it is keeps it informed.",
        prediction="own > shuffled by more than without the term; NDCG@10 of own within noise.",
        shared="global",
    ),
    Attempt(
        group="personal-trained",
        hypothesis=(
            "Channels that are trained under slices become specialists, as experts of a mixture "
            "do; frozen ones were trained to work together."
        ),
        prediction=(
            "the largest gap of all: own > shuffled by 5 % and more on MovieLens; above the "
            "global slice trained the same way by 1 to 2 %."
        ),
        shared="global-trained",
    ),
    Attempt(
        group="personal-slots-trained",
        hypothesis="Both: shared channels for what is common, specialists beside them.",
        prediction="the best slice; above `narrow-qat-2` by 1 to 2 % on MovieLens.",
        shared="global-trained",
    ),
    Attempt(
        group="offset",
        hypothesis=(
            "Rival: the same history as one generated vector per block, at a third of the bytes "
            "of a plan. It shows what the history is worth at all."
        ),
        prediction="above every slice on MovieLens (+2 % over `narrow-2`), level on Beauty.",
        shared="narrow-2",
    ),
    Attempt(
        group="offset-trained",
        hypothesis="The rival, a generated vector per block, with coded matrices trained on.",
        prediction="above `narrow-qat-2` by 2 % on MovieLens, level on Beauty.",
        shared="narrow-qat-2",
    ),
    Attempt(
        group="personal-batch",
        hypothesis=(
            "Under running statistics the router shrank until slices were the same (1 % of channels"
            " differ on MovieLens-1M). Standardised by the batch, with gradients, it cannot."
        ),
        prediction="20 % of channels differ; own > shuffled by 2 to 4 %; level with `global`.",
        shared="global",
    ),
    Attempt(
        group="personal-batch-trained",
        hypothesis=(
            "Under running statistics the router shrank until slices were the same (1 % of channels"
            " differ on MovieLens-1M). Standardised by the batch, with gradients, it cannot; coded "
            "matrices are trained on."
        ),
        prediction=(
            "20 % of channels differ; own > shuffled by 4 % on MovieLens; level with "
            "`global-trained`, as the router shrank by itself when it could."
        ),
        shared="global-trained",
    ),
    Attempt(
        group="personal-regular-trained",
        hypothesis=(
            "Slices that differ fit the training events better than any shared one and do no "
            "better on new ones: half the slice shared, a router of 16 units, half of them dropped."
        ),
        prediction="1 % above `global-trained` on MovieLens-1M; own > shuffled by 3 %.",
        shared="global-trained",
    ),
    Attempt(
        group="offset-slice-trained",
        hypothesis=(
            "The best shared slice and the vector of the rival: capacity from the one, what the "
            "window does not hold from the other."
        ),
        prediction="2 % above `global-trained` on MovieLens-1M, level elsewhere.",
        shared="global-trained",
    ),
    Attempt(
        group="codes-slice-trained",
        hypothesis=(
            "The vector as 2 bits per number, read by learned steps: a plan of 32 bytes for bias "
            "rows."
        ),
        prediction="half of what the float vector gains over `global-trained`.",
        shared="global-trained",
    ),
    Attempt(
        group="offset-after",
        hypothesis=(
            "Trained together, the backbone leans on the vector and loses what it could do alone. "
            "So `global-trained` is finished first and kept as it is; only the vectors are trained."
        ),
        prediction=(
            "1 % above `global-trained` on MovieLens-1M, p < .05, for the pairs hardly scatter; "
            "nothing on MovieLens-100K (943 users do not teach a router), at most 1 % on Beauty."
        ),
        shared="global-trained",
    ),
    Attempt(
        group="codes-after",
        hypothesis="`offset-after` in 2 bits per number.",
        prediction="half of what `offset-after` gains.",
        shared="global-trained",
    ),
    Attempt(
        group="offset-trained",
        window=SHORT_WINDOW,
        hypothesis=(
            "Within 20 events most of a user's taste can be read, so a vector adds little. A "
            "device that reads 5 does not know the rest of 200; the vector, made once a session, "
            "does."
        ),
        prediction=(
            "above `narrow-qat-2` by 5 % on MovieLens-1M and CDs, 3 % on MovieLens-100K (943 "
            "users: not significant) and Yelp, 1 % on Beauty, where half of the users have no "
            "more than 5 events; above float32 of 5 events; below the full window on MovieLens."
        ),
        shared="narrow-qat-2",
    ),
    Attempt(
        group="offset-slice-trained",
        window=SHORT_WINDOW,
        hypothesis="The same beside the best shared slice of a pool.",
        prediction="above `global-trained` by as much; the best of all on MovieLens-1M only.",
        shared="global-trained",
    ),
    Attempt(
        group="offset-after",
        window=SHORT_WINDOW,
        hypothesis=(
            "Vectors for a finished `global-trained`: no backbone leans on them, and what they add "
            "is not lost in the luck of two trainings. `shared-after` has the same extra epochs, "
            "and learns one vector for everybody."
        ),
        prediction=(
            "2 % above `global-trained` on MovieLens-1M, p < .05; `shared-after` level with it."
        ),
        shared="global-trained",
    ),
    Attempt(
        group="personal-batch-trained",
        window=SHORT_WINDOW,
        hypothesis="A slice of one's own can tell a short window what it does not hold, too.",
        prediction=(
            "own > shuffled everywhere; above `global-trained` by 2 % on MovieLens-1M and CDs, "
            "where the full window gave nothing; a choice of channels says less than a vector."
        ),
        shared="global-trained",
    ),
    Attempt(
        group="codes-trained",
        window=SHORT_WINDOW,
        hypothesis="The vector as 2 bits per number, a plan of 32 bytes for bias rows.",
        prediction="half of what the float vector gains over `narrow-qat-2`.",
        shared="narrow-qat-2",
    ),
    Attempt(
        group="adapter-trained",
        window=SHORT_WINDOW,
        hypothesis=(
            "Rival: a generated low-rank adapter, rank 1, of the second feed-forward matrix of "
            "each block, as in RecLoRA. It can turn what the window says, not only add to it."
        ),
        prediction="level with the vector at twice its bytes.",
        shared="narrow-qat-2",
    ),
)
"""In the order in which they were thought of."""

FINDINGS = """\
**No personal plan beats the best shared one so far.** MovieLens-1M, one seed:

* Personal slices are personal, and worth nothing that could be measured. Forced to differ
  (`personal-batch-trained`, 27 % of channels), one's own beats a stranger's by 5.4 % (p = .0001)
  and a random one by 9 %. But the channels used most, given to everybody (`:mean`), do as well
  (own +0.3 %, p = .78), and so does a slice that was shared from the start (`global-trained`: own
  -0.9 %, p = .40). Training loss is lower than that of all other slices, validation is not
  better.
* Where it can, a router makes its slices equal: without gradients through the standardisation,
  1 % of channels differ between users after training.
* A pool is worth having all the same. The best shared slice, trained under quantization, beats
  the backbone without a pool at the same 2.5 bits and 15,360 bytes by 2.8 % (p = .02), and has
  98.5 % of float32.
* The best that knows the user is the rival: a generated vector of 136 bytes beside that shared
  slice, trained last (`offset-after`). It has 99.1 % of float32, and beats uniform quantization
  by 3.5 % (p = .004), a stranger's by 2.4 % (p = .002) and a random one by 1.6 % (p = .02):
  targets (a) and (c), with up to 60 epochs more than its rivals had. It does not beat the shared
  slice alone (+0.7 %, p = .25), nor the average vector (+0.9 %, p = .23): target (b) is missed.
* Without a pool, that vector is 3.4 % above uniform quantization on test (p = .0008), and level
  with it on validation: one seed is not enough to say what a history beyond the window is worth.

MovieLens-100K, one seed: no attempt beat a stranger's plan (intervals are some 10 % wide), and
uniform quantization without a pool is the best of all, slices and vectors being 7 to 14 % below:
a pool asks for more than 943 users.

Of the predictions, the gap to strangers came true for `personal-batch-trained`, and that
`personal` would be level with `global`; that slices, or vectors beside a slice, would pass the
best shared slice did not come true anywhere.

Tried and dropped: weights that are not averaged (the epoch chosen was luck), a contrastive term
(nothing on MovieLens-100K). Not run: Beauty, CDs, Yelp, Caser, a second seed of MovieLens-1M,
mixed populations, low-rank adapters, `personal-regular-trained`, `codes-after`. Vectors count as
int8 and were measured in float32."""
"""What all of it means, in words."""
