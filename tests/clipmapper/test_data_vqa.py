"""Questions: what the official formats read as, and what is refused, with number and names."""

import pickle

import pytest
from reference.scores import ANSWERS
from tiny.data import draw, write

from clipmapper.answers import (
    choose_vocabulary,
    main_answer,
    normalise_answer,
    read_vocabulary,
    soft_targets,
)
from clipmapper.formats.easy_vqa import easy_vqa
from clipmapper.formats.vqa_v2 import vqa_v2
from relmap.data import DATA, files_of, images_by_number
from relmap.errors import InputError

PEOPLE = ["red", "Red", "red.", "dark red", "dark red", "maroon", "the red", "2", "two", "brown"]


def people(answers):
    return [
        {"answer": answer, "answer_confidence": "yes", "answer_id": number + 1}
        for number, answer in enumerate(answers)
    ]


def questions(numbers):
    return [
        {"image_id": 9 if n % 2 else 42, "question": f"What is {n}?", "question_id": n}
        for n in numbers
    ]


def annotations(numbers):
    return [
        {
            "question_type": "what is",
            "multiple_choice_answer": "red",
            "answers": people(PEOPLE),
            "image_id": 9 if n % 2 else 42,
            "answer_type": "other",
            "question_id": n,
            "evidence": {"objects": [n], "words": [[0, 4]], "label": "objects"},
        }
        for n in numbers
    ]


QUESTIONS = "v2_OpenEnded_mscoco_train2014_questions.json"
ANNOTATIONS = "v2_mscoco_train2014_annotations.json"


@pytest.fixture
def vqa(tmp_path):
    write(tmp_path / QUESTIONS, {"info": {}, "questions": questions([9000, 9001, 9002])})
    write(tmp_path / ANNOTATIONS, {"annotations": annotations([9002, 9000, 9001])})
    draw(tmp_path / "train2014/COCO_train2014_000000000009.jpg")
    draw(tmp_path / "train2014/COCO_train2014_000000000042.jpg")
    return tmp_path


class TestAnswers:
    @pytest.mark.parametrize(("said", "compared"), ANSWERS.items())
    def test_the_published_rules(self, said, compared):
        assert normalise_answer(said) == compared

    @pytest.mark.parametrize("said", ANSWERS.values())
    def test_what_is_normalised_stays(self, said):
        if said not in ("somebodyd", "u.s.a."):
            assert normalise_answer(said) == said

    def test_soft_targets_count_people_up_to_three(self):
        assert soft_targets(PEOPLE) == pytest.approx(
            {"red": 1.0, "dark red": 2 / 3, "maroon": 1 / 3, "2": 2 / 3, "brown": 1 / 3}
        )
        assert soft_targets([]) == {}

    def test_a_vocabulary_is_chosen_by_how_many_questions_an_answer_is_the_main_one_of(self):
        given = ["red"] * 9 + ["Blue"] * 5 + [{"blue": 1.0, "red": 0.3}] * 5 + ["rare"] * 8 + [{}]
        assert choose_vocabulary(given) == ["blue", "red"]
        assert choose_vocabulary(given, at_least=8) == ["blue", "red", "rare"]
        assert choose_vocabulary([{"b": 1.0, "a": 1.0}], at_least=1) == ["b"]
        assert choose_vocabulary(["c", "b"], at_least=1) == ["b", "c"]
        with pytest.raises(InputError, match="at least 99 of 28 questions"):
            choose_vocabulary(given, at_least=99)

    def test_the_main_answer_is_the_one_of_most_people(self):
        said = ["purple"] * 3 + ["Violet."] * 7
        assert soft_targets(said) == {"purple": 1.0, "violet": 1.0}, "targets do not tell"
        assert main_answer(said) == "violet"
        assert main_answer(["two", "3"]) == "2"
        assert main_answer([]) is None

    def test_a_vocabulary_is_read_from_a_list_or_from_numbers(self, tmp_path):
        write(tmp_path / "list.json", ["yes", "no", ""])
        write(tmp_path / "numbers.json", {"": 2, "yes": 0, "no": 1})
        assert read_vocabulary(tmp_path / "list.json") == ["yes", "no", ""]
        assert read_vocabulary(str(tmp_path / "numbers.json")) == ["yes", "no", ""]

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("{", "not JSON"),
            ("[]", "no vocabulary"),
            ('["a", 3]', "no vocabulary"),
            ('{"a": 0, "b": 2}', "no vocabulary"),
            ('{"a": 0, "b": "x"}', "no vocabulary"),
            ('["a", "b", "a"]', "1 answers of .* occur twice: a"),
        ],
    )
    def test_a_bad_vocabulary_is_refused(self, tmp_path, content, words):
        (tmp_path / "v.json").write_text(content)
        with pytest.raises(InputError, match=words):
            read_vocabulary(tmp_path / "v.json")

    def test_a_missing_vocabulary_is_named(self, tmp_path):
        with pytest.raises(InputError, match="there is no vocabulary"):
            read_vocabulary(tmp_path / "v.json")

    def test_the_answers_of_vqa_v2_are_normalised_already(self, shared):
        folder = shared / "data" / "vqa_answers"
        if not folder.is_dir():
            pytest.skip("the 3,129 answers of VQA v2 are not in shared/data")
        answers = read_vocabulary(folder / "trainval_label2ans.json")
        assert len(answers) == 3129
        assert answers == read_vocabulary(folder / "trainval_ans2label.json")
        assert [answer for answer in answers if normalise_answer(answer) != answer] == []


