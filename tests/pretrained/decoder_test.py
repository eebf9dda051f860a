import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import problems
from unlearnjax import models, parallel, pretrained, tasks, trees
from unlearnjax.pretrained import decoder, decoder_config

GOLDEN = Path(__file__).parent / "golden" / "decoder"
NAMES = sorted(folder.name for folder in GOLDEN.iterdir())
# Where a copy of all of the golden models lies, with Mistral.
ALL = "UNLEARNJAX_TINY_CHECKPOINTS"
# The token that golden continuations were kept from, so that all are of one length.
END = 2
OPENED = [name for name in NAMES if name != "gpt2"]


def described(name, file="config.json"):
    return json.loads((GOLDEN / name / file).read_text())


def stored(folder):
    tensors = pretrained.open_tensors(folder)
    return {name: tensors.read(name) for name in tensors.shapes}


def rewritten(tmp_path, name, change=lambda tensors: tensors, **fields):
    """A copy of a golden model with other tensors, or other fields of its config."""
    folder = tmp_path / "changed"
    folder.mkdir()
    pretrained.write_tensors(folder / "model.safetensors", change(stored(GOLDEN / name)))
    config = {k: v for k, v in {**described(name), **fields}.items() if v != "gone"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def said(checkpoint, prompts, lengths, tokens):
    """Continuations by 10 tokens, logits, and hidden states after the first block."""
    module = models.Decoder(checkpoint.config)
    task = tasks.language_modelling(tasks.from_linen(module), max_new_tokens=10)
    task = tasks.capture(task, ("block_0",))

    def without_end(variables, batch, rng, train):
        outputs, updated = task.apply(variables, batch, rng, train)
        return {**outputs, "logits": outputs["logits"].at[..., END].set(-jnp.inf)}, updated

    @jax.jit
    def both(variables):
        batch = {"condition": prompts, "condition_length": lengths}
        own = task._replace(apply=without_end)
        found = tasks.generate(own, variables, jax.random.key(0), batch)["tokens"]
        outputs, _ = task.apply(variables, {"inputs": tokens}, None, False)
        return found, outputs["logits"], outputs["hidden.block_0"]

    return both(checkpoint.variables)


def assert_says_what_is_expected(folder, checkpoint):
    with np.load(folder / "expected.npz") as file:
        expected = dict(file)
    # Three prompts of 7 tokens, and one of 4 beside them, padded with whatever comes.
    tokens = expected["tokens"]
    prompts = jnp.asarray(tokens[[0, 1, 2, 0], :7])
    found, logits, hidden = said(checkpoint, prompts, jnp.array([7, 7, 7, 4]), tokens)
    np.testing.assert_array_equal(found[:3], expected["greedy"][:, 7:])
    np.testing.assert_array_equal(found[3:], expected["greedy_short"][:, 4:])
    # Float32 on both sides; logits and hidden states are of size 20.
    np.testing.assert_allclose(logits, expected["logits"], atol=2e-4)
    states = expected["hidden"][1] if expected["hidden"].ndim == 4 else expected["hidden"]
    np.testing.assert_allclose(hidden, states, atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_published_models_say_what_they_say_in_transformers(name):
    assert_says_what_is_expected(GOLDEN / name, decoder.load(GOLDEN / name))


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["mistral", *NAMES])
def test_all_golden_models_say_what_they_say_in_transformers(name):
    if ALL not in os.environ:
        pytest.skip(f"{ALL} is not set")
    folder = Path(os.environ[ALL]) / name
    assert_says_what_is_expected(folder, decoder.load(folder))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_bit_by_bit_what_was_loaded(name, tmp_path):
    loaded = decoder.load(GOLDEN / name)
    decoder.save(tmp_path, loaded.variables["params"], loaded.config, loaded.described)
    before, after = stored(GOLDEN / name), stored(tmp_path)
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value, err_msg=key)
        assert after[key].dtype == value.dtype
    assert json.loads((tmp_path / "config.json").read_text()) == described(name)
    again = decoder.load(tmp_path)
    assert again.config == loaded.config
    problems.assert_trees_equal(again.variables, loaded.variables)


