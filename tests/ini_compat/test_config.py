"""What N2D2 reads from a ``ConfigSection`` only, and what from the cell only."""

from __future__ import annotations

from pathlib import Path

import pytest
from reading import cells, refusal

from ini_compat.cells.config import Config
from ini_compat.errors import IniError
from ini_compat.syntax.resolve import Document

CELLS = {
    "Conv": "KernelSize=3\nNbOutputs=1\n",
    "Deconv": "KernelSize=3\nNbOutputs=1\n",
    "Fc": "NbOutputs=1\n",
    "BatchNorm": "NbOutputs=1\n",
    "Pool": "PoolSize=2\nPooling=Max\nNbOutputs=1\n",
    "Dropout": "NbOutputs=1\n",
    "LRN": "NbOutputs=1\n",
    "Resize": "OutputWidth=4\nOutputHeight=4\nMode=Bilinear\nNbOutputs=1\n",
    "FMP": "ScalingRatio=2\nNbOutputs=1\n",
    "Threshold": "Threshold=0.5\nNbOutputs=1\n",
    "ElemWise": "Operation=Sum\nNbOutputs=1\n",
    "Softmax": "NbOutputs=1\n",
    "Scaling": "Factor=2\nNbOutputs=1\n",
    "Normalize": "Norm=L2\nNbOutputs=1\n",
    "Padding": "TopPadding=1\nBottomPadding=1\nLeftPadding=1\nRightPadding=1\nNbOutputs=1\n",
    "Reshape": "Dims=64\n",
    "Transpose": "Perm=1 0 2 3\n",
    "Activation": "NbOutputs=1\n",
}
WEIGHTS = {"NoBias": "1", "BackPropagate": "0"}
EXPORT = {"WeightsExportFormat": "HWCO", "WeightsExportFlip": "1", "OutputsRemap": "0:1"}
PARAMETERS = {  # the third column of the table in section 3
    "Conv": WEIGHTS | EXPORT,
    "Deconv": WEIGHTS | EXPORT,
    "Fc": WEIGHTS | {"Normalize": "1", "DropConnect": "0.5", "WeightsExportFormat": "CO"},
    "BatchNorm": {"Epsilon": "0.1", "MovingAverageMomentum": "0.5", "BackPropagate": "0"},
    "Dropout": {"Dropout": "0.2"},
    "LRN": {"N": "3", "Alpha": "1", "Beta": "1", "K": "1"},
    "Resize": {"AlignCorners": "0"},
    "FMP": {"Overlapping": "0", "PseudoRandom": "0"},
    "Threshold": {"Operation": "Truncate", "MaxValue": "2"},
}
CASES = [(kind, key) for kind, keys in PARAMETERS.items() for key in keys]


def cell(kind: str) -> str:
    return f"[x]\nInput=env\nType={kind}\n{CELLS[kind]}"


@pytest.mark.parametrize(("kind", "key"), CASES)
def test_parameters_in_the_cell_have_no_effect(tmp_path: Path, kind: str, key: str) -> None:
    plain = cells(tmp_path, cell(kind))
    found = cells(tmp_path, f"{cell(kind)}{key}={PARAMETERS[kind][key]}\n")
    assert found["x"] == plain["x"]
    reason = "N2D2 reads it from a ConfigSection only, so it has no effect there either"
    line = 2 + cell(kind).count("\n")
    assert set(found.lost) - set(plain.lost) == {f"{line}: [x] {key} ignored: {reason}"}


