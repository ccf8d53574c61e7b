"""Small N2D2 projects, and what is understood of them."""

from __future__ import annotations

from pathlib import Path

from ini_compat.build import understand
from ini_compat.convert import experiment
from ini_compat.network import Network, Node

QUANTIZED = (  # lines of the convolution are to be filled in
    "[conv]\nInput=sp\nType=Conv\nKernelSize=3\nNbOutputs=4\nActivationFunction=Linear\n{}"
    "[fc]\nInput=conv\nType=Fc\nNbOutputs=10\n"
)
HEAD = "DefaultModel=Frame_CUDA\n"
MNIST = "[database]\nType=MNIST_IDX_Database\n"
SP = "[sp]\nSizeX=28\nSizeY=28\nBatchSize=100\n"
FC = "[fc]\nInput=sp\nType=Fc\nNbOutputs=10\n"
TARGET = "[fc.Target]\n"


def read(folder: Path, text: str, **options: object) -> Network:
    """Write a text as model.ini and return what is understood of it."""
    path = folder / "model.ini"
    path.write_text(text, encoding="utf-8")
    return understand(str(path), **options)  # type: ignore[arg-type]


def project(
    cells: str = FC, *, head: str = HEAD, database: str = MNIST, sp: str = SP, target: str = TARGET
) -> str:
    """Return a whole project; by default, one fully-connected layer on MNIST."""
    return f"{head}{database}{sp}{cells}{target}"


def problems(network: Network) -> str:
    """Return all problems as text."""
    return "\n".join(map(str, network.problems))


def losses(network: Network) -> str:
    """Return all losses as text."""
    return "\n".join(f"{item.key} {item.kind}: {item.reason}" for item in network.deviations)


def deep(blocks: int) -> str:
    """Return a network like GoogLeNet, its inception blocks written out."""
    last, lines = "sp", []
    for block in range(blocks):
        parts = []
        for branch, kernels in {"a": (1,), "b": (1, 3), "c": (1, 5), "d": (1,)}.items():
            source = last
            for number, kernel in enumerate(kernels):
                name = f"inc{block}_{branch}{number}"
                lines += [
                    *(f"[{name}]", f"Input={source}", "Type=Conv", f"KernelSize={kernel}"),
                    *("Stride=1", f"Padding={kernel // 2}", "NbOutputs=16", "QWeight=SAT"),
                    *("QWeight.Range=15", "ConfigSection=common.config"),
                    *("WeightsFiller=HeFiller", "WeightsFiller.VarianceNorm=FanOut"),
                    *(f"[{name}_bn]", f"Input={name}", "Type=BatchNorm", "NbOutputs=16"),
                    *("ActivationFunction=Linear", "QAct=SAT", "QAct.Range=15", "QAct.Alpha=6.0"),
                    *("QActSolver=SGD", "QActSolver.LearningRate=0.05", "ConfigSection=bn.config"),
                ]
                source = f"{name}_bn"
            parts.append(source)
        last = ",".join(parts)
    lines += ["[fc]", f"Input={last}", "Type=Fc", "NbOutputs=10", "ConfigSection=common.config"]
    lines += ["[common.config]", "NoBias=1", "Solvers.LearningRate=0.05", "Solvers.Momentum=0.9"]
    lines += ["[bn.config]", "Solvers.LearningRate=0.1"]
    return project("\n".join(lines) + "\n")


def converted(folder: Path, text: str, epochs: int | None = None) -> tuple[Node, Network]:
    """Return the experiment of a text without problems, and its network."""
    network = read(folder, text)
    assert network.problems == []
    return experiment(network, epochs), network
