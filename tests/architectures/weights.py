"""Weights with which a tiny random model behaves like a trained one.

Fresh weights make every attention nearly uniform and every gradient nearly zero, so that a wrong
explanation looks right. Here each layer keeps the size of what flows through it, attentions are
sharp, no bias is zero and no gate is closed.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

GAIN = 1.5
TOKENS = 0.5
JITTER = 0.1


@torch.no_grad()
def enlarge(network: nn.Module) -> None:
    """Redraw every floating parameter of the network in place from torch's global generator."""
    embeddings, conv1d = set(), set()
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Embedding):
            embeddings.add(id(weight))
        elif isinstance(module, Conv1D):
            conv1d.add(id(weight))
    for parameter in network.parameters():
        if not parameter.is_floating_point():
            continue
        if id(parameter) in embeddings:
            parameter.normal_(0.0, TOKENS)
        elif parameter.dim() < 2 or parameter.numel() == 1:
            _redraw_vector(parameter)
        else:
            _redraw_matrix(parameter, transposed=id(parameter) in conv1d)


@torch.no_grad()
def calibrate(network: nn.Module, inputs: dict[str, Any]) -> None:
    """Give batch normalisations the statistics of the inputs, without which signals die out."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    if not norms:
        return
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    network(**inputs)
    for norm in norms:
        norm.eval()


def _redraw_vector(parameter: torch.Tensor) -> None:
    """Biases become noise, scales stay near what they were, closed gates and tiny scales open."""
    if parameter.numel() == 1:
        parameter.copy_(torch.where(parameter.abs() < 1e-3, 0.5, parameter))
        return
    start = parameter.clone()
    scale = start.std() < 1e-8 and start.abs().mean() > 1e-8
    centre = start.clamp(min=0.5) if scale else torch.zeros_like(start)
    parameter.copy_(centre + JITTER * torch.randn_like(start))


def _redraw_matrix(parameter: torch.Tensor, *, transposed: bool) -> None:
    """Matrices and kernels keep the variance; token and position tables get the size of tokens."""
    if parameter.shape[0] == 1 or parameter[0].numel() == 1:
        parameter.normal_(0.0, TOKENS)
        return
    incoming = parameter.shape[0] if transposed else parameter[0].numel()
    if not transposed and parameter.dim() == 3 and parameter.shape[-1] > 3:
        incoming = parameter.shape[-1]  # one matrix per expert
    parameter.normal_(0.0, GAIN / math.sqrt(incoming))
