"""The whole way at small scale: a lab's commands on clothes that play ImageNet."""
