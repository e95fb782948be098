"""The table of the relevance family: z+ at products with weights, by value everywhere else."""

from __future__ import annotations

from relmap.backwards.operation_rules import gradient, products, sums

RULES = gradient.named(
    {
        sums.addition: "add sub",
        sums.shared_by_value: """
            sum mean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
            adaptive_avg_pool3d interpolate upsample boolean_dispatch""",
        gradient.ordinary: """
            max_pool1d max_pool2d max_pool3d _max_pool2d fn max_pool2d_with_indices
            adaptive_max_pool1d adaptive_max_pool2d amax amin max min maximum minimum embedding""",
        sums.unchanged: f"""
            {gradient.ACTIVATIONS} softmax _softmax layer_norm rms_norm group_norm instance_norm
            batch_norm normalize neg clamp clamp_min clamp_max nan_to_num dropout feature_dropout
            alpha_dropout dropout1d dropout2d dropout3d native_dropout""",
        sums.gate: gradient.GATES,
        sums.gated_half: "glu",
        sums.stop: gradient.SCALES,
        sums.with_statistics: "var_mean std_mean",
        sums.power: "pow",
        sums.accumulated: "index_add scatter_add scatter_reduce index_put scatter",
        products.linear: "linear",
        products.multiplied: "mul",
        products.quotient: "div",
        products.contraction: gradient.PRODUCTS.replace("mul ", "", 1),
        products.convolution: """
            conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d""",
        products.attention: "scaled_dot_product_attention",
    }
)
