"""One batch judged: what a failure leaves alone, what a target explains, which options arrive."""

from dataclasses import replace

import pytest
import torch
from tiny import folders as tiny_folders
from tiny.trials import measured, pictures, trial_of, vit

import relmap
from relmap.evaluation import Plan, Settings, read_method, read_metric
from relmap.evaluation.judging import judge
from relmap.metrics.token_f1 import token_f1
from relmap.metrics.word_scores import marked_words, word_scores, word_spans

LOGIT = "perturbation:measure=logit"


def rows_of(model, examples, methods, metrics, **settings):
    plan = Plan(
        tuple(map(read_method, methods)), tuple(map(read_metric, metrics)), Settings(**settings)
    )
    return judge(model, list(enumerate(examples)), plan)


def numbers(rows):
    """Method, metric, quantity and step -> example -> value."""
    found = {}
    for row in rows:
        assert row.error is None, row.error
        key = (row.method, row.metric, row.quantity, row.step)
        found.setdefault(key, {})[row.sample] = row.value
    return found


def test_a_picture_that_does_not_fit_leaves_the_others_their_numbers():
    model, examples = vit(), pictures(3)
    rows = rows_of(model, examples, ["genatt", "rollout"], [LOGIT])
    whole = numbers(rows)
    examples[1] = replace(examples[1], image=torch.rand(3, 8, 8, dtype=torch.float64))
    found = rows_of(model, examples, ["genatt", "rollout"], [LOGIT])
    wrong = [row for row in found if row.error]
    assert [(row.sample, row.method, row.metric) for row in wrong] == [
        ("1", "genatt", "-"),
        ("1", "rollout", "-"),
    ]
    others = numbers(row for row in found if not row.error)
    assert others.keys() == whole.keys()
    for key, values in others.items():
        assert values == pytest.approx({name: whole[key][name] for name in ("0", "2")}, abs=1e-9)


def test_a_metric_that_fails_says_so_of_each_example_and_stops_no_other():
    rows = rows_of(vit(), pictures(2), ["genatt"], ["perturbation", "saco"])
    wrong = [row for row in rows if row.error]
    assert [(row.index, row.metric) for row in wrong] == [(0, "perturbation"), (1, "perturbation")]
    assert [row.index for row in rows if row.metric == "saco"] == [0, 1]
    assert all(row.value is not None for row in rows if row.metric == "saco")


@pytest.mark.parametrize("methods", [["genatt", "random"], ["random", "genatt"]])
def test_what_is_explained_is_the_label_or_what_the_model_says(methods):
    model = vit()
    examples = [replace(one, label=at) for at, one in enumerate(pictures(3))]
    said = model.network(torch.stack([one.image for one in examples])).logits
    assert said.argmax(dim=1).tolist() != [0, 1, 2]
    known = {"label": said.diagonal(), "predicted": said.amax(dim=1)}
    for target, wanted in known.items():
        found = numbers(rows_of(model, examples, methods, [LOGIT], target=target))
        for method in methods:
            whole = found[method, "perturbation", "positive-curve", 0.0]
            assert list(whole.values()) == pytest.approx(wanted.tolist(), abs=1e-9)


def test_options_of_a_metric_arrive():
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[0, 0] = True
    examples = [replace(one, mask=lambda: mask) for one in pictures(2)]
    model = replace(vit(), processor=None)
    for tolerance, hit in ((0, 0.0), (16, 1.0)):
        metric = f"pointing-game:tolerance={tolerance}"
        found = measured(model, examples, "centre-blob", metric)
        assert found["pointing-game"][None] == [hit, hit]


def test_a_control_has_no_pixels_of_another_methods_map():
    examples, metric = pictures(2), f"{LOGIT},unit=pixel"
    alone = numbers(rows_of(vit(), examples, ["centre-blob"], [metric]))
    after = numbers(rows_of(vit(), examples, ["full-lrp", "centre-blob"], [metric]))
    for key, values in alone.items():
        assert after[key] == pytest.approx(values, abs=1e-9)


def test_words_are_judged_without_padding_and_with_the_options_of_the_metric(tmp_path):
    model = relmap.load(str(tiny_folders.save(tmp_path, *tiny_folders.bert())))
    texts = ["a cat on the red sofa", "dog", "the blue dog is what"]
    spans = [((2, 5), (13, 16)), ((0, 3),), None]
    examples = [
        relmap.Example(str(at), text=text, words=words)
        for at, (text, words) in enumerate(zip(texts, spans, strict=True))
    ]
    found = measured(model, examples, "input-x-gradient", "token-f1:k=1")
    for at in (0, 1):
        text, tokens = texts[at], model.tokenizer(texts[at], return_offsets_mapping=True)
        scores = relmap.explain(model, text=text, method="input-x-gradient").text.scores[0]
        words = word_spans(text)
        offsets = [tuple(one) for one in tokens["offset_mapping"]]
        scored = word_scores(offsets, scores, words)
        wanted = token_f1(scored, marked_words(words, spans[at]), k=1)
        for quantity in ("f1", "chosen", "hits", "auprc", "f1@5"):
            assert found[quantity][None][at] == pytest.approx(wanted[quantity], abs=1e-6)
    assert all(values[None][2] is None for values in found.values()), "nobody marked its words"


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("genatt:start_layer=1", {"method": "genatt", "start_layer": 1}),
        ("input-x-gradient:backward=libra", {"method": "input-x-gradient", "backward": "libra"}),
    ],
)
def test_the_method_keeps_its_options_when_it_is_asked_again(method, options):
    model, examples = vit(), pictures(2)
    found = trial_of(model, examples, method).again.targets(1, [3, 0])
    pixels = examples[1].image[None]
    for one, target in zip(found, (3, 0), strict=True):
        wanted = relmap.explain(model.network, pixel_values=pixels, target=target, **options)
        assert torch.equal(one.image.scores, wanted.image.scores)
        plain = {"method": options["method"]}
        other = relmap.explain(model.network, pixel_values=pixels, target=target, **plain)
        assert not torch.allclose(one.image.scores, other.image.scores), "the option says nothing"


@pytest.mark.parametrize(("most", "written"), [(2, 2), (40, 6)])  # 12 tokens are the longest
def test_what_is_written_follows_the_text_as_far_as_the_model_reads(tmp_path, most, written):
    model = relmap.load(str(tiny_folders.save(tmp_path, *tiny_folders.gpt2())))
    text = "a cat on the red sofa"
    again = trial_of(model, [relmap.Example("1", text=text)], "random").again
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
    for _ in range(written):
        likeliest = model.network(input_ids=ids).logits[:, -1:].argmax(dim=-1)
        ids = torch.cat([ids, likeliest], dim=1)
    assert model.tokenizer.eos_token_id not in ids[0, 6:]
    assert again.write(again.arguments(0), 0, most) == [model.tokenizer.decode(ids[0, 6:])]
