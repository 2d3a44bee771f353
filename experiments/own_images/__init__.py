"""Own images, end to end: a first stage on a folder of pictures, then a second stage on its codes, each one command."""
