"""Scores of answers and captions equal their literal forms and the program in common use."""

import itertools
import json
import random

import numpy as np
import pytest
import torch
from reference import scores as literal
from reference.scores import corpus
from tiny import folders as tiny_folders

from clipmapper.answers import normalise_answer
from clipmapper.vqa_accuracy import summarise, vqa_accuracy, write_submission
from relmap.errors import InputError
from relmap.scoring import n_grams
from relmap.scoring.bleu import bleu_4
from relmap.scoring.cider import cider, count_documents
from relmap.scoring.clip_score import ClipScorer, clip_score, ref_clip_score
from relmap.scoring.meteor import meteor
from relmap.scoring.rouge import rouge_l
from relmap.scoring.spice import spice


class TestVqaAccuracy:
    @pytest.mark.parametrize("number", [10, 4, 7])
    def test_equals_leaving_out_one_person_at_a_time(self, number):
        draw = random.Random(number)
        people = [draw.choices("abcd", [5, 3, 1, 1], k=number) for _ in range(200)]
        people = [[f"{letter}x" for letter in said] for said in people]
        answers = [draw.choice(["ax", "bx", "cx", "nothing"]) for _ in people]
        expected = [literal.vqa_accuracy(a, h) for a, h in zip(answers, people, strict=True)]
        assert vqa_accuracy(answers, people).tolist() == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize(
        ("same", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)]
    )
    def test_by_hand(self, same, expected):
        people = ["yes"] * same + ["no"] * (10 - same)
        (found,) = vqa_accuracy(["Yes."], [people]).tolist()
        assert found == pytest.approx(expected, abs=1e-12)

    def test_both_sides_are_normalised(self):
        for said, compared in literal.ANSWERS.items():
            for answer, people in itertools.product((said, compared), repeat=2):
                if normalise_answer(answer) == compared:
                    assert vqa_accuracy([answer], [[people] * 10]).tolist() == [1.0]

    def test_the_script_reads_people_differently(self):
        agreed, divided = ["t-shirt"] * 10, ["t-shirt"] * 9 + ["shirt"]
        assert vqa_accuracy(["t-shirt"] * 2, [agreed, divided]).tolist() == [1, 1]
        found = vqa_accuracy(["t-shirt"] * 2, [agreed, divided], as_script=True)
        assert found.tolist() == [0, 1]
        numbers = ["two"] * 9 + ["3"]
        assert vqa_accuracy(["two"], [numbers]).tolist() == [1]
        assert vqa_accuracy(["two"], [numbers], as_script=True).tolist() == [0]

    def test_what_cannot_be_judged_is_refused(self):
        with pytest.raises(InputError, match="1 answers to 2 questions"):
            vqa_accuracy(["a"], [["a"] * 10] * 2)
        few = [["a"] * 3] * 4 + [["a"] * 10]
        with pytest.raises(InputError, match=r"4 of 5 .* fewer than 4 .* 0, 1, 2, \.\.\."):
            vqa_accuracy(["a"] * 5, few)

    def test_means(self):
        found = summarise(
            torch.tensor([1.0, 0.0, 0.5]), ["yes/no", "other", "other"], ["is", "what", "is"]
        )
        assert found.overall == pytest.approx(0.5)
        assert found.by_answer_type == {"other": 0.25, "yes/no": 1.0}
        assert found.by_kind == {"is": 0.75, "what": 0.0}
        assert found.questions == 3
        with pytest.raises(InputError, match="got 1, 1 and 2"):
            summarise(torch.ones(1), ["a"], ["a", "b"])
        with pytest.raises(InputError):
            summarise(torch.ones(0), [], [])

    def test_a_submission_is_what_the_server_takes(self, tmp_path):
        write_submission(tmp_path / "r.json", [262148000, "42"], ["yes", "café"])
        assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == [
            {"question_id": 262148000, "answer": "yes"},
            {"question_id": 42, "answer": "café"},
        ]

    @pytest.mark.parametrize(
        ("numbers", "answers", "words"),
        [
            ([1], [], "0 answers to 1"),
            (["a"], ["x"], "by number"),
            ([1, 1, 2, "2"], ["x"] * 4, "2 questions are answered more than once: 1, 2"),
        ],
    )
    def test_a_submission_that_the_server_would_refuse(self, tmp_path, numbers, answers, words):
        with pytest.raises(InputError, match=words):
            write_submission(tmp_path / "r.json", numbers, answers)
        assert not list(tmp_path.iterdir())


