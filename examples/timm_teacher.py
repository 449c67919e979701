"""A trained timm model teaches a small student on your own pictures, with progressive resizing.

    pip install 'edufast[train,export,timm]'
    python timm_teacher.py PICTURES resnet18 resnet18.safetensors

PICTURES has the folders train/CLASS and val/CLASS.
"""

import sys

import timm
from torchvision.datasets import ImageFolder

import edufast

pictures, name, weights = sys.argv[1:]
data = edufast.DataSet.from_torch(
    ImageFolder(f"{pictures}/train"), ImageFolder(f"{pictures}/val"), image_size=64
)
classes = range(len(data.classes))

network = timm.create_model(name, num_classes=len(classes), checkpoint_path=weights)
teacher = edufast.Teacher.pretrained(network, classes)  # at its own image size

small = edufast.create_model("resnet20", len(classes))
student = edufast.Student(small, grades=1, input_size=(3, 64, 64))
curriculum = edufast.Curriculum.photographs([classes], epochs=22, image_size=64, full_teacher=0)
training = edufast.Training(batch_size=64, lr=0.1)
school = edufast.School(student, edufast.Faculty([teacher]), curriculum, data, training=training)
graduate = school.fit()

report = edufast.export(
    graduate,
    "student.onnx",
    input_size=(3, 64, 64),
    classes=data.classes,
    mean=data.mean,
    std=data.std,
    samples=data.val.images,
    labels=data.val.labels,
)
print(f"student.onnx: {report.bytes / 1e6:.2f} MB, accuracy {report.parity.accuracy_exported:.1%}")
