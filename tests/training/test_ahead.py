"""uda_jax.aot and what it reads out of compiled programs."""

import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from tests.test_main import ROOT, TINY
from tests.training.test_sharding import run_on
from uda_jax.config import check_config, default_config
from uda_jax.errors import UserError
from uda_jax.training import ahead, hlo
from uda_jax.training.loop import fitting
from uda_jax.training.step import compiler_options

TEXT = """\
HloModule jit_step, is_scheduled=true

%fused (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %n = f32[8,4]{1,0} negate(%p), CYCLES(999)
}

%body (t: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %t = (s32[], f32[8,4]{1,0}) parameter(0)
  %f.1 = f32[8,4]{1,0} fusion(%t), calls=%fused, metadata={op_name="jit(step)/scan/neg"}, CYCLES(10)
  %permute = f32[2,4]{1,0} collective-permute(%f.1), channel_id=3
  ROOT %r = (s32[], f32[8,4]{1,0}) tuple(%t, %f.1)
}

%c (t: (s32[], f32[8,4])) -> pred[] {
  %seven = s32[]{:T(128)} constant(7)
  %t.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t.1), index=0
  ROOT %lt = pred[] compare(%i, %seven), direction=LT
}

%cheap (x: f32[8,4]) -> f32[8,4] {
  ROOT %f.3 = f32[8,4]{1,0} fusion(%x), calls=%fused, CYCLES(1)
}

%dear (x: f32[8,4]) -> f32[8,4] {
  ROOT %f.4 = f32[8,4]{1,0} fusion(%x), calls=%fused, metadata={op_name="jit(step)/cond/attack"}, CYCLES(70)
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0), metadata={op_name="a"}
  %f.2 = bf16[16,4]{1,0:T(8,128)(2,1)} fusion(%a), calls=%fused, metadata={op_name="jit(step)/conv"}, CYCLES(500)
  %sum = (f32[8,4]{1,0}, f32[3]{0}) all-reduce(%f.2, %a), channel_id=1
  %start = (bf16[16,4]{1,0}, bf16[32,4]{1,0}) all-gather-start(%f.2), channel_id=2
  %done = bf16[32,4]{1,0} all-gather-done(%start)
  %loop = (s32[], f32[8,4]{1,0}) while(%a), condition=%other, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %tpu = (s32[], f32[8,4]{1,0}) while(%loop), condition=%c, body=%body
  ROOT %if = f32[8,4]{1,0} conditional(%a), branch_computations={%cheap, %dear}
}
"""
PROGRAM = re.sub(r"CYCLES\((\d+)\)", r'backend_config={"window_config":{"estimated_cycles":"\1"}}', TEXT)


def test_cycles_and_collectives_of_a_program_count_loops_and_the_dearer_branch() -> None:
    found = hlo.operations(PROGRAM)
    assert sum(operation.cycles for operation in found) == 500 + 5 * 10 + 7 * 10 + 70
    assert hlo.dearest(found, 2) == [
        (500, "bf16[16,4]", "jit(step)/conv"),
        (120, "f32[8,4]", "jit(step)/scan/neg"),
    ]
    assert hlo.collectives(found) == {
        "all-reduce": [(140, "(f32[8,4], f32[3])")],
        "all-gather": [(256, "(bf16[32,4])")],
        "collective-permute": [(32, "f32[2,4]")] * 12,
    }


def test_a_real_program_is_read() -> None:
    compiled = (
        jax.jit(lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c @ c), None), x, length=3)[0])
        .lower(jnp.ones((8, 8)))
        .compile()
    )
    found = ahead.forecast(compiled)
    assert found.memory.arguments == 256 and found.memory.peak >= 512
    assert found.collectives == {} and found.cycles == 0
    assert any(operation.times == 3 for operation in found.operations)


