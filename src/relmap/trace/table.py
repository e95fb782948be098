"""The table of rules: what every torch function does to tokens.

Names stand for a function, its method, its operator and its in-place form alike. A rule gets the
call and answers with the tag of the result. A function that is neither in the table nor registered
(see `operations.registered`) loses the tokens: a map that might be wrong is not drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relmap.trace.calls import Call
from relmap.trace.operations import (
    additions,
    attention,
    concatenation,
    convolutions,
    gates,
    movement,
    multi_head,
    products,
    reductions,
    sums,
    writes,
)
from relmap.trace.operations.registered import OPERATIONS

TokenRule = Callable[[Call], Any]


def drop(call: Call) -> None:
    """Results that say nothing about tokens: positions, counts, comparisons, fresh tensors."""


_TABLE: dict[TokenRule, str] = {
    # the same value
    movement.same: """
        to type type_as float half double bfloat16 long int contiguous clone detach cpu cuda
        requires_grad retain_grad get_data get_real alias positive
        _to_copy pin_memory""",
    # data movement
    movement.view: "view",
    movement.reshape: "reshape view_as reshape_as flatten unflatten ravel",
    movement.expand: "expand expand_as broadcast_to",
    movement.axes: """
        permute transpose t movedim unsqueeze squeeze get_T get_mT get_H get_mH adjoint
        chunk split split_with_sizes tensor_split unbind select narrow diagonal hsplit vsplit
        dsplit atleast_2d atleast_3d""",
    movement.copying: """
        repeat tile repeat_interleave gather index_select take_along_dim take masked_select
        rot90""",
    movement.rolled: "roll flip",
    movement.index: "__getitem__",
    movement.pad: "pad",
    movement.as_doubles: "pixel_shuffle pixel_unshuffle channel_shuffle unfold tril triu",
    movement.identity_shape: "as_strided",
    movement.as_complex: "view_as_complex view_as_real",
    movement.selected: "topk sort",
    # element by element
    additions.add: "add sub",
    sums.interpolate: "lerp",
    sums.add_product: "addcmul addcdiv",
    gates.pointwise: """
        mul div neg pow sqrt rsqrt exp exp2 log log1p log2 abs square sigmoid tanh relu relu6 gelu
        silu mish elu celu selu leaky_relu prelu hardswish hardsigmoid hardtanh softplus softsign
        logsigmoid log_sigmoid threshold erf sin cos tan atan clamp clamp_min clamp_max sign
        round floor ceil maximum minimum fmod remainder nan_to_num dropout feature_dropout
        alpha_dropout dropout1d dropout2d dropout3d reciprocal floor_divide xlogy expm1
        softshrink hardshrink
        rrelu sinc quantize_per_tensor fake_quantize_per_tensor_affine
        native_dropout special_expit atan2 logaddexp logit special_logit""",
    # written into one another
    concatenation.cat: "cat hstack vstack",
    concatenation.stack: "stack",
    writes.masked_fill: "masked_fill",
    writes.where: "where",
    writes.written: """
        __setitem__ masked_scatter index_put scatter index_copy index_add scatter_add
        slice_scatter select_scatter index_fill scatter_reduce""",
    writes.written_view: "copy",
    # products
    products.contract: """
        linear matmul mm bmm mv dot rmatmul einsum addmm baddbmm addbmm addmv _grouped_mm inner""",
    # reductions and norms
    reductions.reduce: """
        sum mean amax amin max min std var norm linalg_norm vector_norm linalg_vector_norm
        logsumexp nansum nanmean prod std_mean var_mean""",
    reductions.normalise: "layer_norm rms_norm",
    reductions.normalise_axis: "normalize log_softmax glu",
    reductions.softmax: "softmax _softmax",
    reductions.group_norm: "group_norm instance_norm",
    reductions.embedding: "embedding",
    reductions.loss: """
        cross_entropy nll_loss mse_loss l1_loss smooth_l1_loss kl_div huber_loss
        binary_cross_entropy binary_cross_entropy_with_logits""",
    # windows
    convolutions.convolve: """
        conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d""",
    convolutions.pool: """
        max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d boolean_dispatch
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _max_pool2d fn
        adaptive_max_pool1d adaptive_max_pool2d lp_pool2d max_pool2d_with_indices""",
    convolutions.resize: "interpolate upsample",
    convolutions.keep: "batch_norm",
    # nothing to do with tokens
    drop: """
        eq ne lt le gt ge isnan isinf isfinite isin any all logical_and logical_or logical_not
        logical_xor and or xor invert bool zeros_like ones_like empty_like full_like rand_like
        randn_like randint_like new_zeros new_ones new_empty new_full new_tensor argmax argmin
        argsort nonzero numel bincount histc unique one_hot get_grad get_shape bernoulli
        count_nonzero allclose equal tolist searchsorted bucketize get_dtype get_device fill zero
        multinomial normal uniform get_requires_grad get_grad_fn get_is_leaf get__base""",
}

RULES: dict[str, TokenRule] = {
    name: rule for rule, names in _TABLE.items() for name in names.split()
}

# Functions that hide their attention from a mode, and what runs instead of them.
REPLACED: dict[str, TokenRule] = {
    "scaled_dot_product_attention": attention.scaled_dot_product_attention,
    "multi_head_attention_forward": multi_head.multi_head_attention_forward,
    "__iter__": movement.iterate,
}

OPERATIONS.reserve("tokens", RULES.keys() | REPLACED.keys())


def find_rule(call: Call) -> TokenRule | None:
    """The rule for a call; an operation that was registered as another one is called like that."""
    rule = RULES.get(call.name)
    if rule is not None:
        return rule
    entry = OPERATIONS.find(call.name)
    registered = None if entry is None else entry.tokens
    if not isinstance(registered, str):
        return registered
    call.name = registered
    return RULES.get(call.name)
