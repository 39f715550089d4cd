// For tests: what the runner makes of picture files, without a network. For each argument after SIDE,
// INTERPOLATION and CROP it writes two lines: "ok WIDTH HEIGHT" and the square's pixels in hex, or "no" and why.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>

#include "picture.h"
#include "preprocess.h"

int main(int argc, char** argv) {
  ofa_tvm::Preprocessing how;
  how.resolution = std::atoi(argv[1]);
  how.interpolation = argv[2];
  how.crop = std::atof(argv[3]);
  for (int i = 4; i < argc; ++i) {
    std::ifstream stream(argv[i], std::ios::binary);
    const std::string file{std::istreambuf_iterator<char>(stream), {}};
    try {
      const ofa_tvm::Picture picture = ofa_tvm::DecodePicture(file);
      std::printf("ok %d %d\n", picture.width, picture.height);
      for (const auto byte : ofa_tvm::Resize(picture, how)) std::printf("%02x", byte);
      std::printf("\n");
    } catch (const std::exception& error) {
      std::printf("no\n%s\n", error.what());
    }
  }
}
