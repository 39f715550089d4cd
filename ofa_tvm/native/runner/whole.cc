#include "whole.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>

#include "network.h"

namespace ofa_tvm {
namespace {

constexpr std::size_t kBlock = 64, kDigest = 32;
const std::string kMark = "ofa-tvm\x01";

// SHA-256 (FIPS 180-4); its constants are the first bits of the fractions of the primes' square and cube roots.
constexpr std::array<uint32_t, 8> kStart{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
constexpr std::array<uint32_t, 64> kRounds{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t Turned(uint32_t value, int by) { return value >> by | value << (32 - by); }

void Mix(const unsigned char* block, std::array<uint32_t, 8>* state) {
  std::array<uint32_t, 64> words;
  for (std::size_t i = 0; i < 64; ++i) {
    if (i < 16) {
      const unsigned char* at = block + 4 * i;
      words[i] = uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | at[3];
      continue;
    }
    const uint32_t a = words[i - 15], b = words[i - 2];
    words[i] = words[i - 16] + (Turned(a, 7) ^ Turned(a, 18) ^ a >> 3) + words[i - 7] +
               (Turned(b, 17) ^ Turned(b, 19) ^ b >> 10);
  }
  auto [a, b, c, d, e, f, g, h] = *state;
  for (std::size_t i = 0; i < 64; ++i) {
    const uint32_t first = h + (Turned(e, 6) ^ Turned(e, 11) ^ Turned(e, 25)) + ((e & f) ^ (~e & g)) + kRounds[i] +
                           words[i];
    const uint32_t second = (Turned(a, 2) ^ Turned(a, 13) ^ Turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
  }
  const std::array<uint32_t, 8> more{a, b, c, d, e, f, g, h};
  for (std::size_t i = 0; i < 8; ++i) (*state)[i] += more[i];
}

std::string Sha256(const char* text, std::size_t size) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text);
  std::array<uint32_t, 8> state = kStart;
  const std::size_t whole = size / kBlock * kBlock;
  for (std::size_t at = 0; at < whole; at += kBlock) Mix(bytes + at, &state);
  std::string rest(text + whole, size - whole);
  rest += '\x80';
  while (rest.size() % kBlock != kBlock - 8) rest += '\0';
  for (int shift = 56; shift >= 0; shift -= 8) rest += static_cast<char>(uint64_t{size} * 8 >> shift);
  for (std::size_t at = 0; at < rest.size(); at += kBlock) {
    Mix(reinterpret_cast<const unsigned char*>(rest.data()) + at, &state);
  }
  std::string digest;
  for (const uint32_t word : state) {
    for (int shift = 24; shift >= 0; shift -= 8) digest += static_cast<char>(word >> shift);
  }
  return digest;
}

}  // namespace

void RequireWhole(const std::string& path) {
  std::string file;
  try {
    file = ReadFile(path);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error("the module " + path + " " + error.what());
  }
  const std::string why = "the module cannot be used: " + path;
  const std::size_t end = kMark.size() + kDigest;
  if (file.size() < end || file.compare(file.size() - end, kMark.size(), kMark) != 0) {
    throw std::runtime_error(why + " is cut short, or ofa-tvm did not compile it; copy it again");
  }
  const std::size_t body = file.size() - kDigest;
  if (file.compare(body, kDigest, Sha256(file.data(), body)) != 0) {
    throw std::runtime_error(why + " is damaged: it differs from the checksum that it carries; copy it again");
  }
}

}  // namespace ofa_tvm
