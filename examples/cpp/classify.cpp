// A program of one's own around a compiled module: loads it, prepares a picture as the module's metadata say, and
// prints the likeliest classes. The TVM runtime is all that it needs; ofa_tvm/native/runner is compiled in.
//
//   classify MODEL.SO PICTURE [TOP_K]

#include <cstdio>
#include <cstdlib>
#include <exception>

#include "network.h"
#include "picture.h"
#include "preprocess.h"

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "usage: %s MODEL.SO PICTURE.jpg|.png|.ppm [TOP_K]\n", argv[0]);
    return 2;
  }
  const int top = argc > 3 ? std::atoi(argv[3]) : 5;
  try {
    const ofa_tvm::Network network(argv[1]);
    const ofa_tvm::Picture picture = ofa_tvm::DecodePicture(ofa_tvm::ReadFile(argv[2]));
    const auto logits = network(ofa_tvm::Prepare(picture, network.preprocessing()));
    for (const auto& found : ofa_tvm::Likeliest(logits, network.labels(), top > 0 ? top : 1)) {
      std::printf("%s\t%.6f\n", found.label.c_str(), found.probability);
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s: %s\n", argv[2], error.what());
    return 1;
  }
}