@pytest.mark.parametrize("name", OPENED)
def test_both_versions_describe_the_same_decoder(name):
    new, old = described(name), described(name, "config_v4.json")
    assert "rope_parameters" in new and "rope_theta" in old
    # The shorter one leaves the width of heads out where it follows from others.
    assert decoder_config.read_config(old) == decoder_config.read_config(new)


@pytest.mark.parametrize("name", NAMES)
def test_a_description_of_ours_is_read_as_the_same_decoder(name):
    config = decoder_config.read_config(described(name))
    ours = decoder_config.describe(config)
    assert decoder_config.read_config(ours) == config
    assert ours["model_type"] == described(name)["model_type"]
    for half in ({"rope_parameters": None}, {"rope_theta": None, "rope_scaling": None}):
        assert decoder_config.read_config({**ours, **half}) == config


def test_fields_of_the_config_are_read_into_their_switches():
    llama3 = decoder_config.read_config(described("llama3"))
    assert llama3 == models.DecoderConfig(
        vocab_size=96,
        width=32,
        depth=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_width=48,
        max_length=64,
        rope_base=500_000.0,
        rope_scaling=models.RopeScaling(4.0, 1.0, 4.0, 16),
    )
    gpt2 = decoder_config.read_config(described("gpt2"))
    assert (gpt2.mlp_width, gpt2.norm_eps, gpt2.positions) == (128, 1e-5, "learned")
    assert (gpt2.norm, gpt2.bias, gpt2.gated, gpt2.tie_embeddings) == ("layer", "all", False, True)
    read = lambda name, **fields: decoder_config.read_config({**described(name), **fields})
    assert read("llama3", attention_bias=True).bias == "attention"
    assert read("llama3", attention_bias=True, mlp_bias=True).bias == "all"
    assert read("qwen2", attention_bias=True).bias == "qkv"
    assert read("olmo", clip_qkv=8.0).clip_qkv == 8.0
    assert read("llama3", clip_qkv=8.0).clip_qkv is None
    assert read("llama3", rms_norm_eps=1e-3).norm_eps == 1e-3
    assert read("olmo", rms_norm_eps=1e-3).norm_eps == 1e-5
    assert read("gpt2", layer_norm_epsilon=1e-3, n_inner=7).mlp_width == 7
    assert read("gpt2", layer_norm_epsilon=1e-3).norm_eps == 1e-3
    # What published files leave out is what their classes have then.
    bare = {k: v for k, v in described("gpt2").items() if k != "tie_word_embeddings"}
    assert decoder_config.read_config(bare).tie_embeddings
    bare = {k: v for k, v in described("llama3").items() if k != "tie_word_embeddings"}
    assert not decoder_config.read_config(bare).tie_embeddings


def test_windows_are_read_where_their_layers_have_them():
    read = lambda name, **fields: decoder_config.read_config({**described(name), **fields}).window
    assert read("llama3", model_type="mistral", sliding_window=5) == 5
    assert read("llama3", model_type="mistral", sliding_window=None) is None
    assert read("llama3", model_type="mistral") == 4096  # of a file that leaves it out
    assert read("llama3", sliding_window=5) is None
    slides = {"use_sliding_window": True, "sliding_window": 5, "layer_types": None}
    assert read("qwen2", **slides, max_window_layers=0) == 5
    assert read("qwen2", **slides, max_window_layers=2) is None
    assert read("qwen2", **{**slides, "layer_types": ["sliding_attention"] * 2}) == 5
    assert read("qwen2", sliding_window=5, max_window_layers=0) is None
    with pytest.raises(ValueError, match="sliding_window must be of all layers or of none"):
        read("qwen2", **slides, max_window_layers=1)


def test_published_gpt2_has_no_prefix_and_tensors_of_masks(tmp_path):
    def published(tensors):
        short = {name.removeprefix("transformer."): value for name, value in tensors.items()}
        masks = {f"h.{i}.attn.bias": np.ones((1, 1, 4, 4), np.float32) for i in range(2)}
        return {**short, **masks, "h.0.attn.masked_bias": np.float32([-1e4])}

    folder = rewritten(tmp_path, "gpt2", published)
    expected = decoder.load(GOLDEN / "gpt2")
    problems.assert_trees_equal(decoder.load(folder).variables, expected.variables)


