"""Adapters of kinds that are not served, as the LoRA that does the same.

kinds     which kinds can be converted, and what `lorry push` asks for; imports no torch
float_base a base as it is served, every weight a plain number
delta     what an adapter changes in the weights, exactly, layer by layer
factors   the smallest pair of factors for a change, and what it loses
convert   the whole way, from folder to folder
cli       `lorry convert DIR OUT`
"""