CHANGES = {  # what these make of the only layer; keys that change something else are below
    "NoBias": {"bias": False},
    "DropConnect": {},
    "Epsilon": {"eps": 0.1},
    "MovingAverageMomentum": {"momentum": 0.5},
    "Dropout": {"p": 0.2},
    **{"N": {"size": 3}, "Alpha": {"alpha": 1.0}, "Beta": {"beta": 1.0}, "K": {"k": 1.0}},
    "AlignCorners": {"align_corners": False},
    "Overlapping": {"overlapping": False},
    "PseudoRandom": {"pseudo_random": False},
    "Operation": {"operation": "truncate"},
    "MaxValue": {"max_value": 2.0},
}


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, key in CASES if key in CHANGES])
def test_parameters_in_the_config_section_count(tmp_path: Path, kind: str, key: str) -> None:
    plain = cells(tmp_path, cell(kind)).layers["x"]
    text = f"{cell(kind)}ConfigSection=c\n[c]\n{key}={PARAMETERS[kind][key]}\n"
    found = cells(tmp_path, text)
    assert found.layers["x"] == {**plain, **CHANGES[key]}
    found.graph()


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("Conv", "KernelSize"),
        ("Conv", "Stride"),
        ("Conv", "WeightsFiller"),
        ("Conv", "QWeight"),
        ("Conv", "Mapping.Size"),
        ("Conv", "QActSolver.LearningRate"),
        ("Conv", "QWeightSolver.LearningRate"),
        ("Conv", "ScaleSolver.LearningRate"),
        ("Deconv", "ActivationFunction"),
        ("Fc", "WeightsExportFlip"),
        ("Fc", "NbOutputs"),
        ("BatchNorm", "NoBias"),
        ("BatchNorm", "WeightsSolver.LearningRate"),
        ("Pool", "Pooling"),
        ("Dropout", "NoBias"),
        ("LRN", "Epsilon"),
        ("Threshold", "Threshold"),
        ("FMP", "ScalingRatio"),
        ("Resize", "Mode"),
        *((kind, "NoBias") for kind in ("Pool", "ElemWise", "Softmax", "Scaling", "Normalize")),
        *((kind, "NoBias") for kind in ("Padding", "Reshape", "Transpose", "Activation")),
    ],
)
def test_other_keys_in_a_config_section_are_unknown_parameters(
    tmp_path: Path, kind: str, key: str
) -> None:
    text = f"{cell(kind)}ConfigSection=c\n[c]\n{key}=1\n"
    line = 1 + text.count("\n")
    message = refusal(tmp_path, text)
    assert message.startswith(f"{line}: [c] {key} is not a parameter of the cells that use this")
    assert "Accepted: " in message


def test_the_nearest_parameter_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path, f"{cell('Conv')}ConfigSection=c\n[c]\nNoBais=1\n")
    assert message == (
        "9: [c] NoBais is not a parameter of the cells that use this section, and N2D2 does not "
        "load the file. Did you mean 'NoBias'? Accepted: NoBias, BackPropagate, "
        "WeightsExportFormat, WeightsExportFlip, OutputsRemap, Solvers.*, WeightsSolver.*, "
        "BiasSolver.*"
    )
    message = refusal(tmp_path, f"{cell('Pool')}ConfigSection=c\n[c]\nNoBias=1\n")
    assert message.endswith("Accepted: none")


def test_keys_that_no_cell_has_are_reported(tmp_path: Path) -> None:
    found = cells(tmp_path, f"{cell('Pool')}NoBias=1\nKernelSize=3\n")
    assert found.lost == [
        "8: [x] NoBias ignored: Pool has no such key",
        "9: [x] KernelSize ignored: Pool has no such key",
    ]


def test_a_key_that_many_inherit_is_reported_once(tmp_path: Path) -> None:
    text = "[def]\nType=Fc\nNbOutputs=2\nNoBias=1\nBiasSolver.LearningRate=1\n"
    text += "[a] def\nInput=env\n[b] def\nInput=a\n[c] b\nInput=b\nNoBias=0\n"
    found = cells(tmp_path, text)
    assert [lost[: lost.index(" ignored")] for lost in dict.fromkeys(found.lost)] == [
        "5: [def] NoBias",
        "6: [def] BiasSolver.LearningRate",
        "13: [c] NoBias",
    ]


