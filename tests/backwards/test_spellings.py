"""A backward goes by what a function computes, not by how it is spelled."""

import pytest
from tiny.spelled import check_backward
from tiny.spellings import (
    ADDITIONS,
    ATTENTION,
    CONVOLUTIONS,
    GATES,
    PRODUCTS,
    REDUCTIONS,
    WRITES,
)

# Of each table the rows whose rules read arguments.
READ = {
    "add": ADDITIONS["add"],
    "sub": ADDITIONS["sub"],
    "a constant": ADDITIONS["a constant"],
    "relu": GATES["relu"],
    "div": GATES["div"],
    "pow": GATES["pow"],
    "linear": PRODUCTS["linear"][:3],
    "matmul": PRODUCTS["matmul"][:7],
    "layer_norm": REDUCTIONS["layer_norm"],
    "rms_norm": REDUCTIONS["rms_norm"],
    "normalize": REDUCTIONS["normalize"][:3],
    "softmax": REDUCTIONS["softmax"],
    "mean": REDUCTIONS["mean"],
    "glu": REDUCTIONS["glu"],
    "index_add": WRITES["index_add"][:3],
    "fused": ATTENTION["fused"][1:],
    "causal": ATTENTION["causal"][1:],
    "one place": CONVOLUTIONS["one place"],
    "running statistics": CONVOLUTIONS["running statistics"],
}


@pytest.mark.parametrize("backward", ["attnlrp", "lrp"])
@pytest.mark.parametrize("name", READ)
def test_every_spelling_passes_the_same_back(name, backward):
    check_backward(READ[name], backward)


@pytest.mark.parametrize("name", ["softmax", "fused", "causal"])
def test_every_softmax_passes_the_same_back_at_another_temperature(name):
    check_backward(READ[name], "gim")
