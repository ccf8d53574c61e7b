import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from qatlab.errors import ConfigError
from qatlab.training.lr_policy import (
    LrPolicy,
    constant,
    cosine,
    exponential,
    inverse,
    inverse_time,
    polynomial,
    step,
    with_warmup,
)


@pytest.mark.parametrize(
    ("policy", "epoch", "expected"),
    [
        (constant, 7.5, 1.0),
        (cosine, 0.0, 1.0),
        (cosine, 5.0, 0.5),
        (cosine, 10.0, 0.0),
        (partial(cosine, final=0.2), 5.0, 0.6),
        (partial(cosine, final=0.2), 10.0, 0.2),
        (partial(step, every=3, factor=0.1), 2.99, 1.0),
        (partial(step, every=3, factor=0.1), 3.0, 0.1),
        (partial(step, every=3, factor=0.1), 9.5, 0.001),
        (partial(exponential, every=2, decay=0.5), 3.9, math.exp(-0.5)),
        (partial(exponential, every=None, decay=0.5), 3.0, math.exp(-1.5)),
        (partial(inverse_time, every=2, decay=0.5), 1.9, 1.0),
        (partial(inverse_time, every=2, decay=0.5), 8.0, 1 / 3),
        (partial(polynomial, power=1), 2.5, 0.75),
        (partial(polynomial, power=2), 5.0, 0.25),
        (partial(polynomial, power=2), 10.0, 0.0),
        (partial(cosine, over=4), 2.0, 0.5),
        (partial(cosine, over=4, final=0.5), 4.0, 0.5),
        (partial(cosine, over=4), 6.0, 0.5),  # it rises again
        (partial(cosine, over=4), 8.0, 1.0),
        (partial(cosine, over=40), 10.0, (1 + math.sqrt(0.5)) / 2),
        (partial(cosine, over=4, warmup_epochs=2), 1.0, 0.625),
        (partial(cosine, over=4, warmup_epochs=2), 3.0, 0.5),
        (partial(cosine, warmup_epochs=2, warmup_start=0.5), 0.0, 0.5),
        (partial(cosine, warmup_epochs=2), 6.0, 0.5),
        (partial(cosine, every=5), 4.9, 1.0),
        (partial(cosine, every=5), 5.1, 0.5),
        (partial(polynomial, power=1, over=4), 1.0, 0.75),
        (partial(polynomial, power=2, over=4), 4.0, 0.0),
        (partial(polynomial, power=2, over=4), 6.0, 0.0),  # it stays there
        (partial(polynomial, power=1, over=40), 10.0, 0.75),
        (partial(inverse, decay=0.6, power=0.5), 5.0, 0.5),
    ],
)
def test_factor_follows_the_formula_in_a_phase_of_ten_epochs(
    policy: LrPolicy, epoch: float, expected: float
) -> None:
    assert policy(epoch, 10) == pytest.approx(expected, abs=1e-12)


# N2D2's own table, at update k of a training with 1000 images, batches of 10, IterationSize 2 and
# learning rate 1: p = 20 k samples are seen, 50 updates make an epoch; j = floor(p / step size).
N2D2_SAMPLES, N2D2_UPDATES = 1000, 50


def n2d2_cosine(
    k: int, iterations: int, warm_up: int, lr_frac: float, min_decay: float, step_size: int = 1
) -> float:
    j = 20 * k // step_size
    if j < warm_up:
        return (1 - lr_frac) * j / warm_up + lr_frac
    half_wave = 0.5 * (1 + math.cos(math.pi * (j - warm_up) / (iterations - warm_up)))
    return max(0.0, (1 - min_decay) * half_wave + min_decay)


