"""Finds, for each data set, the smallest int8 perceptron that is as good as a KAN, for `kan bench device`.

    for set in thermocouple_k ntc_adc iris digits8x8 pendigits; do
        data=kan-train-host/data/$set
        kan train $data/train.csv --test $data/test.csv --out runs/$set --target …
    done
    python -m venv peers && peers/bin/pip install tensorflow==2.21.0 scikit-learn==1.9.1
    peers/bin/python tests/peers/train.py kan-train-host/data runs [SET …] > tests/peers/README.md

The targets: target twice, then label three times, with --optimizer lm, because networks of few edges are
meant. ik_2link (q1,q2) is trained alike; its network alone is kept, for the table of accuracy, and no
perceptron of int8 comes near. For each set it writes to the folder of its
name beside this script the network that `kan train` found, and the perceptron, which is named after its
nodes, as a `.tflite`; and it prints all that were tried.

The arithmetic is that of microflow 0.1.3, which runs the perceptron: int8 inputs, weights (with one scale
a layer) and outputs, ReLU. All else is in the perceptron's favour:
- L-BFGS to convergence from SEEDS starts with each of the penalties ALPHAS; the two that are best on
  the *test* rows are quantised, and the better of these counts.
- As good is an RMSE at most 5 % higher, or an accuracy at most half a point lower. Where no perceptron
  is, the smallest counts that is so near to the best of all.
"""

import csv
import json
import pathlib
import sys
import warnings

import numpy as np
import tensorflow as tf
from sklearn.neural_network import MLPClassifier, MLPRegressor

SETS = ["thermocouple_k", "ntc_adc", "iris", "digits8x8", "pendigits"]
# Hidden nodes by layer, and all from few parameters to many once inputs and outputs are known.
SHAPES = [(), (2,), (3,), (4,), (6,), (8,), (12,), (16,), (24,), (32,), (48,), (64,)]
SHAPES += [(4, 4), (6, 6), (8, 8), (12, 12), (16, 16), (24, 24), (32, 32)]
SEEDS = range(6)
ALPHAS = {"regression": [1e-7, 1e-4], "classification": [1e-3, 1e-1, 1.0]}


def read(path, targets):
    """Rows of inputs, and rows of targets as text; targets stand last."""
    with open(path, newline="") as file:
        rows = list(csv.reader(file))[1:]
    x = np.array([[float(cell) for cell in row[:-targets]] for row in rows])
    return x, [row[-targets:] for row in rows]


def fit(shape, task, x, y, alpha, seed):
    """Weights and biases of each layer, of inputs −1 … 1 and standardised targets or logits."""
    kind = MLPRegressor if task == "regression" else MLPClassifier
    steps = 4000 if task == "regression" else 500
    model = kind(hidden_layer_sizes=shape, solver="lbfgs", alpha=alpha, random_state=seed,
                 max_iter=steps, max_fun=2 * steps, tol=1e-9)
    model.fit(x, y)
    return list(zip(model.coefs_, model.intercepts_))


def convert(layers, rows):
    """The `.tflite` of int8, its ranges from the training rows."""
    module = tf.Module()
    module.layers = [(tf.Variable(w, dtype=tf.float32), tf.Variable(b, dtype=tf.float32))
                     for w, b in layers]

    @tf.function(input_signature=[tf.TensorSpec([1, layers[0][0].shape[0]], tf.float32)])
    def predict(x):
        for k, (w, b) in enumerate(module.layers):
            x = tf.matmul(x, w) + b
            if k + 1 < len(module.layers):
                x = tf.nn.relu(x)
        return x

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [predict.get_concrete_function()], module)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    # microflow has one scale for all weights of a layer.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    converter.representative_dataset = lambda: ([row[None].astype(np.float32)] for row in rows)
    return converter.convert()


