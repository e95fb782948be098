"""explain from end to end: loaded models, friendly inputs, the command line, pictures, results."""

import json
import warnings

import pytest
import torch
from PIL import Image
from tiny import folders as tiny
from torch import nn
from typer.testing import CliRunner

import relmap
from relmap import cli
from relmap.errors import InputError, TraceError
from relmap.explanation import DEFAULT_BACKWARD

SMALL = torch.linspace(-1, 1, 48).view(2, 3, 8) ** 3


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    tiny.make_image().save(path)
    return path


def run(*arguments):
    return CliRunner().invoke(cli.app, ["explain", *map(str, arguments)])


@pytest.mark.filterwarnings("default")  # saving and loading tiny models is not ours to judge
class TestCommandLine:
    def test_image(self, tmp_path, picture):
        folder = tiny.save(tmp_path / "vit", *tiny.vit())
        output = tmp_path / "map.png"
        result = run("--model", folder, "--image", picture, "--method", "wra", "--output", output)
        assert result.exit_code == 0, result.output
        assert "prediction" in result.output
        with Image.open(output) as drawn:
            assert drawn.size[0] > 300

    def test_text(self, tmp_path):
        folder = tiny.save(tmp_path / "bert", *tiny.bert())
        output = tmp_path / "map.png"
        result = run("--model", folder, "--text", "a cat", "--output", output, "--option",
                     "start_layer=1")  # fmt: skip
        assert result.exit_code == 0, result.output
        assert "cat" in result.output
        assert output.exists()

    def test_image_and_text(self, tmp_path, picture):
        folder = tiny.save(tmp_path / "clip", *tiny.clip())
        result = run("--model", folder, "--image", picture, "--text", "a cat", "--json")
        assert result.exit_code == 0, result.output
        said = json.loads(result.stdout)
        assert "input_ids" in json.dumps(said)
        assert "pixel_values" in json.dumps(said)

    def test_wrong_option_is_one_sentence(self, tmp_path, picture):
        folder = tiny.save(tmp_path / "vit", *tiny.vit())
        result = run("--model", folder, "--image", picture, "--option", "start_layer=9")
        assert result.exit_code == 2
        assert "start_layer=9 does not exist" in result.output


@pytest.mark.filterwarnings("default")
class TestLoaded:
    def test_grid_and_layout(self, tmp_path):
        model = relmap.load(tiny.save(tmp_path / "vit", *tiny.vit()))
        result = relmap.explain(model, image=[tiny.make_image(0), tiny.make_image(1)])
        assert result.image.scores.shape == (2, 2, 2)
        assert result.scores["pixel_values"].shape == (2, 5)
        layout = result.layout["pixel_values"]
        assert layout.special[:, 0].all()
        assert not layout.special[:, 1:].any()
        assert result.meta["method"] == relmap.DEFAULT_METHOD
        assert len(list(result)) == 2

    def test_words(self, tmp_path):
        model = relmap.load(tiny.save(tmp_path / "bert", *tiny.bert()))
        result = relmap.explain(model, text=["a cat", "a cat on a cat"])
        assert result.text.tokens[0][:4] == ["[CLS]", "a", "cat", "[SEP]"]
        layout = result.layout["input_ids"]
        assert layout.padding[0].any()
        assert not layout.padding[1].any()
        assert not result.text.scores[layout.padding].any()

    def test_one_image_many_texts(self, tmp_path):
        model = relmap.load(tiny.save(tmp_path / "clip", *tiny.clip()))
        result = relmap.explain(model, image=tiny.make_image(), text=["a cat", "a sofa"])
        assert len(result) == 2
        assert set(result.scores) == {"input_ids", "pixel_values"}

    def test_saved_and_loaded(self, tmp_path):
        model = relmap.load(tiny.save(tmp_path / "vit", *tiny.vit()))
        result = relmap.explain(model, image=tiny.make_image(), method="wra")
        result.save(tmp_path / "map.safetensors")
        again = relmap.Attribution.load(tmp_path / "map.safetensors")
        assert torch.equal(again.scores["pixel_values"], result.scores["pixel_values"])

    def test_both_kinds_of_input_are_refused(self, tmp_path):
        model = relmap.load(tiny.save(tmp_path / "vit", *tiny.vit()))
        with pytest.raises(relmap.InputError, match="cannot be mixed"):
            relmap.explain(model, image=tiny.make_image(), pixel_values=torch.zeros(1, 3, 16, 16))

    def test_a_different_target_gives_a_different_map(self, tmp_path):
        model = relmap.load(tiny.save(tmp_path / "vit", *tiny.vit()))
        maps = []
        for target in ("tench", "cat"):
            result = relmap.explain(model, image=tiny.make_image(), target=target)
            patches = result.scores["pixel_values"][0, 1:]
            maps.append(patches / patches.sum())
        assert not torch.allclose(maps[0], maps[1], atol=1e-3)


def test_plural_inputs_of_a_bare_module():
    network = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True)
    result = relmap.explain(network, src=torch.randn(2, 5, 8), target=lambda out: out[:, 0, 0])
    assert result.scores["src"].shape == (2, 5)
    assert network.training


