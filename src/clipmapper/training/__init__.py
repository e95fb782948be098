"""Training: CLIPmappers on questions and captions, from recipes that are files.

`recipe` says what a run is, `course` which example comes when and at which learning rate,
`features` what the frozen encoders say, computed once; `examples` join features and answers,
`trainer` is transformers' Trainer made lean, `journal` what it writes down; `vqa` and `captions`
put it together, and `card` tells what came out.
"""

from clipmapper.training.captions import train_captions
from clipmapper.training.recipe import Recipe, read_recipe
from clipmapper.training.run import Run
from clipmapper.training.vqa import train_vqa

__all__ = ["Recipe", "Run", "read_recipe", "train_captions", "train_vqa"]
