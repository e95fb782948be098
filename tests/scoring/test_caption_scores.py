"""Caption scores from texts: tokens, the drop of a word, and what needs Java says so."""

import json
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from reference.scores import corpus

from relmap.errors import InputError, MissingExtraError
from relmap.scoring import SCORES, find_score, scores_here
from relmap.scoring.captions import default_tokeniser, score_captions, tokenise, word_drops
from relmap.scoring.cider import count_documents
from relmap.scoring.meteor import meteor
from relmap.scoring.spice import spice


def needs(name):
    try:
        find_score(name)
    except (InputError, MissingExtraError) as error:
        pytest.skip(str(error))


def needs_ptb():
    if default_tokeniser() != "ptb":
        pytest.skip("the PTB tokenizer needs Java and the extra 'captions'")


class TestCaptions:
    def test_texts_become_words_first(self):
        found = score_captions(
            ["A red star.", "Two squares"], [["a red star"], ["two circles!"]], tokeniser="plain"
        )
        assert list(found) == ["bleu-4", "cider", "rouge-l"]
        assert found["rouge-l"].each.tolist() == pytest.approx([1.0, 0.5])
        assert found["cider"].each.tolist() == pytest.approx([7.5, 1.25])

    def test_unknown_names_are_refused(self):
        with pytest.raises(InputError, match="Did you mean 'cider'"):
            score_captions(["a"], [["a"]], ["cidre"])
        with pytest.raises(InputError, match="a tokeniser is"):
            tokenise(["a"], "treebank")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("A man's dog, isn't it?", "a man 's dog is n't it"),
            ("They can't -- they'll see.", "they ca n't they 'll see"),
            ('a sign that says "STOP" ...', "a sign that says stop"),
            (
                "a well-dressed man at 10:30; 1,000 people",
                "a well-dressed man at 10:30 1,000 people",
            ),
            ("black & white", "black & white"),
            ("  two\nlines\t", "two lines"),
            ("", ""),
        ],
    )
    def test_plain_tokens(self, text, words):
        assert tokenise([text]) == [tuple(words.split())]

    def test_the_penn_treebank_says_the_same(self):
        needs_ptb()
        texts = ["A man's dog, isn't it?", "", "They can't -- they'll see.", 'a "STOP" sign', ""]
        assert tokenise(texts, "ptb") == tokenise(texts, "plain")
        assert tokenise([], "ptb") == []
        assert tokenise(["café naïve"], "ptb") == [("café", "naïve")]

    def test_plain_tokens_are_the_treebanks_in_all_but_one_sentence_of_five_hundred(self, shared):
        needs_ptb()
        file = shared / "data/coco_captions/captions_val2017.json"
        if not file.is_file():
            pytest.skip("COCO's captions are not in shared/data")
        texts = [entry["caption"] for entry in json.loads(file.read_text())["annotations"]]
        pairs = zip(tokenise(texts, "plain"), tokenise(texts, "ptb"), strict=True)
        assert sum(plain != ptb for plain, ptb in pairs) < len(texts) / 500

    def test_people_on_cocos_pictures(self, shared):
        file = shared / "data/coco_captions/captions_val2017.json"
        if not file.is_file():
            pytest.skip("COCO's captions are not in shared/data")
        texts = {}
        for entry in json.loads(file.read_text())["annotations"]:
            texts.setdefault(entry["image_id"], []).append(entry["caption"])
        some = list(texts.values())[:500]
        found = score_captions([t[0] for t in some], [t[1:] for t in some], tokeniser="plain")
        shuffled = score_captions(
            [t[0] for t in some[1:] + some[:1]], [t[1:] for t in some], tokeniser="plain"
        )
        # one person against four others: the known order of magnitude
        assert 0.6 < found["cider"].overall < 1.2
        assert 0.1 < found["bleu-4"].overall < 0.3
        assert shuffled["cider"].overall < 0.1


class TestWordDrops:
    REFERENCES = ("a red star above a blue square", "the red star is above the square")

    def without(self, caption):
        words = caption.split()
        return [" ".join(words[:at] + words[at + 1 :]) for at in range(len(words))]

    def drops(self, caption, **options):
        return word_drops(caption, self.without(caption), self.REFERENCES, **options)

    @pytest.fixture
    def documents(self):
        _, references = corpus(pictures=30)
        return count_documents(references)

    @pytest.mark.parametrize("score", ["bleu-4", "cider", "rouge-l", "meteor"])
    def test_a_drop_is_the_difference_of_two_scores(self, score, documents):
        needs(score)
        options = {"documents": documents} if score == "cider" else {}
        caption = "a red star above a square"
        found = self.drops(caption, score=score, **options)
        assert found.shape == (6,)
        judge = SCORES.get(score).function
        given = [tuple(tokenise(self.REFERENCES))]
        whole = judge(tokenise([caption]), given, **options).each[0]
        for value, text in zip(found, self.without(caption), strict=True):
            alone = judge(tokenise([text]), given, **options).each[0]
            assert value.item() == pytest.approx((whole - alone).item(), abs=1e-12)

    def test_a_rare_right_word_weighs_more_than_an_article(self, documents):
        found = self.drops("a red star above the square", documents=documents)
        assert found[1] > found[0]
        wrong = self.drops("a red star above the square circle", documents=documents)
        assert wrong[-1] < 0

    def test_a_caption_of_one_word(self, documents):
        for score in set(scores_here()) - {"spice"}:
            options = {"documents": documents} if score == "cider" else {}
            assert self.drops("star", score=score, **options).isfinite().all()

    def test_cider_needs_a_corpus(self):
        with pytest.raises(InputError, match="pass `documents`"):
            self.drops("a red star")