def test_half_precision_is_accumulated_in_single():
    network = torch.nn.TransformerEncoderLayer(16, 2, batch_first=True)
    torch.manual_seed(0)
    tokens = torch.randn(2, 5, 16)
    exact = relmap.explain(network, src=tokens, target=lambda out: out[:, 0, 0])
    rough = relmap.explain(network.bfloat16(), src=tokens, target=lambda out: out[:, 0, 0])
    assert rough.scores["src"].dtype == torch.float32
    assert torch.allclose(exact.scores["src"], rough.scores["src"], atol=0.05)


class Waves(torch.nn.Module):
    """A network that the default backward does not go through: it has no rule for a sine."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)

    def forward(self, x):
        return torch.sin(self.layer(x))


def first(output):
    return output[:, 0, 1]


def test_nothing_named_is_the_default_method_with_the_default_backward():
    network, x = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True).eval(), SMALL
    found = relmap.explain(network, src=x, target=first)
    how = {"method": relmap.DEFAULT_METHOD, "backward": DEFAULT_BACKWARD}
    same = relmap.explain(network, src=x, target=first, **how)
    assert torch.equal(found.scores["src"], same.scores["src"])
    assert found.meta["backward"] == DEFAULT_BACKWARD
    named = relmap.explain(network, src=x, target=first, method=relmap.DEFAULT_METHOD)
    assert named.meta["backward"] == "gradient", "a method by its name is the published one"
    assert not torch.allclose(found.scores["src"], named.scores["src"])
    with pytest.raises(InputError, match="start_layer=1 does not exist"):  # its options reach it
        relmap.explain(network, src=x, target=first, start_layer=1)


def test_a_network_without_rules_is_explained_by_the_plain_gradient_and_told():
    network = Waves().eval()
    with pytest.warns(UserWarning, match="no rule for 'sin'"):
        found = relmap.explain(network, x=SMALL, target=first)
    plain = relmap.explain(network, x=SMALL, target=first, method=relmap.DEFAULT_METHOD)
    assert torch.equal(found.scores["x"], plain.scores["x"])
    assert found.meta["backward"] == "gradient"
    with pytest.raises(TraceError, match="sin"):  # what was asked for is not replaced
        relmap.explain(network, x=SMALL, target=first, backward=DEFAULT_BACKWARD)


class Counting(nn.Module):
    """Counts its forward passes; its arguments have the names of what `explain` takes."""

    def __init__(self, activate):
        super().__init__()
        torch.manual_seed(0)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head, self.activate, self.passes = nn.Linear(8, 3), activate, []

    def forward(self, target, method=None, inputs=None):
        self.passes.append(1)
        x = target if method is None else target + method
        x = x if inputs is None else x + inputs
        return self.head(self.activate(self.block(x))[:, 0])


def test_arguments_with_names_that_are_taken_go_into_a_dictionary():
    network, x = Counting(torch.tanh).eval(), torch.randn(2, 5, 8)
    result = relmap.explain(network, target=1, method="genatt", inputs={"target": x, "method": x})
    assert list(result.scores) == ["target"]
    assert result.meta["method"] == "genatt"
    plain = relmap.explain(network, target=1, method="genatt", inputs={"target": 2 * x})
    torch.testing.assert_close(plain.scores["target"], result.scores["target"])
    both = relmap.explain(network, target=1, method="genatt", inputs={"target": x, "inputs": x})
    torch.testing.assert_close(both.scores["target"], result.scores["target"])
    found = relmap.compare(network, ["genatt"], target=1, inputs={"target": x, "method": x})
    torch.testing.assert_close(found.found["genatt"].scores, result.scores)
    with pytest.raises(relmap.InputError, match="'tarket' in inputs= is no input"):
        relmap.explain(network, target=1, inputs={"tarket": x})


def test_an_argument_called_inputs_is_given_as_every_other():
    class Plain(Counting):
        def forward(self, inputs):
            return super().forward(inputs)

    network, x = Plain(torch.tanh).eval(), torch.randn(2, 5, 8)
    result = relmap.explain(network, inputs=x, target=1)
    named = relmap.explain(network, inputs={"inputs": x}, target=1)
    torch.testing.assert_close(result.scores, named.scores)


def test_what_the_default_cannot_do_is_found_out_once():
    network, x = Counting(torch.sin).eval(), torch.randn(2, 5, 8)  # libra has no rule for a sine
    inputs = {"target": x}
    with pytest.warns(UserWarning, match="does not go through"):
        first = relmap.explain(network, target=1, inputs=inputs)
    before = len(network.passes)
    with pytest.warns(UserWarning, match="does not go through"):
        second = relmap.explain(network, target=1, inputs=inputs)
    assert len(network.passes) == before + 1
    torch.testing.assert_close(first.scores, second.scores)
    network.activate = torch.tanh  # other shapes are asked again, and go through now
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        third = relmap.explain(network, target=1, inputs={"target": x[:, :3]})
    assert third.meta["backward"] == "libra"
