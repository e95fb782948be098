"""Data sets of questions and captions that CLIPmapper is trained and judged on."""

from clipmapper.formats import easy_vqa, easy_vqa_captions, scenes, vqa_v2

__all__ = ["easy_vqa", "easy_vqa_captions", "scenes", "vqa_v2"]
