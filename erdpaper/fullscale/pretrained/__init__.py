"""Pretrained models by path or hub name: Stable Diffusion, CIFAR-10, autoencoders, CLIP as judge.

Weights are read from safetensors only, and configurations from JSON: nothing that is loaded can run
code. Times, targets and labels are turned into the checkpoint's own at the edge, so that samplers,
hooks and guidance are those of every other model. States stay where they are, on the CPU unless
moved; a network works on the accelerator if there is one, a part of the batch at a time.
"""
