"""Editors of tiny models of all families: against what transformers computed, and against themselves."""

import numpy as np
import pytest
import torch
from conftest import DATA, FACTS, Tiny
from transformers import AutoModelForCausalLM

import betaedit
from betaedit import ModelError, check_adapter
from betaedit.hf import Editor, Encoder, Layout, Request
from betaedit.hf.forward import Run
from betaedit.hf.request import Asked
from betaedit.hf.target import Steering
from betaedit.hf.texts import chat_lead, pieces, sentences, separator


def close(a, b, bound=2e-5):
    assert float((a - b).norm()) <= bound * max(float(b.norm()), 1e-20)


def test_keys_and_outputs_are_those_of_transformers(family):
    tiny = Tiny(family)
    layout, tokens = Layout.of(tiny.model), tiny.expected["input_ids"].tolist()
    assert layout.module(0) == tiny.said.get("module", layout.module(0)).format(0)
    # Every beginning of the prompt as a sequence of its own, so that all tokens are last ones.
    sequences = [tokens[: at + 1] for at in range(len(tokens))]
    run = Run(layout, sequences)
    for layer in range(len(layout.blocks)):
        close(run.keys(layer), tiny.expected[f"keys.{layer}"])
        places = [(row, row) for row in range(0, len(tokens), 2)]
        for last in range(layer, len(layout.blocks)):
            close(run.outputs(last, "block", places), tiny.expected[f"block_output.{last}"][::2])


def test_the_gradient_of_a_search_is_that_of_transformers(family):
    tiny = Tiny(family)
    layout, tokens = Layout.of(tiny.model), tiny.expected["input_ids"].tolist()
    asked = Asked((*tokens, tiny.said["target_id"]), (tiny.said["subject_last_position"],), len(tokens))
    site = "mlp" if layout.norm_behind else "block"
    steering = Steering(layout, tiny.said["delta_block"], site, [asked], 0.0, None)
    values, gradient = steering.evaluate(torch.zeros_like(steering.outputs))
    assert abs(values[0] - tiny.said["nll"]) < 1e-4
    close(gradient[0], tiny.expected["nll_grad_delta"], 1e-4)