class TestJavaScores:
    def test_meteor_of_known_sentences(self):
        needs("meteor")
        references = [tokenise(["a dog runs on grass", "the dog is running"])] * 3
        found = meteor(tokenise(["a dog", "cat sat", "a dog runs on the grass"]), references)
        assert found.each.tolist() == pytest.approx([0.1920280048, 0, 0.4937353212])
        assert meteor(*corpus(seed=3)).each.min() >= 0

    @pytest.mark.slow
    def test_meteor_equals_the_program_in_common_use(self):
        needs("meteor")
        from pycocoevalcap.meteor.meteor import Meteor

        captions, references = corpus(pictures=6)
        said = {at: [" ".join(words)] for at, words in enumerate(captions)}
        given = {at: [" ".join(text) for text in texts] for at, texts in enumerate(references)}
        program = Meteor()
        overall, each = program.compute_score(given, said)
        for pipe in (program.meteor_p.stdout, program.meteor_p.stderr):
            pipe.close()
        found = meteor(captions, references)
        assert found.each.tolist() == pytest.approx(each)
        assert found.overall == pytest.approx(overall)
        assert meteor(captions, references).each.tolist() == pytest.approx(each)

    def test_spice_knows_a_paraphrase(self):
        needs("spice")
        captions = tokenise(["a red star above a square", "two dogs"])
        references = [tokenise(["a star that is red"]), tokenise(["a cat sleeps"])]
        found = spice(captions, references)
        assert found.each[0] > found.each[1] == 0

    def test_meteor_that_dies_is_told_and_started_again(self, monkeypatch):
        needs("meteor")
        import relmap.scoring.meteor as module

        def dead(process):
            return subprocess.Popen(
                ["true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )

        dead.cache_clear = lambda: None
        monkeypatch.setattr(module, "_start", dead)
        with pytest.raises(InputError, match="METEOR's Java program failed"):
            meteor(*corpus(pictures=2))

    def test_without_java_one_sentence_says_what_to_do(self, monkeypatch):
        pytest.importorskip("pycocoevalcap.bleu.bleu", reason="needs the extra 'captions'")
        monkeypatch.setattr(shutil, "which", lambda name: None)
        for score in (meteor, spice):
            with pytest.raises(InputError, match="no `java` is on the PATH: install a Java"):
                score([("a",)], [[("a",)]])
        with pytest.raises(InputError, match="PTB tokenizer is a Java program"):
            tokenise(["a"], "ptb")
        with pytest.raises(InputError, match="METEOR is a Java"):
            score_captions(["a", "b"], [["a"], ["b"]], ["cider", "meteor"])
        assert scores_here() == ["bleu-4", "cider", "rouge-l"]
        assert default_tokeniser() == "plain"
        assert tokenise(["It's"], "auto") == [("it", "'s")]

    def test_without_the_extra_its_install_line_is_given(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        for name in ("meteor", "spice"):
            with pytest.raises(MissingExtraError, match=r"pip install 'relmap\[captions\]'"):
                find_score(name)
        assert scores_here() == ["bleu-4", "cider", "rouge-l"]

    def test_spice_without_its_parser_says_how_to_fetch_it(self, monkeypatch, tmp_path):
        (tmp_path / "spice/lib").mkdir(parents=True)
        (tmp_path / "spice/spice-1.0.jar").touch()
        found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
        monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
        monkeypatch.setattr(shutil, "which", lambda name: "java")
        with pytest.raises(
            InputError, match=r"python -m pycocoevalcap\.spice\.get_stanford_models"
        ):
            find_score("spice")
        with pytest.raises(InputError, match=r"METEOR needs .* reinstall pycocoevalcap"):
            find_score("meteor")

    def test_a_treebank_that_fails_points_to_the_plain_one(self, monkeypatch):
        needs_ptb()
        failed = subprocess.CompletedProcess([], 1, b"", b"Error: out of memory\n")
        monkeypatch.setattr(subprocess, "run", lambda *command, **options: failed)
        with pytest.raises(InputError, match=r"1 lines of 2 \(Error: out of memory\)"):
            tokenise(["a", "b"], "ptb")
