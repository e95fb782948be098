"""CLIPmapper: the vision-language model of Weighted Relevance Accumulation, and all it needs.

`model` holds the networks as Hugging Face classes, `training` trains them, `scenes` is the
synthetic world they are trained on, `weights` what came of it. To relmap this is a plug-in like any
other: a model source (`demo`), data formats (`scenes`, `easy-vqa`, `vqa-v2`) and commands (`demo`,
`train`, `score`, `scenes`).
"""