@pytest.mark.parametrize("site", ["block", "mlp", "pmet"])
def test_a_gradient_is_the_difference_of_two_evaluations(site):
    tiny = Tiny("llama", torch.float64)
    layout, tokens = Layout.of(tiny.model), tiny.expected["input_ids"].tolist()
    one = Asked((*tokens, 5, 7), (3, 4), len(tokens), (4, 6))
    other = Asked((*tokens[2:], 9), (2,), len(tokens) - 2)
    steering = Steering(layout, 1, site, [one, other], 0.5, (tokens[:4], 0.7))
    vectors = 0.1 * torch.randn(steering.outputs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, gradient = steering.evaluate(vectors)
    for which in range(len(vectors)):
        for at in (0, 7):
            step = torch.zeros_like(vectors)
            step[which, at] = 1e-2
            up, down = (sum(steering.evaluate(vectors + sign * step)[0]) for sign in (1, -1))
            assert abs((up - down) / 2e-2 - float(gradient[which, at])) < 2e-3 * float(gradient.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_facts_are_written_and_undone_to_the_bit(family, dtype):
    tiny = Tiny(family, dtype)
    before = {name: one.clone() for name, one in tiny.model.state_dict().items()}
    editor = tiny.editor()
    assert all(torch.equal(one, before[name]) for name, one in tiny.model.state_dict().items())
    request = Request.of(FACTS[0])
    first = editor.runtime.target(request)
    assert first.losses[0] > min(first.losses)
    done = editor.edit(FACTS)
    assert sum(one.applied for one in done) >= 3, [one.reason for one in done]
    changed = {name for name, one in tiny.model.state_dict().items() if not torch.equal(one, before[name])}
    assert changed == {f"{editor.layout.module(layer)}.weight" for layer in editor.layers}
    editor.undo(done[0])
    assert editor.session.applied == sum(one.applied for one in done) - 1
    editor.undo(*[one.id for one in done[1:] if one.applied])
    assert all(torch.equal(one, before[name]) for name, one in tiny.model.state_dict().items())
    assert not any(hasattr(block, "_forward_hooks") and block._forward_hooks for block in editor.layout.blocks)


def test_an_adapter_of_a_model_keeps_its_contract():
    for family, dtype in (("llama", torch.float32), ("gpt2", torch.float32), ("qwen3", torch.bfloat16)):
        editor = Tiny(family, dtype).editor()
        check_adapter(editor.runtime, [Request.of(fact) for fact in FACTS[:2]])


def test_a_model_is_saved_and_loaded(tmp_path):
    for family in ("llama", "gpt2"):
        tiny = Tiny(family)
        editor = tiny.editor()
        assert all(one.applied for one in editor.edit(FACTS[:2]))
        ids = tiny.expected["input_ids"][None]
        with torch.no_grad():
            edited = tiny.model(ids).logits
            editor.save_pretrained(tmp_path / family)
            again = AutoModelForCausalLM.from_pretrained(tmp_path / family, dtype=torch.float32, attn_implementation="eager")
            assert torch.equal(again(ids).logits, edited)


def test_an_adapter_for_peft_does_what_the_edits_did(tmp_path):
    from peft import PeftModel

    for family in ("llama", "gpt2"):
        tiny = Tiny(family)
        editor = tiny.editor()
        with pytest.raises(ModelError, match="no edits"):
            editor.adapter(tmp_path / "none")
        editor.edit(FACTS[:2])
        editor.adapter(tmp_path / family)
        ids = tiny.expected["input_ids"][None]
        with torch.no_grad():
            edited, plain = tiny.model(ids).logits, tiny.expected["logits"]
            base = AutoModelForCausalLM.from_pretrained(tiny.folder, dtype=torch.float32, attn_implementation="eager")
            tuned = PeftModel.from_pretrained(base, tmp_path / family).eval()
            close(tuned(ids).logits, edited, 1e-4)
        assert float((edited[0] - plain).norm()) > 1e-2 * float(plain.norm())


def test_a_model_with_the_hooks_of_accelerate_is_edited_alike():
    from accelerate import dispatch_model

    weights = []
    for spread in (False, True):
        tiny = Tiny("llama")
        if spread:
            names = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
            names |= {f"model.layers.{layer}": "cpu" for layer in range(4)}
            dispatch_model(tiny.model, names, main_device="cpu", force_hooks=True)
            assert hasattr(tiny.model.model.layers[0], "_hf_hook")
        editor = tiny.editor()
        editor.edit(FACTS[:2])
        weights.append(editor.layout.down(2).weight.clone())
        assert not spread or "forward" in tiny.model.model.layers[0].__dict__
    assert torch.equal(*weights)


def test_a_session_goes_on_in_its_directory(tmp_path):
    settings = {"directory": str(tmp_path / "run"), "contexts": 2}
    tiny = Tiny("llama")
    editor = tiny.editor(**settings)
    done = editor.edit(FACTS[:2])
    statistics = tmp_path / "stats"
    editor.save_statistics(statistics)
    weights = [editor.layout.down(layer).weight.clone() for layer in editor.layers]
    del editor
    again = Tiny("llama")
    editor = Editor(
        again.model, again.tokenizer, [1, 2], search={"steps": 6}, surroundings={"contrast": 3}, **settings,
        hyperparameters={"lambda1": 0.01, "lambda2": 0.01, "threshold": {"directions": 40}},
    )  # fmt: skip
    editor.load_statistics(statistics)
    # The edits are in the model before anything asks for the session.
    assert all(torch.equal(editor.layout.down(layer).weight, one) for layer, one in zip(editor.layers, weights, strict=True))
    assert editor.session.applied == 2
    editor.undo(done[1])
    assert editor.session.applied == 1
    editor.close()
    with pytest.raises(betaedit.SessionError, match="edits the layers"):
        Editor(again.model, again.tokenizer, [1], **settings)


def test_a_model_has_the_edits_of_one_editor(tiny):
    editor = tiny.editor()
    editor.edit(FACTS[:1])
    with pytest.raises(betaedit.SessionError, match="another `Editor` has 1 edits"):
        tiny.editor()
    editor.restore()
    other = tiny.editor()
    other.edit(FACTS[:1])
    with pytest.raises(betaedit.SessionError, match="another `Editor`"):
        editor.edit(FACTS[1:2])
    with pytest.raises(betaedit.SessionError, match="another `Editor`"):
        editor.restore()
    written = editor.layout.down(2).weight.clone()
    other.close()
    with pytest.raises(betaedit.SessionError, match="was closed"):
        other.edit(FACTS[1:2])
    # It builds on the edited model.
    third = tiny.editor()
    (done,) = third.edit(FACTS[1:2])
    assert done.applied
    third.undo(done)
    assert torch.equal(editor.layout.down(2).weight, written)
    # What was made before these edits would take them out.
    for refused in (lambda: editor.edit(FACTS[1:2]), editor.restore, lambda: editor.collect(tokens=600)):
        with pytest.raises(betaedit.SessionError, match="was edited since"):
            refused()
    for refused in (other.restore, lambda: other.collect(tokens=600)):
        with pytest.raises(betaedit.SessionError, match="was closed"):
            refused()


def test_a_refused_editor_leaves_its_directory_alone(tiny, tmp_path):
    for wrong in ({"layers": [99]}, {"surroundings": {"contrast": -1}}):
        with pytest.raises(betaedit.Error):
            Editor(tiny.model, tiny.tokenizer, **{"layers": [1, 2], "contexts": [], "directory": tmp_path / "run", **wrong})
        assert not (tmp_path / "run").exists()
    editor = Editor(tiny.model, tiny.tokenizer, (layer for layer in (1, 2)), contexts=["A text"], directory=tmp_path / "run")
    assert editor.layers == [1, 2]
    assert Editor(tiny.model, tiny.tokenizer, [1, 2], directory=tmp_path / "run").contexts == ["A text"]
    (tmp_path / "run" / "editor.json").write_text("{")
    with pytest.raises(betaedit.FileError, match="damaged"):
        Editor(tiny.model, tiny.tokenizer, [1, 2], directory=tmp_path / "run")


def test_an_edit_that_its_batch_contradicts_is_not_written(tiny):
    editor = tiny.editor(conflicts="last-wins")
    first, second = editor.edit([FACTS[0], dict(FACTS[0], target="Rome")], batch=2)
    assert (first.applied, second.applied) == (False, True)
    assert "contradicts" in first.reason
    assert not editor.session.holds(first.id)
    assert second.conflicts
    editor.undo(one for one in [second])
    editor.restore()
    editor = tiny.editor(conflicts="reject")
    editor.edit([FACTS[0]])
    (refused,) = editor.edit([dict(FACTS[0], target="Rome")])
    assert not refused.applied
    assert refused.conflicts[0]["with"] == 0


def test_edits_are_consolidated(tiny):
    editor = tiny.editor(consolidate_every=3)
    done = editor.edit(FACTS)
    assert [one.applied for one in done] == [True] * 4
    assert editor.session.unconsolidated == 1
    editor.consolidate()
    assert editor.session.unconsolidated == 0


def test_known_targets_are_used(tiny):
    request = Request.of(FACTS[0])
    editor = tiny.editor()
    target = editor.runtime.target(request).value
    editor.edit([request], targets={request: target.numpy()})
    weight = editor.layout.down(2).weight.clone()
    editor.restore()
    again = tiny.editor()
    again.edit([request])
    close(again.layout.down(2).weight, weight, 1e-6)


def test_what_cannot_be_done_is_refused(tiny):
    for wrong in (
        lambda: Request.of({"subject": "Paris", "prompt": "It is in", "target": "Spain"}),
        lambda: Request.of({"subject": "", "prompt": "{} is in", "target": "Spain"}),
        lambda: Request.of({"subject": "Paris"}),
        lambda: tiny.editor(layers=[2, 1]),
        lambda: tiny.editor(layers=[9]),
        lambda: Editor(tiny.model, tiny.tokenizer).edit(FACTS),
        lambda: Editor(tiny.model, tiny.tokenizer, module="model.layers"),
        lambda: tiny.editor(layers=[3]).edit([{"subject": "Paris", "prompt": "{} is a city in", "target": "Rome"}]),
        lambda: Tiny("gemma2").editor(search={"site": "block"}),
        lambda: Request.of("Paris is in Spain"),
        lambda: Request.of({"subject": "Paris", "prompt": "{} is in", "target": None}),
        lambda: Request.of({"subject": "Paris", "prompt": "{} is in", "target": "Spain", "target_new": "Italy"}),
        lambda: Editor(tiny.model, tiny.tokenizer, layers="1"),
        lambda: Editor(tiny.model, tiny.tokenizer, module="model.layers.{}.mlp.up"),
        lambda: Editor(tiny.model, tiny.tokenizer, module="model.layers.{}.mlp.up_proj"),
        lambda: Editor(tiny.model, tiny.tokenizer, module="model.layers.{}.mlp.act_fn"),
        lambda: Editor(tiny.tokenizer, tiny.model),
        lambda: Editor(tiny.model.model, tiny.tokenizer),
        lambda: Editor(tiny.model, tiny.model),
        lambda: tiny.editor().load_statistics("nowhere"),
    ):
        with pytest.raises(ModelError):
            wrong()
    editor = tiny.editor()
    for wrong, says in (
        (lambda: tiny.editor(search={"step_count": 40}), "steps"),
        (lambda: tiny.editor(search={"step": "a"}), "step is 'a'"),
        (lambda: tiny.editor(search=40), "search is 40"),
        (lambda: tiny.editor(surroundings={"contrasts": 0}), "contrast_weight"),
        (lambda: tiny.editor(surroundings={"contrast": -1}), "contrast is -1"),
        (lambda: tiny.editor(surroundings={"places": ["plain"]}), "a dictionary of some"),
        (lambda: tiny.editor(method=betaedit.AlphaEdit()), "by its name"),
        (lambda: tiny.editor(method=betaedit.AlphaEdit), "method is"),
        (lambda: tiny.editor(hyperparameters=[1]), "hyperparameters is"),
        (lambda: tiny.editor(hyperparameters={"threshold": -1.0}), "threshold"),
        (lambda: tiny.editor(conflicts="ask"), "last-wins"),
        (lambda: tiny.editor(guards={"relative_drif": 1.0}), "guards"),
        (lambda: tiny.editor(contexts="some text"), "list of texts"),
        (lambda: tiny.editor(contexts=-1), "contexts is -1"),
        (lambda: tiny.editor(context_length=0), "context_length is 0"),
        (lambda: tiny.editor(seed="a"), "seed is 'a'"),
        (lambda: tiny.editor(threads=-1), "threads is -1"),
        (lambda: tiny.editor(sensitivity=-1), "sensitivity is -1"),
        (lambda: tiny.editor(consolidate_every="a"), "consolidate_every is 'a'"),
        (lambda: editor.edit(FACTS, batch=0), "batch is 0"),
        (lambda: editor.edit(None), "facts is None"),
        (lambda: editor.edit(FACTS, targets=[]), "targets is"),
        (lambda: editor.edit(FACTS, progress=3), "progress is 3"),
        (lambda: editor.edit([dict(FACTS[0], target={"text": "Rome"})]), "as `str`"),
        (lambda: editor.evaluate([dict(FACTS[0], paraphrase_prompts=3)]), "paraphrases"),
        (lambda: editor.evaluate([dict(FACTS[0], neighborhood_prompts="It is")]), "neighborhood"),
        (lambda: editor.collect(chats=1), "below 1"),
        (lambda: tiny.editor(guards={"relative_drift": -1.0}), "relative_drift"),
        (lambda: tiny.editor(guards={"leakage": float("nan")}), "leakage is nan"),
        (lambda: tiny.editor(surroundings={"places": {"plain": 0}}), "weight of plain is 0"),
        (lambda: editor.updates(tolerance=0), "tolerance is 0"),
        (lambda: editor.perplexity(""), "0 tokens"),
        (lambda: editor.perplexity(["a text of words"]), "one text"),
        (lambda: editor.perplexity(tokens=-3), "tokens is -3"),
        (lambda: editor.updates(rank=0), "rank is 0"),
        (lambda: editor.undo("0"), "names no edit"),
        (lambda: editor.save_pretrained(__file__), "is a file"),
        (lambda: editor.collect(tokens=0), "tokens is 0"),
        (lambda: editor.collect([1, 2]), "list of texts"),
        (lambda: editor.collect({"a": "b"}), "list of texts"),
        (lambda: editor.collect(gradients_over=-1), "gradients_over is -1"),
    ):
        with pytest.raises(betaedit.Error, match=says):
            wrong()
    with pytest.warns(UserWarning, match="end after"):
        tiny.editor().collect(["A short text."], tokens=1000, gradients_over=0)


def test_texts_are_read_as_the_library_does():
    for prompt, space in [
        ("The capital of France is", " "), ("フランスの首都は", ""), ("法国的首都是", ""), ("答案：", ""), ("เมืองหลวงของฝรั่งเศสคือ", ""),
        ("프랑스의 수도는", " "), ('She said: "', ""), ("the so-called (", ""), ('He said "yes"', " "), ("", ""),
    ]:  # fmt: skip
        assert separator(prompt) == space, prompt
    assert chat_lead("What is it?") == ""
    assert chat_lead("It is") == "Complete the sentence: "
    text = "Cut. " + "This sentence is neither very short nor very long. " * 3 + "Cut"
    assert len(list(sentences(text))) == 3
    text = "one line\n" * 20_000
    assert "".join(pieces(text)) == text
    assert all(part.endswith("\n") for part in pieces(text))


def test_a_request_has_its_tokens(tiny):
    encoder = Encoder(tiny.tokenizer)
    editor = tiny.editor()
    for one, weight in editor.runtime.surroundings.asked(encoder, Request.of(FACTS[0])):
        text = tiny.tokenizer.decode(one.tokens)
        assert "Eiffel Tower" in text
        assert tiny.tokenizer.decode(one.tokens[: one.last + 1]).endswith("Eiffel Tower")
        assert tiny.tokenizer.decode(one.tokens[one.start :]).strip() == "Tokyo"
        assert weight > 0


def test_rates_are_between_nothing_and_all(tiny):
    facts = [dict(fact, target_true="Berlin", paraphrase_prompts=["It is"], neighborhood_prompts=["There is"]) for fact in FACTS]
    rates = tiny.editor().evaluate(facts)
    assert set(rates) == {f"{name}{kind}" for name in ("efficacy", "generality", "specificity") for kind in ("", "_prob")}
    assert all(0 <= rate <= 1 for rate in rates.values())
    assert np.isfinite(tiny.editor().perplexity("A text of some words. " * 20))


def test_the_data_are_there():
    assert DATA.exists()