class TestVqaV2:
    def test_questions_carry_answers_and_whatever_else_is_known(self, vqa):
        first, second, _ = DATA.get("vqa-v2").function(str(vqa), "train")
        assert (first.name, first.text, first.image_id) == ("9000", "What is 9000?", 42)
        assert first.image == vqa / "train2014/COCO_train2014_000000000042.jpg"
        assert (first.kind, first.answer_type) == ("what is", "other")
        assert first.humans == tuple(PEOPLE)
        assert first.answers == soft_targets(PEOPLE)
        assert first.about["multiple_choice_answer"] == "red"
        assert second.about["evidence"] == {
            "objects": [9001],
            "words": [[0, 4]],
            "label": "objects",
        }
        assert first.open_image().size == (6, 4)
        assert pickle.loads(pickle.dumps(first)) == first

    @pytest.mark.parametrize("picture", ["{:012d}.png", "COCO_train2014_{:012d}.jpeg", "{}.jpg"])
    @pytest.mark.parametrize("place", ["train", "images/train2017", "images"])
    def test_other_layouts_are_read_too(self, vqa, picture, place):
        for file in (vqa / "train2014").iterdir():
            file.unlink()
        (vqa / "train2014").rmdir()
        for name in (QUESTIONS, ANNOTATIONS):
            (vqa / "annotations").mkdir(exist_ok=True)
            (vqa / name).rename(vqa / "annotations" / name)
        for number in (9, 42):
            draw(vqa / place / picture.format(number))
        found = vqa_v2(vqa, "train2014")
        assert [q.image for q in found] == [vqa / place / picture.format(n) for n in (42, 9, 42)]

    def test_test_questions_have_no_answers(self, vqa):
        for split in ("test", "test-dev"):
            name = f"v2_OpenEnded_mscoco_{split}2015_questions.json"
            write(vqa / name, {"questions": questions([9000] if split == "test" else [9001])})
        draw(vqa / "test2015/COCO_test2015_000000000009.jpg")
        draw(vqa / "test2015/COCO_test2015_000000000042.jpg")
        (plain,), (dev,) = vqa_v2(vqa, "test"), vqa_v2(vqa, "test-dev")
        assert (plain.name, dev.name) == ("9000", "9001")
        assert (plain.answers, plain.humans, plain.kind) == ({}, (), "")

    def test_one_split_is_not_taken_for_another(self, vqa):
        write(vqa / "v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": []})
        write(vqa / "v2_OpenEnded_mscoco_trainval2015_questions.json", {"questions": []})
        with pytest.raises(InputError, match=r"no \*test\*questions\.json"):
            vqa_v2(vqa, "test")
        (vqa / QUESTIONS).unlink()
        with pytest.raises(InputError, match=r"no \*train\*questions\.json"):
            vqa_v2(vqa, "train")

    def test_a_train_split_must_have_answers(self, vqa):
        (vqa / ANNOTATIONS).unlink()
        with pytest.raises(InputError, match=r"no \*train\*annotations\.json"):
            vqa_v2(vqa)

    def test_missing_and_ambiguous_files_are_named(self, vqa, tmp_path):
        with pytest.raises(InputError, match=r"no \*val\*questions\.json"):
            vqa_v2(vqa, "val")
        with pytest.raises(InputError, match="there is no folder"):
            vqa_v2(tmp_path / "nowhere")
        write(vqa / "MultipleChoice_mscoco_train2014_questions.json", {"questions": []})
        with pytest.raises(InputError, match=r"2 files of .* could be .*MultipleChoice.*v2_Open"):
            vqa_v2(vqa)

    def test_missing_pictures_are_counted_and_the_first_three_named(self, vqa):
        entries = questions([9000])
        for n in range(5):
            entries.append({"image_id": 100 + n, "question": "?", "question_id": n})
        write(vqa / QUESTIONS, {"questions": entries})
        marks = annotations([9000, *range(5)])
        for mark, entry in zip(marks, entries, strict=True):
            mark["image_id"] = entry["image_id"]
        write(vqa / ANNOTATIONS, {"annotations": marks})
        with pytest.raises(InputError) as caught:
            vqa_v2(vqa)
        assert "5 of 6 pictures" in str(caught.value)
        assert str(vqa / "train2014") in str(caught.value)
        assert str(caught.value).endswith("100, 101, 102, ...")

    @pytest.mark.parametrize(
        ("asked", "answered", "words"),
        [
            ([1, 2, 3, 4, 5], [1], r"4 of 5 questions of .* no annotation .*: 2, 3, 4, \.\.\."),
            ([1], [1, 3], r"1 of 2 annotations of .* no question .*: 3$"),
            ([1, 1], [1], r"1 questions of .* repeat a question_id: 1"),
            ([1], [1, 1], r"1 annotations of .* repeat a question_id: 1"),
        ],
    )
    def test_ids_that_differ_are_refused(self, vqa, asked, answered, words):
        write(vqa / QUESTIONS, {"questions": questions(asked)})
        write(vqa / ANNOTATIONS, {"annotations": annotations(answered)})
        with pytest.raises(InputError, match=words):
            vqa_v2(vqa)

    def test_an_annotation_of_another_picture_is_refused(self, vqa):
        marks = annotations([9000, 9001, 9002])
        marks[2]["image_id"] = 9
        write(vqa / ANNOTATIONS, {"annotations": marks})
        with pytest.raises(InputError, match=r"1 of 3 questions .* another picture .*: 9002"):
            vqa_v2(vqa)

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            (QUESTIONS, b'{"questions": [', "is not JSON"),
            (QUESTIONS, b"\xff\xfe\xfa", "is not JSON"),
            (QUESTIONS, b"[]", 'no list "questions"'),
            (QUESTIONS, b'{"annotations": []}', 'no list "questions"'),
            (QUESTIONS, b'{"questions": [3, {}, "x"]}', r"2 of 3 .* no objects: entry 0, 2"),
            (QUESTIONS, b'{"questions": [{"question_id": 1}]}', '1 of 1 .* no "image_id"'),
            (QUESTIONS, b'{"questions": [{"question_id": "1"}]}', 'no "question_id" of type int'),
            (
                QUESTIONS,
                b'{"questions": [{"question_id": 1, "image_id": 9, "question": null}]}',
                'no "question" of type str',
            ),
            (ANNOTATIONS, b'{"annotations": {}}', 'no list "annotations"'),
            (
                ANNOTATIONS,
                b'{"annotations": [{"question_id": 1, "image_id": 9}]}',
                'no "answers" of type list',
            ),
        ],
    )
    def test_broken_files_are_refused(self, vqa, name, content, words):
        (vqa / name).write_bytes(content)
        with pytest.raises(InputError, match=words):
            vqa_v2(vqa)

    @pytest.mark.parametrize("answer", [{"answer": "red"}, {"answer_id": 1}, 3, None, ["red"]])
    def test_answers_in_another_form_are_refused(self, vqa, answer):
        marks = annotations([9000, 9001, 9002])
        marks[0]["answers"][4] = answer
        write(vqa / ANNOTATIONS, {"annotations": marks})
        with pytest.raises(
            InputError, match=r"1 of 3 annotations .* answers that are not .*: 9000"
        ):
            vqa_v2(vqa)

    def test_evidence_that_speaks_of_answers_stays_whole(self, vqa):
        marks = annotations([9000, 9001, 9002])
        marks[0]["evidence"] = {"answer": "red", "id": 3}
        write(vqa / ANNOTATIONS, {"annotations": marks})
        assert vqa_v2(vqa)[0].about["evidence"] == {"answer": "red", "id": 3}


