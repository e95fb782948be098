"""Mathematics on the token graph: what an accumulation rule is made of. Torch alone.

`attention_maps` rebuilds A and its gradient in tiles, `rows` pushes a row of relevance down the
graph, `maps` carries whole maps up it. `traced_pass` is what a method gets: the graph with all that
was found out for one target; `gradients` finds it out.
"""
