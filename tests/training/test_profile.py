"""--profile writes a trace of the steps that were asked for."""

import jax
import pytest

from llm_jax.training import train


def steps_in(directory):
    """How many steps the trace has."""
    (file,) = directory.rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(file))
    events = [event.name for plane in data.planes for line in plane.lines for event in line.events]
    return events.count("train")


@pytest.mark.parametrize(("steps", "traced"), [(2, 2), (1000, None)])
def test_so_many_steps_are_traced_or_all_up_to_the_end(config, steps, traced):
    result = train("regression", config("training.num_samples=100", f"logging.profile_steps={steps}"))
    count = steps_in(result.run.profile)
    assert count == (result.total_steps - 2 if traced is None else traced)


def test_none_are_unless_asked_for(config):
    assert not train("regression", config("training.num_samples=100")).run.profile.exists()
