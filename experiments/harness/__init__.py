"""What every run needs and no science: files, checkpoints, the loop, the devices."""
