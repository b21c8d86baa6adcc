"""The same work in plain PyTorch, written for the benchmark as the field's codes are.

One teacher and one episode after the other, NCHW, `torch.nn.functional`, no fusion by
hand.  Networks are functions of a dict of tensors with the released codes' names, so
that fast weights need no second network class.
"""
