"""Training: CLIPmappers on questions and captions, from recipes that are files.

`recipe` says what a run is, `course` which example comes when and at which learning rate,
`features` what the frozen encoders say, computed once; `examples` join features and answers,
`trainer` is transformers' Trainer made lean, `journal` what it writes down; `vqa` and `captions`
put it together, and `card` tells what came out.
"""

from relmap.train.captions import train_captions
from relmap.train.recipe import Recipe, read_recipe
from relmap.train.run import Run
from relmap.train.vqa import train_vqa

__all__ = ["Recipe", "Run", "read_recipe", "train_captions", "train_vqa"]
