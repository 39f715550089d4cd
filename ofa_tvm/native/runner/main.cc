// The program that an artefact ships with (--with-runtime): pictures in, classes out. It needs the TVM runtime and
// nothing else: neither Python nor libraries of pictures.
#include <tvm/ffi/error.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../device/cores.h"
#include "../device/features.h"
#include "network.h"
#include "picture.h"

namespace {

constexpr char kUsage[] =
    "usage: classify MODEL.SO [-k CLASSES] [-n CALLS] [--cpus WHICH] [--json] PICTURE...\n\n"
    "Prints the likeliest classes of each picture and their probabilities. Pictures are JPEG, PNG or binary PPM\n"
    "files, or .npy files of float32 network input.\n\n"
    "  -k, --top-k N   classes to print (default 5)\n"
    "  -n N            times so many calls of the network a picture\n"
    "  --cpus WHICH    the cores to run on: big (the fastest kind), little, all, or numbers as 4-7 or 0,2\n"
    "  --json          one JSON object on standard output, all else on standard error\n";

struct Options {
  std::string model, cpus = "all";
  std::vector<std::string> files;
  size_t top = 5;
  int calls = 0;
  bool json = false;
};

struct Result {
  std::string file;
  std::vector<ofa_tvm::Class> classes;
  std::vector<double> taken_ms;
};

[[noreturn]] void BadUsage(const std::string& why) {
  std::fprintf(stderr, "error: %s\n%s", why.c_str(), kUsage);
  std::exit(2);
}

int Number(const std::string& name, const std::string& text) {
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (end == text.c_str() || *end != '\0' || value < 1 || value > 1000000) {
    BadUsage(name + " takes a whole number from 1 to 1000000, not " + text);
  }
  return static_cast<int>(value);
}

// Refuses a module whose code these cores cannot run: it would end by an illegal instruction.
void Require(const std::string& needed) {
  std::istringstream names(needed);
  const std::string own = " " + features() + " ";
  for (std::string name; names >> name;) {
    if (own.find(" " + name + " ") == std::string::npos) {
      throw std::runtime_error("the module uses " + name + ", which the cores here do not have; compile it for a "
                               "target of theirs");
    }
  }
}

Options Parse(int argc, char** argv) {
  Options options;
  std::vector<std::string> plain;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "-h" || name == "--help") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    }
    const bool takes_value = name == "-k" || name == "--top-k" || name == "-n" || name == "--cpus" ||
                             name == "--needs";
    if (takes_value && i + 1 == argc) BadUsage(name + " takes a value");
    if (name == "--json") {
      options.json = true;
    } else if (name == "--needs") {
      Require(argv[++i]);
    } else if (name == "--cpus") {
      options.cpus = argv[++i];
      const bool kind = options.cpus == "big" || options.cpus == "little" || options.cpus == "all";
      if (!kind && listed(options.cpus).empty()) {
        BadUsage("--cpus takes big, little, all or a list such as 4-7 or 0,2, not " + options.cpus);
      }
    } else if (name == "-n") {
      options.calls = Number(name, argv[++i]);
    } else if (takes_value) {
      options.top = static_cast<size_t>(Number(name, argv[++i]));
    } else if (name.size() > 1 && name[0] == '-') {
      BadUsage("there is no option " + name);
    } else {
      plain.push_back(name);
    }
  }
  if (plain.size() < 2) BadUsage("name the module and at least one picture");
  options.model = plain.front();
  options.files.assign(plain.begin() + 1, plain.end());
  return options;
}

bool EndsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// A nearest rank, as the times are few and whole calls.
double Percentile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const auto rank = static_cast<size_t>(std::ceil(q / 100 * static_cast<double>(values.size())));
  return values[std::max<size_t>(rank, 1) - 1];
}

// As JSON and its reader want text: other bytes stay, as labels are UTF-8.
std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char letter : text) {
    if (letter == '"' || letter == '\\') quoted += '\\';
    if (static_cast<unsigned char>(letter) >= 32) {
      quoted += letter;
      continue;
    }
    char escaped[8];
    std::snprintf(escaped, sizeof escaped, "\\u%04x", letter);
    quoted += escaped;
  }
  return quoted + '"';
}

std::vector<float> Input(const ofa_tvm::Network& network, const std::string& path) {
  const std::string file = ofa_tvm::ReadFile(path);
  if (EndsWith(path, ".npy")) return ofa_tvm::ReadNpy(file, network.shape());
  return ofa_tvm::Prepare(ofa_tvm::DecodePicture(file), network.preprocessing());
}

void Print(const Result& result, bool several, int threads) {
  if (several) std::printf("%s\n", result.file.c_str());
  for (const auto& found : result.classes) std::printf("%s\t%.6f\n", found.label.c_str(), found.probability);
  std::fflush(stdout);
  const auto& taken = result.taken_ms;
  if (taken.empty()) return;
  std::fprintf(stderr, "%zu calls on %d thread%s: median %.3f ms, p95 %.3f ms, fastest %.3f ms\n", taken.size(),
               threads, threads == 1 ? "" : "s", Percentile(taken, 50), Percentile(taken, 95), Percentile(taken, 0));
}

void PrintJson(const Options& options, const std::vector<Result>& results, size_t failed, int threads) {
  std::printf("{\"artefact\": %s, \"threads\": %d, \"failed\": %zu, \"predictions\": [",
              Quoted(options.model).c_str(), threads, failed);
  for (size_t i = 0; i < results.size(); ++i) {
    std::printf("%s{\"image\": %s, \"top\": [", i ? ", " : "", Quoted(results[i].file).c_str());
    for (size_t c = 0; c < results[i].classes.size(); ++c) {
      const auto& found = results[i].classes[c];
      std::printf("%s{\"label\": %s, \"index\": %zu, \"probability\": %.6f}", c ? ", " : "",
                  Quoted(found.label).c_str(), found.index, found.probability);
    }
    std::printf("]");
    const auto& taken = results[i].taken_ms;
    if (!taken.empty()) {
      std::printf(", \"calls\": %zu, \"median_ms\": %.6f, \"p95_ms\": %.6f, \"min_ms\": %.6f", taken.size(),
                  Percentile(taken, 50), Percentile(taken, 95), Percentile(taken, 0));
    }
    std::printf("}");
  }
  std::printf("]}\n");
}

int Run(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  keep_to(options.cpus, "");  // before any thread is started
  const ofa_tvm::Network network(options.model);
  std::vector<Result> results;
  size_t failed = 0;
  for (const std::string& path : options.files) {
    try {
      const std::vector<float> input = Input(network, path);
      Result result{path, ofa_tvm::Likeliest(network(input), network.labels(), options.top), {}};
      if (options.calls) result.taken_ms = network.Time(input, options.calls);
      if (!options.json) Print(result, options.files.size() > 1, network.threads());
      results.push_back(result);
    } catch (const std::bad_alloc&) {
      std::fprintf(stderr, "error: %s needs more memory than there is\n", path.c_str());
      ++failed;
    } catch (const tvm::ffi::Error& error) {
      std::fprintf(stderr, "error: %s: the network failed: %s\n", path.c_str(), error.message().c_str());
      ++failed;
    } catch (const std::runtime_error& error) {
      std::fprintf(stderr, "error: %s %s\n", path.c_str(), error.what());
      ++failed;
    }
  }
  if (options.json) PrintJson(options, results, failed, network.threads());
  return failed ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run(argc, argv);
  } catch (const tvm::ffi::Error& error) {
    std::fprintf(stderr, "error: the module cannot be used: %s\n", error.message().c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
  }
  return 1;
}
