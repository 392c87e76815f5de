"""LoRA beside a quantized base: factors in slots, added to each token's output by the slot of its adapter.

`slots` keeps what is resident, `rows` plans a step, `ops` does the arithmetic,
`layer` wraps the finished linear layers of a model. The model's code holds no adapter branch.
"""
