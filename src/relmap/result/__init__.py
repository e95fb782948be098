"""What comes out: scores with the layout of their tokens. Knows no drawing.

`layout` says where tokens sit, `token_text` how they read, `attribution` is the result of
`explain`, `interaction` that of `interaction`, `point_prompts` turns a map into points for a
segmentation model.
"""
