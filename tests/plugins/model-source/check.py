"""What holds of the plug-in once it is installed."""

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch_encoder import Encoder

import relmap

torch.manual_seed(0)
network = Encoder(8, 2, 1, 2)
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "encoder.safetensors")
    about = {"width": 8, "heads": 2, "layers": 1, "labels": ["no", "yes"]}
    save_file(network.state_dict(), file, {"encoder": json.dumps(about)})
    model = relmap.load(f"torch-encoder:{file}")
    features = torch.randn(1, 4, 8)
    torch.testing.assert_close(model.network(features), network.eval()(features))
    result = relmap.explain(model, features=features, target="yes")
    assert result.target == ("yes (1)",), result.target
