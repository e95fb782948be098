"""Vision transformers of torchvision."""

from torchvision.models import MaxVit, SwinTransformer, VisionTransformer
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from .registration import architecture
from .samples import pixels


@architecture("torchvision:vit", attentions=2, family="torchvision")
def vit():
    network = VisionTransformer(12, 4, 2, 2, 16, 32, num_classes=3)
    return network, {"x": pixels()}


@architecture("torchvision:swin", attentions=4, family="torchvision")
@architecture(
    "torchvision:swin_v2",
    attentions=4,
    family="torchvision",
    block=SwinTransformerBlockV2,
    downsample_layer=PatchMergingV2,
)
def swin(**changes):
    network = SwinTransformer([2, 2], 8, [2, 2], [2, 2], [2, 2], num_classes=3, **changes)
    return network, {"x": pixels(size=16)}


@architecture("torchvision:maxvit", attentions=2, family="torchvision", local=True)
def maxvit():
    network = MaxVit((32, 32), 8, 4, [16], [1], 8, 0.0, num_classes=3)
    return network, {"x": pixels(size=32)}
