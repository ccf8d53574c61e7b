import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, Rprop
from torch.optim.lr_scheduler import LambdaLR

from qatlab.errors import ConfigError
from qatlab.quant import LsqWeight, SatWeight
from qatlab.quant.layers import QuantConv2d, QuantLinear
from qatlab.quant.quantizer import Quantizer
from qatlab.training.lr_policy import constant, cosine, step
from qatlab.training.parameter_roles import GROUPS, network_bits, parameter_groups
from qatlab.training.solver import Solver

CONF = Path(__file__).parents[3] / "conf"
SGD_TENTH = partial(SGD, lr=0.1)
UNSET: dict[str, float | None] = {"lr": None, "weight_decay": None}


class Clip(Quantizer):
    def __init__(self) -> None:
        super().__init__(bits=4, n_steps=None)
        self.alpha = nn.Parameter(torch.ones(3, 1))  # per channel: two dimensions, yet no weight
        self.activation = nn.PReLU()  # inside a quantizer, but not owned by it

    def forward(self, x: Tensor) -> Tensor:
        return x


def make_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), Clip(), nn.Linear(3, 1))


def make_solver(
    optimizer: Callable[..., Optimizer] = SGD_TENTH,
    lr_policy: Callable[..., float] = cosine,
    warmup_epochs: float = 0,
    recipe: dict[str, Any] | None = None,
    **groups: dict[str, float | None],
) -> Solver:
    all_groups = dict.fromkeys(GROUPS, UNSET) | groups
    return Solver(optimizer, lr_policy, warmup_epochs, 0.25, all_groups, **(recipe or {}))


def compose_solver(preset: str, *overrides: str) -> Solver:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+solver={preset}", *overrides])
    solver = instantiate(config.solver)
    assert isinstance(solver, Solver)
    return solver


def names_by_group(model: nn.Module) -> dict[str, set[str]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        group: {names[parameter] for parameter in parameters}
        for group, parameters in parameter_groups(model).items()
    }


def test_parameters_are_sorted_by_owner_and_dimensions() -> None:
    assert names_by_group(make_model()) == {
        "weights": {"0.weight", "3.weight"},
        "norms_and_biases": {"0.bias", "1.weight", "1.bias", "2.activation.weight", "3.bias"},
        "quantizers": {"2.alpha"},
    }


def make_separable(weight_quantizer: Quantizer | None = None) -> nn.Sequential:
    """A grouped, a depthwise and a pointwise convolution, and one of a single channel."""
    depthwise = nn.Conv2d(4, 8, 3, groups=4)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, groups=1, bias=False),
        nn.Conv2d(4, 4, 3, groups=2, bias=False),
        depthwise if weight_quantizer is None else QuantConv2d.of(depthwise, weight_quantizer),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 2, 1, bias=False),
    )


def test_weights_that_convolve_each_channel_by_itself_are_a_group_of_their_own() -> None:
    groups = {
        "weights": {"0.weight", "1.weight", "4.weight"},
        "depthwise": {"2.weight"},
        "norms_and_biases": {"2.bias", "3.weight", "3.bias"},
    }
    assert names_by_group(make_separable()) == groups
    quantized = make_separable(LsqWeight(bits=4))
    learned = {"quantizers": {"2.weight_quantizer.step_size"}}
    assert names_by_group(quantized) == groups | learned


def test_depthwise_weights_have_what_all_weights_have_unless_it_is_said() -> None:
    weights = {"lr": 0.2, "weight_decay": 0.5}

    def built(**depthwise: float | None) -> tuple[float, float]:
        group = {**UNSET, **depthwise}
        solver = make_solver(weights=weights, depthwise=group)
        found = solver.build(make_separable()).param_groups[1]
        assert found["name"] == "depthwise"
        return found["lr"], found["weight_decay"]

    assert built() == (0.2, 0.5)
    assert built(weight_decay=0.0) == (0.2, 0.0)
    assert built(lr=0.3) == (0.3, 0.5)


