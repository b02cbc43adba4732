"""Seconds are those of the work, compiling apart."""

import jax
import jax.numpy as jnp

from experiments import machine


def test_a_program_is_compiled_when_those_before_it_have_ended():
    """Else what runs during a compilation counts as compiling: CaMU's class removal seemed to take half as long."""

    @jax.jit
    def work(x):
        return jax.lax.fori_loop(0, 100, lambda _, x: jnp.tanh(x @ x), x)

    x = work(jnp.eye(500)).block_until_ready()
    ended = []

    def listen(event, duration_secs, **_):
        if event == "/jax/core/compile/jaxpr_to_mlir_module_duration":
            ended.append(y.is_ready())

    with machine.measure() as span:
        y = work(x)
        running = not y.is_ready()
        jax.monitoring.register_event_duration_secs_listener(listen)
        jax.block_until_ready(jax.jit(lambda x: x + 1)(x))
        jax.monitoring.unregister_event_duration_listener(listen)
    assert running and ended == [True]
    assert span.compile_seconds > 0
