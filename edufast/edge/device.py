"""Measure exported files on a device: python bench.py student.onnx student.int8.onnx > board.jsonl

Needs Linux, numpy, and onnxruntime for .onnx, executorch for .pte, or ai-edge-litert for .tflite. A
line of JSON for each file: milliseconds for an image on one thread, and the most bytes that the
process had, with the file and before it was loaded.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time

import numpy as np


def peak() -> int:  # not getrusage, which begins with the memory of whoever started this process
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def load_onnx(file: str) -> tuple:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(file, options, providers=providers)
    (image,) = session.get_inputs()
    is_bytes = image.type == "tensor(uint8)"
    return lambda images: session.run(None, {image.name: images}), image.shape[1:], is_bytes


def load_executorch(file: str) -> tuple:
    executorch.extension.pybindings.portable_lib._unsafe_reset_threadpool(1)
    program = executorch.runtime.Runtime.get().load_program(file)
    image = program.metadata("forward").input_tensor_meta(0)

    def run(images: np.ndarray) -> None:
        program.load_method("forward").execute([torch.from_numpy(images)])

    return run, image.sizes()[1:], image.dtype() == 0


def load_litert(file: str) -> tuple:
    program = ai_edge_litert.interpreter.Interpreter(file, num_threads=1)
    program.allocate_tensors()
    (image,), (logits,) = program.get_input_details(), program.get_output_details()

    def run(images: np.ndarray) -> None:
        program.set_tensor(image["index"], images)
        program.invoke()
        program.get_tensor(logits["index"])

    return run, image["shape"][1:], image["dtype"] is np.uint8


def timed(images: np.ndarray) -> float:
    started = time.perf_counter()
    run(images)
    return 1000 * (time.perf_counter() - started)


if len(sys.argv) < 2:
    sys.exit("expected exported files: python bench.py student.onnx > board.jsonl")
if len(sys.argv) > 2:  # each in a process of its own
    failed = False
    for file in sys.argv[1:]:
        code = subprocess.call([sys.executable, __file__, file])
        if code < 0:  # as where memory is short; then nothing was said
            print(f"{file}: ended by signal {-code}", file=sys.stderr)
        failed |= code != 0
    sys.exit(failed)
file = sys.argv[1]
messages = os.fdopen(os.dup(2), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what runtimes log, in C or in Python, is lost
try:
    if file.endswith(".pte"):
        import importlib.metadata  # here, since it takes memory

        import executorch.extension.pybindings.portable_lib
        import executorch.runtime
        import torch

        load, using = load_executorch, f"executorch {importlib.metadata.version('executorch')}"
    elif file.endswith(".tflite"):
        import ai_edge_litert.interpreter

        load, using = load_litert, f"LiteRT {ai_edge_litert.__version__}"
    else:
        # It would write to the home folder, in threads that disturb what is measured.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        load, using = load_onnx, f"onnxruntime {onnxruntime.__version__}"
    before = peak()
    started = time.perf_counter()
    run, shape, is_bytes = load(file)
    loading = 1000 * (time.perf_counter() - started)
    golden = os.path.join(os.path.dirname(file), "golden.npz")
    shown = np.random.default_rng(0).integers(0, 256, (8, *shape), np.uint8)
    shown = np.load(golden)["images"] if os.path.exists(golden) else shown
    shown = shown.astype(np.uint8 if is_bytes else np.float32)
    loading += timed(shown[:1])
    times = [timed(shown[i % len(shown)][None]) for i in range(50)]
except Exception as error:  # the runtimes' errors share no public base class
    print(f"{file}: {str(error).partition(chr(10))[0]}", file=messages)
    sys.exit(1)
with open(file, "rb") as content:
    sha256 = hashlib.sha256(content.read()).hexdigest()
row = {
    "file": os.path.basename(file),
    "sha256": sha256,
    "machine": platform.platform(),
    "runtime": using,
    "load_ms": loading,
    "median_ms": float(np.median(times)),
    "p95_ms": float(np.quantile(times, 0.95)),
    "peak_bytes": peak(),
    "runtime_bytes": before,
}
print(json.dumps(row))
