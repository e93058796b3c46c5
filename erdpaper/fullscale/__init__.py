"""Full scale, ImageNet to Stable Diffusion: from images on disk to a table of FIDs.

Each step is a room, and hands files to the next:

- `data`: images on disk, in every form that a command reads or writes;
- `encoding`: `erdpaper encode`, images into what training streams;
- `presets` and `train`, `plan` and `costs`: what can be trained, and what that would cost;
- `sampling`: `erdpaper sample`, images of a trained network;
- `evaluation`: `erdpaper evaluate` and `erdpaper pack`, how far samples are from a reference;
- `pretrained`: networks of others, by path or hub name;
- `tables`: the paper's tables as printed; `table5` and `lab` hold presets and runs against them;
- `throughput` and `speeds`: `erdpaper throughput`, what a device was measured to do;
- `rehearsals`: all commands at small scale, as chapter 8 runs them.
"""