class TestNGramScores:
    @pytest.mark.parametrize("seed", range(5))
    def test_bleu_equals_its_literal_form(self, seed):
        captions, references = corpus(seed=seed)
        expected = literal.bleu_4(captions, references)
        assert bleu_4(captions, references).overall == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("seed", range(5))
    def test_cider_equals_its_literal_form(self, seed):
        captions, references = corpus(seed=seed)
        expected = literal.cider_d(captions, references, references)
        found = cider(captions, references)
        np.testing.assert_allclose(found.each, expected, rtol=1e-10, atol=1e-12)
        assert found.overall == pytest.approx(expected.mean())
        assert expected.max() > 0.5

    def test_cider_with_the_document_frequencies_of_another_corpus(self):
        captions, references = corpus(seed=1)
        _, others = corpus(pictures=30, seed=2)
        expected = literal.cider_d(captions, references, others)
        found = cider(captions, references, documents=count_documents(others))
        np.testing.assert_allclose(found.each, expected, rtol=1e-10, atol=1e-12)

    def test_a_caption_that_is_the_only_reference_scores_ten(self):
        captions, _ = corpus()
        found = cider(captions, [[words] for words in captions])
        assert found.each.tolist() == pytest.approx([10.0] * len(captions))

    @pytest.mark.parametrize("seed", range(3))
    def test_all_equal_the_program_in_common_use(self, seed):
        pytest.importorskip("pycocoevalcap.bleu.bleu", reason="needs the extra 'captions'")
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        captions, references = corpus(pictures=40, seed=seed, shortest=1)
        said = {at: [" ".join(words)] for at, words in enumerate(captions)}
        given = {at: [" ".join(text) for text in texts] for at, texts in enumerate(references)}
        for score, program in ((cider, Cider()), (rouge_l, Rouge())):
            overall, each = program.compute_score(given, said)
            found = score(captions, references)
            np.testing.assert_allclose(found.each, each, rtol=1e-10, atol=1e-12)
            assert found.overall == pytest.approx(overall)
        overall, each = Bleu(4).compute_score(given, said, verbose=0)
        found = bleu_4(captions, references)
        np.testing.assert_allclose(found.each, each[3], rtol=1e-9)
        assert found.overall == pytest.approx(overall[3], rel=1e-9)

    @pytest.mark.parametrize("score", [bleu_4, cider, rouge_l])
    def test_an_empty_caption_scores_nothing(self, score):
        captions, references = corpus(pictures=3)
        found = score([(), *captions[1:]], references)
        assert found.each[0].item() == pytest.approx(0, abs=1e-6)
        assert found.each.isfinite().all()

    @pytest.mark.parametrize("score", [bleu_4, cider, rouge_l, meteor, spice])
    def test_captions_without_references_are_refused(self, score):
        with pytest.raises(InputError, match="0 captions"):
            score([], [])
        with pytest.raises(InputError, match="2 captions and 1 lists"):
            score([("a",)] * 2, [[("a",)]])
        with pytest.raises(InputError, match=r"2 of 3 captions have no reference .*: caption 0, 2"):
            score([("a",)] * 3, [[], [("a",)], [()]])

    def test_a_single_picture_is_no_corpus(self):
        with pytest.raises(InputError, match="pass `documents`"):
            cider([("a",)] * 3, [[("a", "star")]] * 3)
        with pytest.raises(InputError, match="sigma"):
            cider(*corpus(), sigma=0)

    def test_n_grams_are_counted(self):
        assert n_grams(("a", "b", "a", "b"))[("a", "b")] == 2
        assert sum(n_grams(tuple("abcdef")).values()) == 6 + 5 + 4 + 3


class TestClipScore:
    def test_by_hand(self):
        images = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0]])
        captions = torch.tensor([[0.0, 2.0], [-1.0, 0.0], [1.0, 0.0]])
        assert clip_score(images, captions).tolist() == pytest.approx([2.0, 0.0, 2.5])
        assert clip_score(images, captions, weight=1).tolist() == pytest.approx([0.8, 0, 1])
        references = [
            torch.tensor([[0.0, -1.0], [4.0, 3.0]]),  # cos -1 and 0.6: the best counts
            torch.tensor([[1.0, 0.0]]),  # cos -1, held at 0, and a fit of 0: no 0 / 0
            torch.tensor([[5.0, 0.0]]),
        ]
        expected = [2 * 2.0 * 0.6 / 2.6, 0.0, 2 * 2.5 * 1 / 3.5]
        assert ref_clip_score(images, captions, references).tolist() == pytest.approx(expected)
        for wrong in (references[:2], [*references[:2], torch.zeros(0, 2)]):
            with pytest.raises(InputError, match="references for each of 3"):
                ref_clip_score(images, captions, wrong)

    @pytest.fixture
    def scorer(self):
        model, processor = tiny_folders.clip()
        return ClipScorer(model.eval(), processor, batch_size=2)

    def test_any_clip_model_judges(self, scorer):
        images = [tiny_folders.make_image(seed) for seed in range(5)]
        captions = ["a red cat", "the dog", "this is a sofa", "blue", "on"]
        seen, said = scorer.embed_images(images), scorer.embed_texts(captions)
        assert seen.shape == said.shape == (5, 8)
        assert torch.equal(scorer.score(images, captions), clip_score(seen, said))
        model, processor = scorer.model, scorer.processor
        texts = processor.tokenizer(["A photo depicts the dog"], return_tensors="pt")
        alone = model.get_text_features(
            input_ids=texts["input_ids"], attention_mask=texts["attention_mask"]
        ).pooler_output
        torch.testing.assert_close(said[1:2], alone)
        references = [["a cat"], ["a dog", "blue dog"], ["sofa"], ["red"], ["on"]]
        found = scorer.score(images, captions, references)
        likeness = [scorer.embed_texts(texts) for texts in references]
        torch.testing.assert_close(found, ref_clip_score(seen, said, likeness))
        both = scorer.score_both(images, captions, references)
        assert list(both) == ["clip-score", "ref-clip-score"]
        assert torch.equal(both["clip-score"], clip_score(seen, said))
        assert torch.equal(both["ref-clip-score"], found)

    def test_the_prompt_matters_and_long_texts_are_cut(self, scorer):
        plain = ClipScorer(scorer.model, scorer.processor, prompt="")
        assert not torch.equal(plain.embed_texts(["a cat"]), scorer.embed_texts(["a cat"]))
        assert plain.embed_texts(["a cat on the sofa " * 9]).isfinite().all()

    def test_what_does_not_fit_is_refused(self, scorer):
        image = tiny_folders.make_image()
        for images, captions in (([], []), ([image], ["a", "b"])):
            with pytest.raises(InputError, match="captions of"):
                scorer.score(images, captions)
        with pytest.raises(InputError, match="references for each"):
            scorer.score([image], ["a"], [[]])
        with pytest.raises(InputError, match="nothing to embed"):
            scorer.embed_texts([])
        scorer.model.train()
        with pytest.raises(InputError, match="training mode"):
            scorer.score([image], ["a"])
