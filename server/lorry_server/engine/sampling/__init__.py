"""From logits to a token, request by request: `adjust` what the model says, `draw` from it, and say what it said."""