@pytest.mark.parametrize(
    ("policy", "n2d2"),
    [
        (partial(step, every=0.5, factor=0.1), lambda k: 0.1 ** (20 * k // 500)),
        (partial(exponential, every=0.5, decay=0.1), lambda k: math.exp(-0.1 * (20 * k // 500))),
        (partial(exponential, every=None, decay=1.0), lambda k: math.exp(-0.001 * 20 * k)),
        (partial(inverse_time, every=0.5, decay=0.1), lambda k: 1 / (1 + 0.1 * (20 * k // 500))),
        (partial(polynomial, power=0.9), lambda k: (1 - k / 200) ** 0.9),
        (partial(inverse, decay=0.5, power=0.75), lambda k: (1 + 0.01 * k) ** -0.75),
        (
            with_warmup(partial(cosine, final=0.1), 1, 0.25),
            partial(
                n2d2_cosine,
                iterations=4 * N2D2_SAMPLES,
                warm_up=N2D2_SAMPLES,
                lr_frac=0.25,
                min_decay=0.1,
            ),
        ),
        (
            partial(cosine, final=0.1, over=2.5, warmup_epochs=0.5, warmup_start=0.4),
            partial(n2d2_cosine, iterations=2500, warm_up=500, lr_frac=0.4, min_decay=0.1),
        ),
        (
            partial(cosine, over=2.5, every=0.25, warmup_epochs=0.5),
            partial(
                n2d2_cosine, iterations=10, warm_up=2, lr_frac=0.25, min_decay=0.0, step_size=250
            ),
        ),
        (partial(polynomial, power=0.9, over=2.5), lambda k: (1 - min(k, 125) / 125) ** 0.9),
    ],
)
def test_converted_options_give_the_rates_of_n2d2_at_each_update_of_four_epochs(
    policy: LrPolicy, n2d2: Callable[[int], float]
) -> None:
    ours = [policy(k / N2D2_UPDATES, 4) for k in range(4 * N2D2_UPDATES + 1)]
    assert ours == pytest.approx([n2d2(k) for k in range(len(ours))], abs=1e-12)


def test_drop_comes_at_its_update_although_the_quotient_is_rounded_down() -> None:
    assert 0.3 / 0.1 < 3  # the trap
    assert step(0.3, 1, every=0.1, factor=0.5) == 0.125


def test_polynomial_ends_at_0_although_the_quotient_is_rounded_down() -> None:
    epoch, over = 11 / 3 - 3, 2 / 3  # in the second phase, after three epochs
    assert epoch / over < 1  # the trap
    assert polynomial(epoch, 1, power=0.5, over=over) == 0.0


@pytest.mark.parametrize("policy", [cosine, partial(polynomial, power=0.5)])
def test_position_rounded_past_the_end_keeps_the_final_factor(policy: LrPolicy) -> None:
    assert policy(3 + 1e-9, 3) == 0.0


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0.0, 0.25), (1.0, 0.625), (2.0, 1.0), (6.0, 0.5), (10.0, 0.0)]
)
def test_warmup_rises_to_one_and_leaves_the_other_epochs_to_the_policy(
    epoch: float, expected: float
) -> None:
    assert with_warmup(cosine, 2, 0.25)(epoch, 10) == pytest.approx(expected, abs=1e-12)


def test_no_warmup_starts_with_the_policy() -> None:
    assert with_warmup(cosine, 0, 0.25)(0.0, 10) == 1.0


@pytest.mark.parametrize(
    ("options", "than"),
    [
        ({"warmup_epochs": 5}, r"the epochs of .* one has 5"),
        ({"warmup_epochs": 3, "over": 2}, "ov"),
    ],
)
def test_warmup_as_long_as_the_cosine_is_refused(options: dict[str, float], than: str) -> None:
    told = rf"^solver\.lr_policy\.warmup_epochs=\d is wrong\. Accepted: less than {than}"
    with pytest.raises(ConfigError, match=told):
        cosine(0.0, 5, **options)


def test_warmup_as_long_as_a_phase_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"solver\.warmup_epochs=5 .* one has 5\."):
        with_warmup(constant, 5, 0.25)(0.0, 5)


@pytest.mark.parametrize(
    ("policy", "options", "key"),
    [
        (cosine, {"final": 1.5}, "final"),
        (cosine, {"final": "low"}, "final"),
        (cosine, {"over": 0}, "over"),
        (cosine, {"every": 0}, "every"),
        (cosine, {"warmup_epochs": -1}, "warmup_epochs"),
        (cosine, {"warmup_epochs": 0.5, "warmup_start": 2}, "warmup_start"),
        (step, {"every": 0}, "every"),
        (step, {"every": None}, "every"),
        (step, {"every": 1, "factor": -0.1}, "factor"),
        (exponential, {"every": -1, "decay": 0.1}, "every"),
        (exponential, {"every": None, "decay": math.nan}, "decay"),
        (inverse_time, {"every": 1, "decay": -1}, "decay"),
        (inverse_time, {"every": math.inf, "decay": 1}, "every"),
        (polynomial, {"power": -1}, "power"),
        (polynomial, {"power": 1, "over": -1}, "over"),
        (inverse, {"decay": -0.1, "power": 1}, "decay"),
        (inverse, {"decay": 0.1, "power": -1}, "power"),
    ],
)
def test_bad_option_is_an_error_that_names_its_key(
    policy: Callable[..., float], options: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError, match=rf"solver\.lr_policy\.{key}="):
        policy(0.0, 1, **options)


@pytest.mark.parametrize(
    ("epochs", "start", "key"), [(-1, 0.25, "warmup_epochs"), (1, 2.0, "warmup_start")]
)
def test_bad_warmup_is_an_error_that_names_its_key(epochs: float, start: float, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"solver\.{key}="):
        with_warmup(constant, epochs, start)