def test_shared_parameters_count_once_and_frozen_ones_not_at_all() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.requires_grad_(True)
    model[0].bias.requires_grad_(False)
    model[1].bias.requires_grad_(False)
    assert parameter_groups(model) == {"weights": [model[0].weight]}


def test_groups_carry_their_name_and_null_means_the_setting_of_the_optimizer() -> None:
    solver = make_solver(
        partial(SGD, lr=0.1, weight_decay=0.5),
        norms_and_biases={"lr": None, "weight_decay": 0.0},
        quantizers={"lr": 0.01, "weight_decay": 0.25},
    )
    groups = solver.build(make_model()).param_groups
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in groups] == [
        ("weights", 0.1, 0.5),
        ("norms_and_biases", 0.1, 0.0),
        ("quantizers", 0.01, 0.25),
    ]


def step_linear(solver: Solver, gradient: float) -> tuple[float, float]:
    """Weight and bias of a linear layer, both 1 before one step with the same gradient."""
    layer = nn.Linear(1, 1)
    for parameter in layer.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.full_like(parameter, gradient)
    solver.build(layer).step()
    return layer.weight.item(), layer.bias.item()


def test_sgd_steps_with_the_decay_and_rate_of_each_group() -> None:
    solver = make_solver(
        partial(SGD, lr=0.1, weight_decay=0.5),
        norms_and_biases={"lr": 0.2, "weight_decay": 0.0},
    )
    # theta - lr * (gradient + weight_decay * theta)
    assert step_linear(solver, 2.0) == pytest.approx((1 - 0.1 * 2.5, 1 - 0.2 * 2.0))


def test_adam_steps_with_the_decay_of_each_group() -> None:
    solver = make_solver(
        partial(Adam, lr=0.1, weight_decay=0.5),
        norms_and_biases={"lr": None, "weight_decay": 0.0},
    )
    # The first step is lr * sign(gradient + weight_decay * theta); the decay flips the sign.
    assert step_linear(solver, -0.2) == pytest.approx((1 - 0.1, 1 + 0.1))


def test_rates_meant_for_a_batch_grow_linearly_with_it() -> None:
    solver = make_solver(recipe={"lr_at_batch": 256}, quantizers={"lr": 0.01, "weight_decay": None})

    def rates(images: int | None) -> list[float]:
        solver.images_per_update = images
        return [group["lr"] for group in solver.build(make_model()).param_groups]

    assert rates(256) == [0.1, 0.1, 0.01]
    assert rates(1024) == pytest.approx([0.4, 0.4, 0.04])
    assert rates(64) == pytest.approx([0.025, 0.025, 0.0025])
    assert rates(None) == [0.1, 0.1, 0.01]  # as long as nobody has said
    solver.lr_at_batch = None
    assert rates(1024) == [0.1, 0.1, 0.01]


def test_only_batches_above_the_given_one_warm_up() -> None:
    solver = make_solver(lr_policy=constant, warmup_epochs=2, recipe={"warmup_above": 256})

    def factors(images: int | None) -> list[float]:
        solver.images_per_update = images
        return [solver.lr_factor(epoch, 4) for epoch in (0.0, 1.0, 2.0)]

    assert factors(257) == [0.25, 0.625, 1.0]
    assert factors(256) == factors(None) == [1.0, 1.0, 1.0]
    solver.check_phase(1)  # no warm-up is too long for it
    solver.images_per_update = 512
    with pytest.raises(
        ConfigError, match=r"^solver\.warmup_epochs=2 is wrong\. Accepted: less than"
    ):
        solver.check_phase(1)


def quantized_layers(*bits: int) -> nn.Sequential:
    """A layer of 4 x (4 k) weights for the k-th bit width, and a large batch norm."""
    layers = [QuantLinear.of(nn.Linear(4 * k, 4), LsqWeight(bits=b)) for k, b in enumerate(bits, 1)]
    return nn.Sequential(*layers, nn.BatchNorm1d(1000))


