"""A network trained by scikit-learn, as ONNX, as a graph: no GPU, no broker, no deep-learning framework.

Run it with ``pip install '.[onnx]' scikit-learn``, then ``python examples/digits.py``.
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import kaasq
import kaasq.importers.onnx

images, labels = load_digits(return_X_y=True)
train, test, train_labels, test_labels = train_test_split((images / 16).astype(np.float32), labels, random_state=0)
network = MLPClassifier((64, 32), max_iter=300, random_state=0).fit(train, train_labels)

# What torch.onnx.export or skl2onnx would write: a file with the layers and their weights.
nodes, weights, last = [], [], "images"
for i, (matrix, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
    weights += [
        numpy_helper.from_array(matrix.astype("f4"), f"w{i}"),
        numpy_helper.from_array(bias.astype("f4"), f"b{i}"),
    ]
    nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"sum{i}"]))
    nodes.append(helper.make_node("Softmax" if i == 2 else "Relu", [f"sum{i}"], [f"layer{i}"]))
    last = f"layer{i}"
file = helper.make_model(
    helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", 10])],
        weights,
    ),
    opset_imports=[helper.make_opsetid("", 18)],
)

model = kaasq.importers.onnx.load(file, batch=len(test))
print(model)
with kaasq.local(device="cpu") as client:  # or kaasq.Client("amqp://...") and a worker with a GPU
    stored = model.upload(client, "models/digits")
    result = client.run(model.graph, bind=stored, images=test)
    told = result[last].argmax(axis=1)
right = (told == test_labels).mean()
print(f"{right:.1%} of {len(test)} unseen digits told right in {result.timings.kernel / 1000:.1f} ms")