class TestEasyVqa:
    @pytest.fixture
    def folder(self, tmp_path):
        asked = [["what shape is it?", "circle", 3], ["is it red?", "no", 12], ["?", "teal", 3]]
        write(tmp_path / "train/questions.json", asked)
        for number in (3, 12):
            draw(tmp_path / f"train/images/{number}.png")
        return tmp_path

    def test_questions(self, folder):
        first, second, third = DATA.get("easy-vqa").function(folder)
        assert (first.text, first.image_id, first.name) == ("what shape is it?", 3, "0")
        assert first.image == folder / "train/images/3.png"
        assert (first.answers, first.humans) == ({"circle": 1.0}, ("circle",) * 10)
        assert [q.kind for q in (first, second, third)] == ["shape", "yes/no", "color"]
        assert [q.answer_type for q in (first, second)] == ["other", "yes/no"]

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("[", "not JSON"),
            ("[]", "at least one"),
            ('[["a", "b", 3], ["a", "b"], ["a", "b", "3"]]', "2 of 3 entries .*: entry 1, 2"),
            ('[["a", "b", 4], ["a", "b", 3]]', r"1 of 2 pictures .*images: 4"),
        ],
    )
    def test_what_is_broken_is_refused(self, folder, content, words):
        (folder / "train/questions.json").write_text(content)
        with pytest.raises(InputError, match=words):
            easy_vqa(folder)

    def test_missing_files_are_named(self, folder):
        with pytest.raises(InputError, match=r"no folder .*test"):
            easy_vqa(folder, "test")
        (folder / "train/questions.json").unlink()
        with pytest.raises(InputError, match=r"questions\.json cannot be read"):
            easy_vqa(folder)

    def test_the_published_folder(self, shared):
        folder = shared / "data/easy_vqa"
        if not folder.is_dir():
            pytest.skip("easy-VQA is not in shared/data")
        known = set((folder / "answers.txt").read_text().split())
        for split, number in (("train", 38575), ("test", 9673)):
            found = easy_vqa(folder, split)
            assert len(found) == number
            assert {answer for question in found for answer in question.answers} <= known
            assert {question.kind for question in found} == {"yes/no", "shape", "color"}
            assert found[0].open_image().size == (64, 64)