def test_the_bits_of_a_network_are_those_of_most_of_its_weights() -> None:
    assert network_bits(quantized_layers(8, 2, 8)) == 8  # 16 + 48 weights against 32
    assert network_bits(quantized_layers(8, 2, 2)) == 2
    assert network_bits(quantized_layers(8, 8, 3, 4)) == 4  # 64 against 48 twice
    assert network_bits(make_model()) is None
    ternary = QuantLinear.of(nn.Linear(2, 2), LsqWeight(n_steps=2))
    assert network_bits(ternary) == 2
    never_rounded = QuantLinear.of(nn.Linear(2, 2), SatWeight(bits=2, clamp_only=True))
    assert network_bits(never_rounded) is None
    assert network_bits(nn.ReLU()) is None


@pytest.mark.parametrize(("bits", "factor"), [(2, 0.25), (3, 0.5), (4, 1.0), (8, 1.0)])
def test_weight_decay_goes_by_the_bits_of_the_network(bits: int, factor: float) -> None:
    solver = make_solver(
        partial(SGD, lr=0.1, weight_decay=0.5),
        recipe={"decay_by_bits": {3: 0.5, 2: 0.25}},
        norms_and_biases={"lr": None, "weight_decay": 0.125},
        quantizers={"lr": None, "weight_decay": 0.0},
    )
    groups = solver.build(quantized_layers(8, bits)).param_groups
    decays = {group["name"]: group["weight_decay"] for group in groups}
    expected = {"weights": 0.5, "norms_and_biases": 0.125, "quantizers": 0.0}
    assert decays == {name: factor * value for name, value in expected.items()}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            {"lr_at_batch": 0},
            r"solver\.lr_at_batch=0 is wrong\. Accepted: a whole number above 0, or null",
        ),
        ({"warmup_above": 1.5}, r"solver\.warmup_above=1\.5 is wrong\. Accepted: a whole number"),
        ({"warmup_above": True}, r"solver\.warmup_above=true is wrong\. Accepted: a whole number"),
        (
            {"decay_by_bits": 0.5},
            r"solver\.decay_by_bits=0\.5 is wrong\. Accepted: a mapping from bits",
        ),
        (
            {"decay_by_bits": {"two": 1}},
            r"solver\.decay_by_bits=.*two.* is wrong\. Accepted: a mapping",
        ),
        (
            {"decay_by_bits": {2: -1}},
            r"solver\.decay_by_bits\.2=-1 is wrong\. Accepted: a number of at least 0",
        ),
    ],
)
def test_bad_recipe_is_an_error_that_names_its_key(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        make_solver(recipe=recipe)


def position(done: int) -> tuple[float, int]:
    """Two phases of 1 and 2 epochs, four optimizer steps per epoch."""
    return (done / 4, 1) if done < 4 else ((done - 4) / 4, 2)


def train(optimizer: Optimizer, scheduler: LambdaLR, steps: int) -> list[list[float]]:
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        scheduler.step()
    return rates


def test_schedule_restarts_with_each_phase_and_scales_each_group() -> None:
    solver = make_solver(
        lr_policy=partial(step, every=0.5, factor=0.5),
        quantizers={"lr": 0.01, "weight_decay": None},
    )
    optimizer = solver.build(make_model())
    rates = train(optimizer, solver.lr_scheduler(optimizer, position), 12)
    factors = [1, 1, 0.5, 0.5, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]  # 4 steps, then 8
    assert [rate[0] for rate in rates] == pytest.approx([0.1 * factor for factor in factors])
    assert [rate[-1] for rate in rates] == pytest.approx([0.01 * factor for factor in factors])


def test_training_resumed_from_a_safely_loaded_checkpoint_equals_the_uninterrupted_one() -> None:
    solver = make_solver(partial(SGD, lr=0.1, momentum=0.9), warmup_epochs=0.5)
    torch.manual_seed(0)
    model = make_model()
    optimizer = solver.build(model)
    scheduler = solver.lr_scheduler(optimizer, position)
    train(optimizer, scheduler, 6)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (model, optimizer, scheduler)], file)
    expected_rates = train(optimizer, scheduler, 6)

    resumed = make_model()
    resumed_optimizer = solver.build(resumed)
    resumed_scheduler = solver.lr_scheduler(resumed_optimizer, position)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    resumed.load_state_dict(states[0])
    resumed_optimizer.load_state_dict(states[1])
    resumed_scheduler.load_state_dict(states[2])
    assert train(resumed_optimizer, resumed_scheduler, 6) == expected_rates
    for name, parameter in resumed.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name))