def test_buffers_and_a_second_copy_of_the_table_are_not_read(tmp_path):
    def published(tensors):
        table = tensors["model.embed_tokens.weight"]
        buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
        return {**tensors, **buffer, "lm_head.weight": table}

    folder = rewritten(tmp_path, "llama3", published)
    expected = decoder.load(GOLDEN / "llama3")
    problems.assert_trees_equal(decoder.load(folder).variables, expected.variables)


def test_bfloat16_comes_back_bit_by_bit(tmp_path):
    loaded = decoder.load(GOLDEN / "llama3")
    half, again = tmp_path / "half", tmp_path / "again"
    params = loaded.variables["params"]
    decoder.save(half, params, loaded.config, loaded.described, dtype=jnp.bfloat16)
    assert json.loads((half / "config.json").read_text())["dtype"] == "bfloat16"
    wide = decoder.load(half)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
    problems.assert_trees_equal(wide.variables["params"], rounded)
    decoder.save(again, wide.variables["params"], wide.config, wide.described, dtype=jnp.bfloat16)
    written = [(folder / "model.safetensors").read_bytes() for folder in (half, again)]
    assert written[0] == written[1]
    narrow = decoder.load(half, dtype=jnp.bfloat16).variables["params"]
    assert {x.dtype.name for x in jax.tree.leaves(narrow)} == {"bfloat16"}


def test_tensors_go_where_they_belong():
    mesh = parallel.mesh(jax.devices()[:4])
    place = lambda like: parallel.split_shardings(like, mesh, min_size=64)
    spread = decoder.load(GOLDEN / "llama2", place).variables["params"]
    plain = decoder.load(GOLDEN / "llama2").variables["params"]
    for (path, leaf), wanted in zip(trees_of(spread), jax.tree.leaves(place(plain)), strict=True):
        assert leaf.sharding == wanted, path
    assert len(spread["embed"]["embedding"].sharding.device_set) == 4
    problems.assert_trees_equal(parallel.fetch(spread), parallel.fetch(plain))


def trees_of(params):
    return list(zip(trees.names(params), jax.tree.leaves(params), strict=True))


def test_a_module_is_read_where_it_is_the_one_described(tmp_path):
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    folder = GOLDEN / "llama3"
    config = decoder_config.read_config(described("llama3"))._replace(head_dim=None, max_length=9)
    start = pretrained.load_model(folder, models.Decoder(config), tokens)
    assert start.notes == ()
    problems.assert_trees_equal(start.variables, decoder.load(folder).variables)
    other = models.Decoder(config._replace(rope_base=1e4))
    with pytest.raises(ValueError, match=r"config.rope_base must fit .*has 500000.0, got 10000.0"):
        pretrained.load_model(folder, other, tokens)
    shutil.copyfile(folder / "model.safetensors", tmp_path / "model.safetensors")
    alone = pretrained.load_model(tmp_path, models.Decoder(config), tokens)
    assert alone.notes == ("config: not described in a config.json beside it, taken to fit",)
    learned = models.Decoder(decoder_config.read_config(described("gpt2"))._replace(max_length=9))
    with pytest.raises(ValueError, match=r"config.max_length must fit .*has 64, got 9"):
        pretrained.load_model(GOLDEN / "gpt2", learned, tokens)


