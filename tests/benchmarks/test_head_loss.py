"""benchmarks.head_loss: the gradient of the head and its loss is float64's."""

import re

from click.testing import CliRunner

from benchmarks.head_loss import main


def test_both_forms_are_compared_with_float64():
    arguments = ["--tokens", "300", "--vocabulary", "500", "--width", "16", "--rounds", "1"]
    output = CliRunner().invoke(main, arguments, catch_exceptions=False).stdout
    errors = [float(error) for error in re.findall(r"norm (\S+)", output)]
    assert len(errors) == 4
    assert max(errors) < 1e-6