def test_what_a_batchs_parts_need_is_counted_as_often_as_there_are_parts() -> None:
    """XLA counts a loop's body once, and the cycles of its operations as often as it runs."""

    def step(x: jax.Array, parts: int) -> jax.Array:
        if parts == 1:
            return jnp.sin(x @ x)
        return jax.lax.scan(lambda c, part: (c + jnp.sin(part @ x), None), 0 * x, jnp.stack([x] * parts))[0]

    whole, parts = (jax.jit(step, static_argnums=1).lower(jnp.ones((64, 64)), n).compile() for n in (1, 3))
    once, thrice = ahead.forecast(whole), ahead.forecast(parts, parts=3)
    assert thrice.flops == pytest.approx(3 * once.flops, rel=0.05) and thrice.moved > 3 * once.moved


def test_options_of_the_tpus_compiler() -> None:
    assert compiler_options(("a=true", "b=false", "c=3")) == {"a": True, "b": False, "c": "3"}
    config = default_config()
    config.mesh.tpu_options = ("a",)
    with pytest.raises(UserError, match=r"config.mesh.tpu_options: 'a': expected name=value"):
        check_config(config)
    config.mesh.tpu_options = ("a=1",)
    check_config(config)
    ahead.check_options_known(RuntimeError("another error"), config)
    with pytest.raises(UserError, match=r"tpu_options=\('a=1',\): this TPU compiler does not know a; "):
        ahead.check_options_known(RuntimeError("INVALID_ARGUMENT: No such compile option: 'a'"), config)


V5E = SimpleNamespace(device_kind="TPU v5 lite")


def test_what_does_not_fit_says_what_would_help(config: ConfigDict) -> None:
    small, large = ahead.Memory(1, 2, 3), ahead.Memory(2**33, 2**33, 2**34 + 1)
    assert ahead.too_large(small, V5E, config) == ""
    advice = ahead.too_large(large, V5E, config)
    for way in ("model.dtype=bfloat16", "model.remat=True", "mesh.space=2", "train.accumulate=2"):
        assert way in advice
    config.model.update(dtype="bfloat16", remat=True)
    assert "bfloat16" not in ahead.too_large(large, V5E, config)
    assert ahead.memory_line(large, V5E).startswith("memory of a step: 16.00 GiB a device of 16 (")

    def step() -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20G of 15G.\nlong list")

    with pytest.raises(UserError, match=r"does not fit .*Used 20G of 15G.*what would help: "):
        fitting(step, config)()
    with pytest.raises(ZeroDivisionError):
        fitting(lambda: 1 / 0, config)()


def test_an_unknown_topology_is_answered() -> None:
    with pytest.raises(UserError, match=r"pip install libtpu|such as v5e:2x2"):
        ahead.devices_of("v5e:three")


@pytest.mark.parametrize("topology", ["v5e:2x2", "v4:2x2x1", "v5p:2x2x1"])
def test_a_device_of_a_topology_is_a_chip(topology: str) -> None:
    """As on a pod; by default the compiler shows v4's two cores, each with half of what `CHIPS` says."""
    pytest.importorskip("libtpu")
    code = f"from uda_jax.training import ahead; print(len(ahead.devices_of({topology!r})))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split()[-1] == "4"


@pytest.mark.slow
def test_the_command_on_this_machines_devices(tmp_path) -> None:
    """It needs no data, and compiles what training would run; a batch that does not divide is refused as there."""
    arguments = ["aot", *TINY, "--config.mesh.space=2"]
    code = f"import sys; sys.argv = {arguments!r}\nimport uda_jax.aot as a, uda_jax.cli as c\nc.run(a.main)"
    said = run_on(4, "-c", code)
    assert "adaptsegnet, 4 x cpu, compiled in" in said and "memory of a step: 0.0" in said
    assert "all-reduce: " in said and "collective-permute: " in said
    command = [sys.executable, "-m", "uda_jax.aot", *TINY, "--config.train.accumulate=3"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "config.train.accumulate=3 does not divide" in refused.stderr
