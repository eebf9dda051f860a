import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from experiments.benchmarks import pod
from unlearnjax import parallel


def test_the_bytes_of_collectives_are_those_of_their_results():
    mesh = parallel.mesh()
    total = jax.shard_map(
        lambda x: jax.lax.psum(x, "data"), mesh=mesh, in_specs=P("data"), out_specs=P()
    )
    text = jax.jit(total).lower(jnp.ones((8, 1000))).compile().as_text()
    assert pod.collective_bytes(text) == {"all-reduce": 4000}
    assert pod.collective_bytes("%x = (f32[2,3]{1,0}, bf16[4]{0}) all-gather-start(%y)") == {
        "all-gather": 32
    }


@pytest.mark.slow
def test_a_program_is_compiled_for_every_device_without_running():
    mesh = parallel.mesh()
    build = lambda mesh: pod.ensemble(mesh, per_device=1, num_examples=64, num_epochs=1)
    row = pod.analyse("ensemble", build, mesh, pod.PEAKS["v5e"])
    assert row["devices"] == 8 and row["collectives"] == {}
    # 32 images, 0.56 billion multiplications forward, twice that backward
    assert row["flops"] == pytest.approx(32 * 3 * 2 * 0.56e9, rel=0.2)
    assert row["bound"] in row["seconds"]
    assert "ensemble" in pod.markdown([row])


@pytest.mark.slow
def test_the_unet_of_ddpm_computes_what_others_count_for_it():
    program = pod.unet_step(parallel.mesh(), num_images=8)
    # 6.1 billion multiplications forward (Fang et al., "Structural Pruning for Diffusion Models",
    # NeurIPS 2023), twice that backward; one image a device
    assert program.flops == pytest.approx(3 * 2 * 6.1e9, rel=0.1)


@pytest.mark.slow
def test_a_step_of_a_language_model_computes_what_its_parameters_and_tokens_say():
    mesh = parallel.mesh()
    whole = pod.decoder_step(mesh, num_answers=8, length=64).flops
    adapted = pod.decoder_step(mesh, num_answers=8, length=64, rank=16).flops
    # 1.236 billion parameters; 2 operations each for a token forward, again for the blocks that are
    # computed anew, and twice that backward, which for what is frozen is of activations alone.
    tokens = 64  # of one device
    assert 6 < whole / (1.236e9 * tokens) < 9
    assert 4 < adapted / (1.236e9 * tokens) < 6.5