def test_a_key_that_only_some_heirs_read_is_reported_where_it_is_not(tmp_path: Path) -> None:
    text = "[def]\nType=Fc\nNbOutputs=2\nQAct=SAT\n[a] def\nInput=env\nActivationFunction=Linear\n"
    found = cells(tmp_path, f"{text}[b] def\nInput=a\n")
    assert found["a"].activation
    assert [lost.partition(":")[2].partition(" ignored")[0] for lost in found.lost] == [" [b] QAct"]


# -- which sections count ---------------------------------------------------------------------


def config(folder: Path, text: str, model: str = "Frame_CUDA") -> Config:
    path = folder / "model.ini"
    path.write_text(text)
    document = Document.read(str(path), {}, {})
    return Config.of(document, document.section("x"), model)


LISTED = "[a]\nP=1\nQ=1\n[b]\nP=2\nSolvers.X=1\n[x]\n"


def test_later_sections_override_earlier_ones(tmp_path: Path) -> None:
    assert config(tmp_path, f"{LISTED}ConfigSection=a,b\n").real("P", 0) == 2
    assert config(tmp_path, f"{LISTED}ConfigSection=b,a\n").real("P", 0) == 1
    found = config(tmp_path, f"{LISTED}ConfigSection=a,b\n")
    assert (found.unsigned("Q", 0), found.unsigned("R", 7)) == (1, 7)
    assert found.sections[0].unused() == ["P"]
    assert found.real("P", 0) == 2
    assert found.sections[0].unused() == []  # what is overridden is not forgotten
    assert [(s, o.name, k) for s, (o, k) in found.prefixed("Solvers.").items()] == [
        ("X", "b", "Solvers.X")
    ]


def test_a_section_for_the_model_stands_for_the_other(tmp_path: Path) -> None:
    text = f"{LISTED}ConfigSection=a\nConfigSection(Frame_CUDA)=b\n"
    assert config(tmp_path, text, "Frame_CUDA").real("P", 0) == 2
    assert config(tmp_path, text, "Frame").real("P", 0) == 1
    assert config(tmp_path, f"{LISTED}ConfigSection(Frame*)=b\n", "Frame").sections == []


def test_sections_for_another_model_are_reported(tmp_path: Path) -> None:
    text = f"{cell('Conv')}ConfigSection(Frame)=c\n[c]\nNoBias=1\n"
    found = cells(tmp_path, text)
    assert "bias" not in found.layers["x"]
    (lost,) = found.lost
    assert lost.startswith("7: [x] ConfigSection(Frame) ignored: it is for cells of another Model")
    found = cells(tmp_path, text, head="DefaultModel=Frame\n")
    assert found.layers["x"]["bias"] is False
    assert found.deviations == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("c", "there is no section [c]."),
        ("a, b", "there is no section [ b]. Did you mean 'b'?"),
        ("", "ConfigSection= is wrong. Accepted: names"),
        ("a,", "ConfigSection=a, is wrong. Accepted: names"),
    ],
)
def test_missing_sections(tmp_path: Path, value: str, expected: str) -> None:
    with pytest.raises(IniError, match="8") as error:
        config(tmp_path, f"{LISTED}ConfigSection={value}\n")
    assert expected in str(error.value)


def test_wrong_values_are_reported_where_they_stand(tmp_path: Path) -> None:
    text = f"{cell('Dropout')}Dropout=0.1\nConfigSection=c\n[c]\nDropout=1.5\n"
    assert (
        refusal(tmp_path, text) == "9: [c] Dropout=1.5 is wrong. Accepted: a probability in [0, 1)"
    )
    text = f"{cell('BatchNorm')}ConfigSection=c\n[c]\nMovingAverageMomentum=1\n"
    assert refusal(tmp_path, text).startswith("8: [c] MovingAverageMomentum=1 is wrong")
    text = f"{cell('LRN')}ConfigSection=c\n[c]\nN=0\n"
    assert refusal(tmp_path, text).startswith("8: [c] N=0 is wrong")