def test_unknown_optimizer_argument_is_named_with_the_nearest_and_all_accepted() -> None:
    typo: dict[str, Any] = {"momentm": 0.9}
    solver = make_solver(partial(SGD, lr=0.1, **typo))
    message = (
        r"solver\.optimizer: SGD has no argument 'momentm'\. Did you mean 'momentum'\? "
        r"Accepted: lr, momentum, "
    )
    with pytest.raises(ConfigError, match=message):
        solver.build(make_model())


@pytest.mark.parametrize("lr", [-1.0, "fast"])
def test_value_the_optimizer_refuses_is_an_error_that_names_the_optimizer(lr: Any) -> None:
    with pytest.raises(ConfigError, match=r"solver\.optimizer: .* Accepted: lr, "):
        make_solver(partial(SGD, lr=lr)).build(make_model())


def test_weight_decay_for_an_optimizer_without_one_is_an_error() -> None:
    solver = make_solver(partial(Rprop, lr=0.1), quantizers={"lr": None, "weight_decay": 0.1})
    with pytest.raises(ConfigError, match=r"solver\.groups\.quantizers\.weight_decay .* Rprop"):
        solver.build(make_model())
    make_solver(partial(Rprop, lr=0.1)).build(make_model())


def test_model_without_trainable_parameters_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no trainable parameter"):
        make_solver().build(nn.ReLU())


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"wieghts": UNSET}, r"solver\.groups\.wieghts is unknown\. Did you mean 'weights'\?"),
        ({"weights": {"lr": None}}, r"solver\.groups\.weights\.weight_decay is missing"),
        ({"weights": {**UNSET, "mom": 1.0}}, r"solver\.groups\.weights\.mom is unknown"),
        ({"weights": None}, r"solver\.groups\.weights=null is wrong\. Accepted: a mapping"),
        ({"weights": {"lr": -1.0, "weight_decay": None}}, r"solver\.groups\.weights\.lr=-1\.0"),
    ],
)
def test_bad_group_is_an_error_that_names_its_path(groups: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_solver(**groups)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            partial(cosine, **{"finl": 0.1}),
            r"cosine has no argument 'finl'\. Did you mean 'final'\?",
        ),
        (partial(cosine, final=2.0), r"solver\.lr_policy\.final=2\.0"),
        (step, r"solver\.lr_policy: .*'every'.* Accepted: every, factor\."),
    ],
)
def test_bad_policy_option_is_reported_before_training(
    policy: Callable[..., float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_solver(lr_policy=policy)


def test_two_warm_ups_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match=r"^solver\.warmup_epochs and .* are both above 0; set"):
        make_solver(lr_policy=partial(cosine, warmup_epochs=1), warmup_epochs=1)
    assert make_solver(lr_policy=partial(cosine, warmup_epochs=1)).lr_factor(0.5, 4) == 0.625


def test_the_learning_rate_that_a_message_names_is_the_one_to_change() -> None:
    solver = make_solver(quantizers={"lr": 0.01, "weight_decay": None})
    assert solver.lr_key("weights") == "solver.optimizer.lr"
    assert solver.lr_key("quantizers") == "solver.groups.quantizers.lr"


@pytest.mark.parametrize(
    ("preset", "optimizer", "half_way"),
    [("sgd_cosine", SGD, 0.5), ("sgd_step", SGD, 0.1), ("adam", Adam, 0.5), ("adamw", AdamW, 0.5)],
)
def test_preset_builds_its_optimizer_and_policy(
    preset: str, optimizer: type[Optimizer], half_way: float
) -> None:
    solver = compose_solver(preset)
    built = solver.build(make_model())
    assert type(built) is optimizer
    assert [group["weight_decay"] for group in built.param_groups] == [
        built.defaults["weight_decay"],
        0.0,
        built.defaults["weight_decay"],
    ]
    assert solver.lr_factor(30.0, 60) == pytest.approx(half_way)


# Jin et al. 2019 (SAT); Goyal et al. 2017 for what is above 256.
@pytest.mark.parametrize(
    ("images", "lr", "warmup"), [(256, 0.05, 0), (64, 0.0125, 0), (1024, 0.2, 5)]
)
def test_the_recipe_of_sat(images: int, lr: float, warmup: int) -> None:
    solver = compose_solver("sat")
    solver.images_per_update = images
    optimizer = solver.build(make_separable(LsqWeight(bits=4)))
    assert type(optimizer) is SGD
    assert [
        (group["name"], group["lr"], group["weight_decay"], group["momentum"], group["nesterov"])
        for group in optimizer.param_groups
    ] == [
        ("weights", lr, 4e-5, 0.9, True),
        ("depthwise", lr, 0.0, 0.9, True),
        ("norms_and_biases", lr, 0.0, 0.9, True),
        ("quantizers", lr, 0.0, 0.9, True),
    ]
    assert solver.lr_factor(0.0, 150) == (0.25 if warmup else 1.0)
    factors = [solver.lr_factor(epoch, 150) for epoch in (warmup, (warmup + 150) / 2, 150)]
    assert factors == pytest.approx([1.0, 0.5, 0.0])


# Esser et al. 2019 (LSQ), section 3.
@pytest.mark.parametrize(("bits", "decay"), [(8, 1e-4), (4, 1e-4), (3, 0.5e-4), (2, 0.25e-4)])
def test_the_recipe_of_lsq(bits: int, decay: float) -> None:
    solver = compose_solver("lsq")
    solver.images_per_update = 512  # the paper names no batch for its rates
    optimizer = solver.build(quantized_layers(8, bits))
    assert type(optimizer) is SGD
    assert [
        (group["name"], group["lr"], group["weight_decay"], group["momentum"], group["nesterov"])
        for group in optimizer.param_groups
    ] == [
        ("weights", 0.01, decay, 0.9, False),
        ("norms_and_biases", 0.01, 0.0, 0.9, False),
        ("quantizers", 0.01, 0.0, 0.9, False),
    ]
    factors = [solver.lr_factor(epoch, 90) for epoch in (0.0, 30.0, 45.0, 90.0)]
    assert factors == pytest.approx([1.0, 0.75, 0.5, 0.0])


def test_every_preset_is_tested() -> None:
    presets = {file.stem for file in (CONF / "solver").glob("[!_]*.yaml")}
    assert presets == {
        "sgd_cosine",
        "sgd_step",
        "adam",
        "adamw",
        "by_parameter",
        "sat",
        "lsq",
        "pact",
    }


@pytest.mark.parametrize(
    ("policy", "at_half_of_four_epochs"),
    [
        ("constant", 1.0),
        ("cosine", 0.5),
        ("step", 1.0),
        ("exponential", 0.8187307530779818),  # exp(-0.2)
        ("inverse_time", 1 / 1.2),
        ("polynomial", 0.5),
        ("inverse", 1.2**-0.75),
    ],
)
def test_policy_is_picked_on_the_command_line(policy: str, at_half_of_four_epochs: float) -> None:
    solver = compose_solver("sgd_cosine", f"solver/lr_policy={policy}")
    assert solver.lr_factor(2.0, 4) == pytest.approx(at_half_of_four_epochs)


def test_warmup_and_group_settings_come_from_the_config() -> None:
    solver = compose_solver(
        "sgd_cosine",
        "solver.warmup_epochs=2",
        "solver.warmup_start=0.5",
        "solver.groups.quantizers.lr=0.001",
    )
    assert solver.lr_factor(1.0, 4) == 0.75
    assert solver.build(Clip()).param_groups[-1]["lr"] == 0.001


def test_config_error_is_the_cause_of_the_error_hydra_raises() -> None:
    with pytest.raises(InstantiationException) as raised:
        compose_solver("sgd_cosine", "solver.lr_policy.final=2")
    assert isinstance(raised.value.__cause__, ConfigError)