def run(model, x):
    """Outputs of the int8 model, in their own unit."""
    interpreter = tf.lite.Interpreter(
        model_content=model,
        experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    [source], [sink] = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = source["quantization"]
    quantised = np.clip(np.round(x / scale + zero), -128, 127).astype(np.int8)
    outputs = []
    for row in quantised:
        interpreter.set_tensor(source["index"], row[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(sink["index"])[0].astype(float))
    scale, zero = sink["quantization"]
    return (np.array(outputs) - zero) * scale


def forward(layers, x):
    for k, (w, b) in enumerate(layers):
        x = x @ w + b
        if k + 1 < len(layers):
            x = np.maximum(x, 0)
    return x


def error(task, outputs, y, classes):
    """RMSE over all rows and targets, or the share of rows whose class is wrong."""
    if task == "regression":
        return float(np.sqrt(np.mean((outputs - y) ** 2)))
    if outputs.shape[1] == 1:
        guessed = (outputs[:, 0] > 0).astype(int)
    else:
        guessed = outputs.argmax(1)
    return float(np.mean(np.array(classes)[guessed] != y))


def peer(name, data, runs):
    metrics = json.loads((runs / name / "metrics.json").read_text())
    task, score = metrics["task"], metrics["blob"]["test"]
    targets = len(metrics["targets"]) if task == "regression" else 1
    (x, y), (x_test, y_test) = (read(data / name / part, targets)
                                for part in ["train.csv", "test.csv"])
    if task == "regression":
        kan = score["rmse"]
        y, y_test, classes = np.array(y, float), np.array(y_test, float), None
        mean, deviation = y.mean(0), y.std(0)
        learnt = (y - mean) / deviation
        learnt = learnt[:, 0] if targets == 1 else learnt
        as_good = lambda error, other: error <= 1.05 * other
    else:
        kan = 1 - score["accuracy"]
        y, y_test = np.array(y)[:, 0], np.array(y_test)[:, 0]
        classes, learnt = sorted(set(y)), y
        as_good = lambda error, other: error <= other + 0.005
    # The columns of each set have one unit, as they have one scale in int8.
    lo, hi = x.min(), x.max()
    unit = lambda x: (2 * x - lo - hi) / (hi - lo)
    outputs = targets if task == "regression" else len(classes)

    def parameters(shape):
        nodes = [x.shape[1], *shape, outputs]
        return sum((a + 1) * b for a, b in zip(nodes, nodes[1:]))

    print(f"\n## {name}\n\nThe KAN has {kan:.5g} on the test rows.\n")
    print("| hidden nodes | parameters | in floats | in int8 |\n|---|---|---|---|", flush=True)
    tried = []
    for shape in sorted(SHAPES, key=parameters):
        fits = []
        for alpha in ALPHAS[task]:
            for seed in SEEDS:
                layers = fit(shape, task, unit(x), learnt, alpha, seed)
                # Scales go into the first and the last layer: raw columns in, the target's unit out.
                w, b = layers[0]
                layers[0] = (2 / (hi - lo) * w, b - (lo + hi) / (hi - lo) * w.sum(0))
                if task == "regression":
                    w, b = layers[-1]
                    layers[-1] = (w * deviation, b * deviation + mean)
                of_floats = error(task, forward(layers, x_test), y_test, classes)
                fits.append((of_floats, len(fits), layers))
        best = None
        for of_floats, _, layers in sorted(fits)[:2]:
            model = convert(layers, x[:: max(1, len(x) // 1000)])
            of_int8 = error(task, run(model, x_test), y_test, classes)
            if best is None or of_int8 < best[1]:
                best = (of_floats, of_int8, model)
        tried.append((shape, *best))
        hidden = "-".join(map(str, shape)) or "none"
        print(f"| {hidden} | {parameters(shape)} | {best[0]:.5g} | {best[1]:.5g} |", flush=True)
        if as_good(best[1], kan):
            break
    else:
        least = min(of_int8 for _, _, of_int8, _ in tried)
        tried = [next(one for one in tried if as_good(one[2], least))]
    shape, _, of_int8, model = tried[-1]
    folder = pathlib.Path(__file__).parent / name
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.tflite"):
        old.unlink()
    nodes = "-".join(map(str, [x.shape[1], *shape, outputs]))
    (folder / f"{nodes}.tflite").write_bytes(model)
    network = json.loads((runs / name / "network.json").read_text())
    # It tells of this machine's files.
    del network["training"]
    (folder / "network.json").write_text(json.dumps(network, separators=(",", ":")) + "\n")
    verdict = "As good" if as_good(of_int8, kan) else "None is as good; taken"
    print(f"\n{verdict}: {nodes}, {of_int8:.5g}, {len(model)} bytes.", flush=True)


if __name__ == "__main__":
    # Of steps that were used up, and of the interpreter, which has moved to another package.
    warnings.simplefilter("ignore")
    data, runs, *names = sys.argv[1:]
    print("# KANs and perceptrons on the same rows\n")
    print("Made by `train.py`. Errors are root mean squares in the target's unit, or the share of wrong")
    print("classes, on the test rows.")
    for name in names or SETS:
        peer(name, pathlib.Path(data), pathlib.Path(runs))
