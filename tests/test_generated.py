"""The generated NumPy code is what the SymPy equations give today, and a prediction does not wait for SymPy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nfp_model.cost import generated, generating
from nfp_model.cost.equations import KINDS, equation
from nfp_model.cost.symbols import SYMBOLS


def test_the_committed_file_is_what_the_equations_generate() -> None:
    assert Path(generated.__file__).read_text(encoding="utf-8") == generating.generated_source()


@pytest.mark.parametrize("kind", KINDS)
def test_generated_code_equals_the_expression(kind: str) -> None:
    random = np.random.default_rng(7)
    for term, expression in {None: equation(kind).latency, **equation(kind).terms}.items():
        names, function = generated.FUNCTIONS[kind, term]
        values = {name: float(random.uniform(1.0, 3.0)) for name in names}
        exact = expression.evalf(30, subs={SYMBOLS[name].symbol: value for name, value in values.items()})
        assert function(**{SYMBOLS[name].symbol.name: value for name, value in values.items()}) == pytest.approx(
            float(exact), rel=1e-12
        )


def test_a_prediction_does_not_load_sympy() -> None:
    code = "import sys, nfp_model; nfp_model.predict_nfp('h100', 'mixtral'); print('sympy' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )
