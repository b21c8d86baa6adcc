"""How convolution and pooling are computed where there is no accelerator."""
