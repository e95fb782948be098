"""CLIPmapper, the baseline model of the WRA paper, as classes of transformers.

Frozen CLIP encoders turn a picture and a text into tokens; a mapper, trained per task, joins them.
Mapper A is one stream of self-attention, mapper B two streams that exchange keys and values.
Importing this registers the classes with transformers' Auto classes.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForVisualQuestionAnswering,
)

from .configuration import CLIPmapperConfig
from .heads import CLIPmapperForCaptioning, CLIPmapperForQuestionAnswering
from .modeling import CLIPmapperModel, CLIPmapperOutput

__all__ = [
    "CLIPmapperConfig",
    "CLIPmapperForCaptioning",
    "CLIPmapperForQuestionAnswering",
    "CLIPmapperModel",
    "CLIPmapperOutput",
]

AutoConfig.register("clipmapper", CLIPmapperConfig, exist_ok=True)
AutoModel.register(CLIPmapperConfig, CLIPmapperModel, exist_ok=True)
AutoModelForVisualQuestionAnswering.register(
    CLIPmapperConfig, CLIPmapperForQuestionAnswering, exist_ok=True
)
AutoModelForImageTextToText.register(CLIPmapperConfig, CLIPmapperForCaptioning, exist_ok=True)
