"""Classify pictures with an exported student: python predict.py student.onnx a.jpg b.jpg

Needs only numpy, Pillow and onnxruntime. Prepares pictures exactly as validation did.
"""

import json
import os
import sys

import numpy as np
from PIL import Image, ImageOps

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would write to the home folder
import onnxruntime

model, *pictures = sys.argv[1:] or [""]
if not model.endswith(".onnx"):
    sys.exit(f"expected an .onnx file and pictures, not {model!r}")
session = onnxruntime.InferenceSession(model)
metadata = session.get_modelmeta().custom_metadata_map
classes, rule = json.loads(metadata["classes"]), json.loads(metadata["preprocessing"])["resize"]
cover, crop = np.array(rule["cover"]), np.array(rule["crop"])  # height, width
for picture in pictures:
    image = Image.open(picture)
    for other in ("xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        image.info.pop(other, None)  # only EXIF data turned pictures in training
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # grey of more than 8 bits
        grey = np.asarray(image) / (1 if image.mode == "F" else 65535)
        image = Image.fromarray((np.clip(grey, 0, 1) * 255).round().astype(np.uint8))
    image = image.convert("RGB")
    size = np.array([image.height, image.width])
    scale = max(cover / size)
    odd, part = (np.rint(size * scale) - crop) % 2, crop / scale
    top, left = start = np.maximum(np.minimum((size - part + odd / scale) / 2, size - part), 0)
    bottom, right = np.minimum(start + part, size)
    image = image.resize(tuple(crop[::-1]), Image.Resampling.BILINEAR, (left, top, right, bottom))
    ((logits,),) = session.run(["logits"], {"image": np.asarray(image)[None]})
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    best = probabilities.argmax()
    print(f"{picture}: {classes[best]} {probabilities[best]:.1%}")
