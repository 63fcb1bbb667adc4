"""Finds the two tones in a signal, through a worker in this process: pip install . && python run.py."""

import numpy as np

import kaasq

N = 4096
TONES = (440, 1000)

graph = kaasq.Graph("tones")
x = graph.input("x", shape=(N,), dtype="float32")
power = graph.output("power", shape=(N // 2 + 1,), dtype="float32")
graph.call("spectrum.power", x, power, window="hann")

time = np.arange(N) / N
signal = sum(np.sin(2 * np.pi * tone * time) for tone in TONES).astype(np.float32)

with kaasq.local() as client:
    result = client.run(graph, x=signal, timeout=60)
peaks = np.sort(np.argsort(result["power"])[-2:])
print("tones at", *peaks)
