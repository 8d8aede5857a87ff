"""Two real processes, one run."""

import socket
import subprocess
import sys

PROGRAM = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from llm_jax.parallel import is_first, join_processes, largest, make_mesh, on_host, sharding
from llm_jax.parallel import text_of_first, wait_for_all

join_processes(sys.argv[1], 2, int(sys.argv[2]))
join_processes()  # nothing is done twice
mesh = make_mesh(data=2)
spread = jax.make_array_from_callback((4,), sharding(mesh, ("batch",), (4,)), lambda index: np.arange(4)[index])
wait_for_all("the test")
index = jax.process_index()
print(is_first(), int(largest(3 + index, mesh)), text_of_first(f"ä{index}"), on_host(spread))
gathered = multihost_utils.process_allgather(jnp.float32(10 + jax.process_index()))
print(jax.process_count(), len(jax.devices()), gathered.tolist())
"""

FAILING = """
import sys
from llm_jax.parallel import is_first, join_processes, leaving_on_failure, wait_for_all

join_processes(sys.argv[1], 2, int(sys.argv[2]))
wait_for_all("both are connected")
with leaving_on_failure():
    if not is_first():
        raise ValueError("no data here")
    wait_for_all("what the second never reaches")
"""


def start_both(program: str) -> list[subprocess.Popen[str]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, address, str(index)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def test_processes_see_each_others_devices_and_exchange_arrays() -> None:
    for index, process in enumerate(start_both(PROGRAM)):
        out, err = process.communicate(timeout=120)
        lines = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
        assert lines == [f"{index == 0} 4 ä0 [0 1 2 3]", "2 2 [10.0, 11.0]"], err[-2000:]


def test_one_that_fails_says_why_and_ends_all_without_waiting_for_any() -> None:
    first, second = start_both(FAILING)  # JAX alone would wait for its timeout of 300 s
    _, err = second.communicate(timeout=120)
    assert second.returncode == 1
    assert "ValueError: no data here" in err
    first.communicate(timeout=120)
    assert first.returncode != 0


def test_a_missing_coordinator_is_refused_with_what_is_missing() -> None:
    program = "from llm_jax.parallel import join_processes; join_processes(None, 2, 5)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "ConfigError: The processes of this run cannot be joined: coordinator_address" in done.stderr