class TestPicturesByNumber:
    def test_two_of_a_number_are_refused(self, vqa):
        draw(vqa / "train2014" / "9.png")
        with pytest.raises(
            InputError, match=r"1 numbers have several .*: 9\.png and COCO_train2014_0+9\.jpg$"
        ):
            vqa_v2(vqa)

    def test_those_that_nobody_asks_for_do_not_matter(self, vqa):
        for name in ("5.png", "05.png"):
            draw(vqa / "train2014" / name)
        assert len(vqa_v2(vqa)) == 3

    def test_the_first_folder_decides(self, tmp_path):
        for place in ("one", "two"):
            (tmp_path / place).mkdir()
            draw(tmp_path / place / "1.png")
        draw(tmp_path / "two" / "01.jpg")
        draw(tmp_path / "one" / "x2.png")
        folders = [tmp_path / "one", tmp_path / "two"]
        assert images_by_number(folders, {1, 2}) == {
            1: folders[0] / "1.png",
            2: folders[0] / "x2.png",
        }
        with pytest.raises(InputError, match=r"several pictures in .*two"):
            images_by_number(folders[::-1], {1})


class TestFiles:
    def test_formats_say_what_they_read(self, vqa, tmp_path):
        assert [file.name for file in files_of("vqa-v2", vqa, "train")] == [QUESTIONS, ANNOTATIONS]
        assert files_of("vqa-v2", vqa, "val") == []
        assert files_of("coco-captions", vqa, "train") == []
        assert files_of("image-folder", vqa, "train") == []
        with pytest.raises(InputError, match="there is no folder"):
            files_of("vqa-v2", tmp_path / "none", "train")
        with pytest.raises(InputError, match="data format"):
            files_of("vqa-v7", vqa, "train")

    def test_a_karpathy_file_has_the_splits_it_speaks_of(self, tmp_path):
        file = tmp_path / "dataset_coco.json"
        file.write_text('{"images": [{"split": "restval"}, {"split":"test"}]}')
        found = {split: files_of("karpathy", tmp_path, split) for split in ("train", "val", "test")}
        assert found == {"train": [file], "val": [], "test": [file]}

    def test_easy_vqa_has_one_file_a_split(self, tmp_path):
        (tmp_path / "train").mkdir()
        assert files_of("easy-vqa", tmp_path, "train") == []
        (tmp_path / "train" / "questions.json").write_text("[]")
        for form in ("easy-vqa", "easy-vqa-captions"):
            assert files_of(form, tmp_path, "train") == [tmp_path / "train" / "questions.json"]
            assert files_of(form, tmp_path, "test") == []
