"""Measure exported files on a device: python bench.py student.onnx student.int8.onnx > board.jsonl

Needs Linux, numpy and onnxruntime only. A line of JSON for each file: milliseconds for an image on
one thread, and the most bytes that the process had, with the file and before it was loaded.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time

import numpy as np
import onnxruntime as ort


def peak() -> int:  # not getrusage, which begins with the memory of whoever started this process
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def run(images: np.ndarray) -> float:
    started = time.perf_counter()
    session.run(None, {image.name: images})
    return 1000 * (time.perf_counter() - started)


if len(sys.argv) < 2:
    sys.exit("expected exported files: python bench.py student.onnx > board.jsonl")
if len(sys.argv) > 2:  # each in a process of its own
    sys.exit(max(subprocess.call([sys.executable, __file__, file]) for file in sys.argv[1:]))
file, runtime = sys.argv[1], peak()
options = ort.SessionOptions()
options.intra_op_num_threads = 1
try:
    started = time.perf_counter()
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    load = 1000 * (time.perf_counter() - started)
    (image,) = session.get_inputs()
    golden = os.path.join(os.path.dirname(file), "golden.npz")
    shown = np.random.default_rng(0).integers(0, 256, (8, *image.shape[1:]), np.uint8)
    shown = np.load(golden)["images"] if os.path.exists(golden) else shown
    shown = shown.astype(np.uint8 if image.type == "tensor(uint8)" else np.float32)
    load += run(shown[:1])
    times = [run(shown[i % len(shown)][None]) for i in range(50)]
except Exception as error:  # onnxruntime's errors share no public base class
    sys.exit(f"{file}: {str(error).partition(chr(10))[0]}")
with open(file, "rb") as content:
    sha256 = hashlib.sha256(content.read()).hexdigest()
row = {
    "file": os.path.basename(file),
    "sha256": sha256,
    "machine": platform.platform(),
    "onnxruntime": ort.__version__,
    "load_ms": load,
    "median_ms": float(np.median(times)),
    "p95_ms": float(np.quantile(times, 0.95)),
    "peak_bytes": peak(),
    "runtime_bytes": runtime,
}
print(json.dumps(row))
