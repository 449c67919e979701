// What a student exported for ExecuTorch says of a picture, without Python:
//
//   predict student.int8.pte picture.raw
//
// picture.raw has the bytes that the program takes, height x width x 3, RGB, cropped and resized by
// the rule in the bundle's contract.json.

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

using executorch::aten::ScalarType;
using executorch::extension::from_blob;
using executorch::extension::Module;

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "expected: predict student.pte picture.raw\n");
    return 2;
  }
  Module student(arguments[1]);
  const auto meta = student.method_meta("forward");
  if (!meta.ok()) {
    std::fprintf(stderr, "%s is no program for ExecuTorch\n", arguments[1]);
    return 1;
  }
  const auto input = meta->input_tensor_meta(0);
  if (!input.ok() || input->scalar_type() != ScalarType::Byte) {
    std::fprintf(stderr, "%s takes no bytes\n", arguments[1]);
    return 1;
  }

  std::ifstream file(arguments[2], std::ios::binary);
  std::vector<char> picture(std::istreambuf_iterator<char>(file), {});
  if (picture.size() != input->nbytes()) {
    std::fprintf(stderr, "%s has %zu bytes; expected %zu\n", arguments[2], picture.size(),
                 input->nbytes());
    return 1;
  }
  const auto sizes = input->sizes();
  const auto image = from_blob(picture.data(), {sizes.begin(), sizes.end()}, ScalarType::Byte);

  const auto answers = student.forward(image);
  if (!answers.ok()) {
    std::fprintf(stderr, "%s cannot be run\n", arguments[1]);
    return 1;
  }
  const auto logits = answers->at(0).toTensor();
  for (ssize_t i = 0; i < logits.numel(); ++i)
    std::printf("%.9g\n", logits.const_data_ptr<float>()[i]);
  return 0;
}
