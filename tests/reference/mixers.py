"""Tiny networks that mix tokens by something else than softmax attention, one kind each."""

import torch
from torch import nn

TOKENS, WIDTH = 6, 4


class Averaging(nn.Module):
    """The mean of all tokens so far, by a triangular matrix."""

    def forward(self, x):
        lower = torch.ones(x.shape[1], x.shape[1], dtype=x.dtype).tril()
        return (lower / lower.sum(-1, keepdim=True)) @ x


class Synthesising(nn.Module):
    """A learned matrix over the tokens, the same for every input."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(TOKENS, TOKENS))

    def forward(self, x):
        return torch.einsum("ij,bjc->bic", self.matrix, x)


class Perceptron(nn.Module):
    """A perceptron over the tokens, as in MLP-Mixer."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(TOKENS, 9), nn.Linear(9, TOKENS)

    def forward(self, x):
        return self.outer(self.inner(x.transpose(1, 2)).tanh()).transpose(1, 2)


class Recurrence(nn.Module):
    """A loop over time with a gate that depends on the token."""

    def __init__(self):
        super().__init__()
        self.gate, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        gate, value = self.gate(x).sigmoid(), self.value(x)
        state, found = torch.zeros_like(x[:, 0]), []
        for step in range(x.shape[1]):
            state = gate[:, step] * state + value[:, step]
            found.append(state.tanh())
        return torch.stack(found, 1)


class Summing(nn.Module):
    """Linear attention: keys times values, summed over the tokens so far."""

    def __init__(self):
        super().__init__()
        self.read = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x):
        q, k, v = self.read(x).chunk(3, -1)
        return torch.einsum("btd,btde->bte", q, (k[..., None] * v[..., None, :]).cumsum(1))


class Fourier(nn.Module):
    """The real part of a Fourier transform over tokens and features."""

    def forward(self, x):
        return torch.fft.fft2(x).real


class Permuting(nn.Module):
    """Tokens sorted by their first feature, by a matrix of zeros and ones."""

    def forward(self, x):
        order = x[..., 0].argsort(1)
        return nn.functional.one_hot(order, x.shape[1]).to(x.dtype) @ x


class Cell(nn.Module):
    """A recurrent layer of torch, behind a projection of its own."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.LSTM(WIDTH, 5, batch_first=True), nn.Linear(5, WIDTH)

    def forward(self, x):
        return self.out(self.cell(x)[0])


KINDS = {
    "average": Averaging,
    "cell": Cell,
    "fourier": Fourier,
    "perceptron": Perceptron,
    "permutation": Permuting,
    "recurrence": Recurrence,
    "sum": Summing,
    "synthesiser": Synthesising,
}


class Attending(nn.Module):
    """Attention of one head with frozen scores; `hidden` keeps its map from being recognised."""

    def __init__(self, hidden=False):
        super().__init__()
        self.read, self.hidden = nn.Linear(WIDTH, 3 * WIDTH, bias=False), hidden

    def map(self, x):
        q, k, _ = self.read(x).chunk(3, -1)
        return (q @ k.mT / WIDTH**0.5).softmax(-1).detach()

    def forward(self, x):
        weights = self.map(x)
        if self.hidden:
            weights = torch.diff(weights.cumsum(-1), prepend=torch.zeros_like(weights[..., :1]))
        return weights @ self.read(x).chunk(3, -1)[2]


class Hybrid(nn.Module):
    """Words, a mixer and a softmax attention with their residuals, and the last word read."""

    def __init__(self, mixer, attention=None):
        super().__init__()
        self.words = nn.Embedding(20, WIDTH)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mixer, self.attention = mixer, attention or Attending()
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, input_ids):
        x = self.words(input_ids)
        x = x + self.mixer(self.first(x))
        x = x + self.attention(self.second(x))
        return self.head(x[:, -1])


def hybrid(kind, seed=0):
    """A hybrid in float64 with its words."""
    torch.manual_seed(seed)
    network = Hybrid(KINDS[kind]()).double().eval()
    return network, torch.stack([torch.randperm(20)[:TOKENS] for _ in range(3)])
