"""Tiny random models with their preprocessors, saved as folders that `load` can read."""

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["a", "cat", "dog", "on", "the", "sofa", "what", "is", "this", "red", "blue"]
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def make_tokenizer(enclosed=True, **options):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<image>"]
    vocabulary = {word: number for number, word in enumerate(special + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    named = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    if enclosed:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    options = {
        "pad_token": "[PAD]",
        "eos_token": "[SEP]",
        "extra_special_tokens": ["<image>"],
        **named,
    } | options
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)


def make_image(seed=0, size=(20, 24)):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save(folder, model, *parts):
    torch.manual_seed(0)
    for one in (model, *parts):
        one.save_pretrained(folder)
    return folder


def vit():
    config = hf.ViTConfig(
        image_size=16, patch_size=8, id2label={0: "tench, Tinca", 1: "cat"}, **SMALL
    )
    return hf.ViTForImageClassification(config), hf.ViTImageProcessor(
        size={"height": 16, "width": 16}
    )


def bert():
    config = hf.BertConfig(vocab_size=20, max_position_embeddings=10, **SMALL)
    return hf.BertForSequenceClassification(config), make_tokenizer()


def clip():
    text = hf.CLIPTextConfig(vocab_size=20, max_position_embeddings=8, eos_token_id=3, **SMALL)
    vision = hf.CLIPVisionConfig(image_size=16, patch_size=8, **SMALL)
    config = hf.CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8
    )
    images = hf.CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    return hf.CLIPModel(config), hf.CLIPProcessor(images, make_tokenizer(model_max_length=8))


def gpt2():
    config = hf.GPT2Config(vocab_size=20, n_positions=12, n_embd=16, n_layer=2, n_head=2)
    return hf.GPT2LMHeadModel(config), make_tokenizer(enclosed=False, pad_token=None)


def t5():
    config = hf.T5Config(
        vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    return hf.T5ForConditionalGeneration(config), make_tokenizer()


def vilt():
    config = hf.ViltConfig(
        vocab_size=20, image_size=32, patch_size=16, max_position_embeddings=12, num_labels=3,
        max_image_length=-1, **SMALL,
    )  # fmt: skip
    images = hf.ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=16)
    return hf.ViltForQuestionAnswering(config), hf.ViltProcessor(images, make_tokenizer())


def whisper():
    config = hf.WhisperConfig(
        vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8,
        max_source_positions=50, decoder_start_token_id=2, pad_token_id=0, bos_token_id=2,
        eos_token_id=3, begin_suppress_tokens=None, suppress_tokens=None,
    )  # fmt: skip
    sounds = hf.WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    return hf.WhisperForConditionalGeneration(config), sounds


def wav2vec2():
    config = hf.Wav2Vec2Config(
        conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, classifier_proj_size=8, **SMALL,
    )  # fmt: skip
    return hf.Wav2Vec2ForSequenceClassification(config), hf.Wav2Vec2FeatureExtractor()


def llava():
    vision = hf.CLIPVisionConfig(image_size=16, patch_size=8, **SMALL)
    text = hf.LlamaConfig(vocab_size=20, max_position_embeddings=32, **SMALL)
    config = hf.LlavaConfig(vision_config=vision, text_config=text, image_token_id=4)
    images = hf.CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    processor = hf.LlavaProcessor(
        images, make_tokenizer(enclosed=False), patch_size=8,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    return hf.LlavaForConditionalGeneration(config), processor


def blip():
    vision = {"image_size": 16, "patch_size": 8, **SMALL}
    text = {
        "vocab_size": 20, "encoder_hidden_size": 16, "max_position_embeddings": 12,
        "bos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0, **SMALL,
    }  # fmt: skip
    config = hf.BlipConfig(vision_config=vision, text_config=text, projection_dim=8)
    images = hf.BlipImageProcessor(size={"height": 16, "width": 16})
    return hf.BlipForConditionalGeneration(config), hf.BlipProcessor(images, make_tokenizer())


MAKERS = {
    maker.__name__: maker
    for maker in (vit, bert, clip, gpt2, t5, vilt, whisper, wav2vec2, llava, blip)
}


class Folders:
    """Saves each model when it is first asked for."""

    def __init__(self, root):
        self.root = root

    def __call__(self, kind):
        path = self.root / kind
        return path if path.exists() else save(path, *MAKERS[kind]())
