"""The methods written a second time, slowly and literally from their papers.

Nothing here touches the recorder or the rebuilt attention of the library: attention maps are the
softmaxes that an eager network really computed, their gradients come from autograd, and relevance
is carried as one full matrix over all input tokens. What is fast has to equal this.
"""
