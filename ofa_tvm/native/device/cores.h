// Which of a device's cores a session runs on.
#pragma once

#include <ctype.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace {

// Numbers of a list such as "4-7" or "0,2"; none if it is something else.
std::vector<int> listed(const std::string& text) {
  std::vector<int> numbers;
  const char* at = text.c_str();
  while (isdigit(*at)) {
    char* end = nullptr;
    long first = strtol(at, &end, 10), last = first;
    if (*end == '-' && isdigit(end[1])) last = strtol(end + 1, &end, 10);
    if (first > last || last >= CPU_SETSIZE || (*end && (*end != ',' || !isdigit(end[1])))) return {};
    for (long number = first; number <= last; ++number) numbers.push_back(static_cast<int>(number));
    if (!*end) return numbers;
    at = end + 1;
  }
  return {};
}

// How fast a core is beside the others, as the kernel says; 0 if it does not.
long speed_of(int number, const std::string& system) {
  std::string cpu = system + "/sys/devices/system/cpu/cpu" + std::to_string(number);
  for (const char* name : {"/cpu_capacity", "/cpufreq/cpuinfo_max_freq"}) {
    std::ifstream file(cpu + name);
    long value = 0;
    if (file >> value) return value;
  }
  return 0;
}

// Cores by kind, the slowest kind first: one kind is one part number of Arm's or the vendor's, or where all have
// the same number, one speed. One kind where nothing tells them apart, as on x86.
std::vector<std::vector<int>> kinds_of_cores(const std::string& system) {
  std::ifstream info(system + "/proc/cpuinfo");
  std::map<int, std::string> parts;
  std::set<std::string> distinct;
  int number = -1;
  for (std::string line; std::getline(info, line);) {
    std::string value = line.substr(std::min(line.find(':') + 1, line.size()));
    if (line.rfind("processor", 0) == 0) number = atoi(value.c_str());
    if (line.rfind("CPU implementer", 0) == 0 || line.rfind("CPU part", 0) == 0) parts[number] += value;
  }
  for (const auto& part : parts) distinct.insert(part.second);
  std::map<std::string, std::vector<int>> kinds;
  std::map<std::string, long> speeds;
  for (const auto& part : parts) {
    long speed = speed_of(part.first, system);
    if (!speed) return {};
    std::string kind = distinct.size() > 1 ? part.second : std::to_string(speed);
    kinds[kind].push_back(part.first);
    speeds[kind] = std::max(speeds[kind], speed);
  }
  std::vector<std::string> order;
  for (const auto& kind : kinds) order.push_back(kind.first);
  std::sort(order.begin(), order.end(),
            [&](const std::string& a, const std::string& b) { return speeds[a] < speeds[b]; });
  std::vector<std::vector<int>> sorted;
  for (const auto& kind : order) sorted.push_back(kinds[kind]);
  return sorted;
}

// Keeps this process to some of its CPUs. A phone switches cores off while it sleeps: then any one will do.
void keep_to(const std::string& which, const std::string& system) {
  if (which == "all") return;
  std::vector<int> chosen = listed(which);
  if (chosen.empty()) {
    std::vector<std::vector<int>> kinds = kinds_of_cores(system);
    if (kinds.size() < 2) return;
    chosen = which == "little" ? kinds.front() : kinds.back();
  }
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  for (int number : chosen) CPU_SET(number, &cpus);
  if (sched_setaffinity(0, sizeof cpus, &cpus)) {
    fprintf(stderr, "cannot keep to the cores %s: %s; this session runs on any\n", which.c_str(), strerror(errno));
    return;
  }
  setenv("TVM_BIND_THREADS", "0", 1);  // TVM's pool would choose cores of its own
}

}  // namespace