WRONG = {
    "unknown": ({"model_type": "phi"}, "model_type in .*config.json must be one of .* got 'phi'"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act must be silu in .*, got 'gelu'"),
    "rope": ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type must be default or llama3"),
    "old rope": (
        {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2}},
        "rope_type must be default or llama3 in .*, got 'linear'",
    ),
    "partial": (
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        "partial_rotary_factor must be None or 1.0",
    ),
    "nested": ({"rope_parameters": {"full_attention": {}}}, "rope_parameters must be those of all"),
    "short rope": (
        {"rope_parameters": {"rope_type": "llama3", "factor": 2}},
        "rope_type llama3 must have 'low_freq_factor' in",
    ),
    "mlp bias": ({"mlp_bias": True}, "mlp_bias must be None or False in .* without attention_bias"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantization_config must be None"),
    "missing": ({"hidden_size": "gone"}, "config.json must have 'hidden_size', it has"),
    "heads": ({"num_key_value_heads": 3}, "num_kv_heads must divide num_heads 4, got 3"),
    "other sizes": ({"intermediate_size": 47}, r"do not fit: .*gate_proj.weight is \[48, 32\]"),
    "untied": ({"tie_word_embeddings": False}, "do not fit: missing lm_head.weight"),
    "biases": ({"attention_bias": True}, "do not fit: missing .*q_proj.bias.* and 3 more"),
    "family": ({"model_type": "qwen3"}, "missing model.layers.0.self_attn.q_norm.weight"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_decoder_is_not_is_refused_in_one_line(name, tmp_path):
    fields, message = WRONG[name]
    folder = rewritten(tmp_path, "llama3", **fields)
    with pytest.raises(ValueError, match=message) as caught:
        decoder.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "field", ["add_cross_attention", "scale_attn_by_inverse_layer_idx", "scale_attn_weights"]
)
def test_switches_of_gpt2_that_there_are_not_are_refused(field, tmp_path):
    other = not described("gpt2")[field]
    with pytest.raises(ValueError, match=f"{field} must be {not other} in .*, got {other}"):
        decoder.load(rewritten(tmp_path, "gpt2", **{field: other}))


def test_tensors_that_are_missing_or_too_many_are_named(tmp_path):
    def change(tensors):
        left = {k: v for k, v in tensors.items() if k != "model.layers.1.mlp.up_proj.weight"}
        return {**left, "model.layers.2.mlp.up_proj.weight": np.zeros((2, 2), np.float32)}

    folder = rewritten(tmp_path, "llama3", change)
    with pytest.raises(ValueError) as caught:
        decoder.load(folder)
    for part in ("missing model.layers.1.mlp.up_proj", "surplus model.layers.2.mlp.up_proj"):
        assert part in str(caught.value)


def test_files_that_are_cut_short_or_not_there_are_refused(tmp_path):
    folder = rewritten(tmp_path, "llama3")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-5])
    with pytest.raises(
        ValueError, match=r"weights .*model.safetensors cannot be read: .*"
    ) as caught:
        decoder.load(folder)
    assert "\n" not in str(caught.value)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config.json cannot be read: it must be a JSON object"):
        decoder.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"there is no file .*config.json"):
        decoder.load(folder)


def test_saving_refuses_another_description_and_a_folder_of_shards(tmp_path):
    loaded = decoder.load(GOLDEN / "llama3")
    params = loaded.variables["params"]
    with pytest.raises(ValueError, match="described must be of the decoder"):
        decoder.save(tmp_path, params, loaded.config, {**loaded.described, "rms_norm_eps": 0.1})
    mixed = loaded.config._replace(norm="unscaled", qk_norm=True)
    with pytest.raises(ValueError, match="config must be of one of .* to be stored"):
        decoder.save(tmp_path, params, mixed)
    shutil.copytree(GOLDEN / "llama2", tmp_path / "shards")
    with pytest.raises(ValueError, match="path must be a folder without weights in shards"):
        decoder.save(tmp_path / "shards", params, loaded.config)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_transformers_reads_what_is_saved_and_says_the_same(name, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    loaded = decoder.load(GOLDEN / name)
    params = jax.tree.map(lambda x: x * 1.1, loaded.variables["params"])
    decoder.save(tmp_path, params, loaded.config)  # with a description of ours
    tokens = np.random.default_rng(0).integers(0, 96, (2, 24))
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    theirs = theirs.eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).logits.numpy()
        prompts = torch.from_numpy(tokens[:, :5])
        options = {"do_sample": False, "max_new_tokens": 10, "suppress_tokens": [END]}
        longer = theirs.generate(prompts, attention_mask=torch.ones_like(prompts), **options)
    checkpoint = loaded._replace(variables={"params": params})
    given = jnp.asarray(tokens[:, :5], jnp.int32), jnp.array([5, 5])
    found, logits, _ = said(checkpoint, *given, jnp.asarray(tokens, jnp.int32))
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_array_equal(found, longer[:, 5:].numpy())
