"""What holds of the plug-in once it is installed; nothing of it is imported by hand for relmap."""

import torch
from torch import nn

import relmap
from relmap.testing import check_backward, check_method, check_model


class Block(nn.Module):
    """Attention and a feed-forward branch; the activation is given."""

    def __init__(self, activate):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.widen, self.narrow, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)
        self.activate = activate

    def forward(self, x):
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.narrow(self.activate(self.widen(x)))
        return self.head(x[:, 0])


class StraightThrough(torch.autograd.Function):
    """The literal backward: the identity, whatever went forward."""

    @staticmethod
    def forward(context, x):
        return (x + (x * x + 4).sqrt()) / 2

    @staticmethod
    def backward(context, gradient):
        return gradient


def by_hand(x):
    return (x + (x * x + 4).sqrt()) / 2


features = torch.randn(2, 5, 8, dtype=torch.float64)
own = Block(lambda x: torch.ops.smooth.squareplus(x)).double().eval()
plain = Block(by_hand).double().eval()
literal = Block(StraightThrough.apply).double().eval()

relmap.explain(own, x=features, target=1, method="random")  # finds what is installed
for method in ("genatt", "wra", "rollout", "input-x-gradient", "gradient-magnitude"):
    results = [relmap.explain(net, x=features, target=1, method=method) for net in (own, plain)]
    torch.testing.assert_close(results[0].scores["x"], results[1].scores["x"])

entering = features.clone().requires_grad_()
literal(entering)[:, 1].sum().backward()
found = relmap.explain(
    own, x=features, target=1, method="gradient-magnitude", backward="straight-through"
)
torch.testing.assert_close(found.scores["x"], entering.grad.abs().sum(-1))

relevance = relmap.explain(own, x=features, target=1, method="genatt", backward="lrp")
assert relevance.scores["x"].isfinite().all()
check_method("gradient-magnitude")
check_backward("straight-through")
check_model(own, x=features, target=1)
