// A device's end of TVM's RPC: offers itself to a tracker, or waits for clients, and serves one session at a
// time, each in a child process with a folder of its own. It needs the TVM runtime and nothing else; with a GPU's
// runtime among its libraries, a session has that kind of device, too.
//
// TVM's RPC runs whatever it is sent, so the server listens on the loopback address unless told otherwise.
//
// With OFA_TVM_COUNTER naming a file that an emulator's plugin counts instructions into, TVM's timers count
// guest instructions: one instruction reads as one nanosecond.
#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <list>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

// The wheel's tensor.h includes a header that the wheel does not have; nothing of tensor.h is needed here.
#define TVM_RUNTIME_TENSOR_H_
namespace tvm {
namespace runtime {}
}  // namespace tvm
#include <tvm/runtime/timer.h>

#include "cores.h"
#include "features.h"

namespace {

namespace ffi = tvm::ffi;

constexpr int32_t kMagic = 0xFF271, kMismatch = kMagic + 2, kTrackerMagic = 0x2F271;
constexpr int kPut = 3, kUpdateInfo = 5, kPendingKeys = 7;
constexpr int kPingMs = 2000, kUnclaimedPings = 3;
constexpr size_t kLongestKey = 4096;
constexpr int kGreetingMs = 5000, kTrackerMs = 10000;
constexpr size_t kMostClients = 256;  // at once, of which at most one gets the device
constexpr char kSessionFolder[] = "ofa-tvm-session-";

volatile const uint64_t* counter = nullptr;

class InstructionTimer : public tvm::runtime::TimerNode {
 public:
  void Start() final { start_ = *counter; }
  void Stop() final { count_ = *counter - start_; }
  int64_t SyncAndGetElapsedNanos() final { return static_cast<int64_t>(count_); }
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("ofa_tvm.InstructionTimer", InstructionTimer,
                                    tvm::runtime::TimerNode);

 private:
  uint64_t start_ = 0, count_ = 0;
};

struct Lost : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string host = "127.0.0.1", advertise, tracker_host, key = "device", folder = "/tmp";
  std::string cpus = "big", system;
  int port = 9090, port_end = 9190, tracker_port = 0;
  bool with_parent = false;
};

// When something has to be done by: what takes several steps is limited as a whole.
class Deadline {
 public:
  explicit Deadline(int ms) : end_(Clock::now() + std::chrono::milliseconds(ms)) {}

  int left_ms() const {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end_ - Clock::now()).count();
    return left > 0 ? static_cast<int>(left) : 0;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point end_;
};

volatile sig_atomic_t ended_by = 0;  // the signal that this process shall end by

struct Ended {};

void await(int fd, short events, const Deadline& deadline) {
  while (true) {
    if (ended_by) throw Ended();
    pollfd waiting{fd, events, 0};
    int ready = poll(&waiting, 1, deadline.left_ms());
    if (ready > 0) return;
    if (ready < 0 && errno == EINTR) continue;
    throw Lost("no answer");
  }
}

void send_all(int fd, const void* data, size_t size, const Deadline& deadline) {
  auto* bytes = static_cast<const char*>(data);
  while (size) {
    await(fd, POLLOUT, deadline);
    ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (sent <= 0) throw Lost("the connection broke");
    bytes += sent;
    size -= static_cast<size_t>(sent);
  }
}

void receive_all(int fd, void* data, size_t size, const Deadline& deadline) {
  auto* bytes = static_cast<char*>(data);
  while (size) {
    await(fd, POLLIN, deadline);
    ssize_t got = recv(fd, bytes, size, MSG_DONTWAIT);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) throw Lost("the connection broke");
    bytes += got;
    size -= static_cast<size_t>(got);
  }
}

std::string with_size(const std::string& text) {
  int32_t size = static_cast<int32_t>(text.size());
  return std::string(reinterpret_cast<const char*>(&size), sizeof size) + text;
}

std::string receive_text(int fd, const Deadline& deadline) {
  uint32_t size = 0;
  receive_all(fd, &size, sizeof size, deadline);
  if (size > (1u << 20)) throw Lost("nonsense was sent");
  std::string text(size, '\0');
  receive_all(fd, &text[0], size, deadline);
  return text;
}

std::string random_key(const std::string& key) {
  static std::random_device device;
  return key + ":" + std::to_string(device());
}

// Connects within the deadline, or returns -1.
int connect_to(const std::string& host, int port, const Deadline& deadline) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found)) return -1;
  int fd = -1;
  for (addrinfo* at = found; at && fd < 0; at = at->ai_next) {
    fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, at->ai_protocol);
    if (fd < 0) continue;
    int problem = connect(fd, at->ai_addr, at->ai_addrlen) ? errno : 0;
    if (problem == EINPROGRESS) {
      try {
        await(fd, POLLOUT, deadline);
        socklen_t size = sizeof problem;
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &problem, &size);
      } catch (const Lost&) {
      }
    }
    if (problem) {
      close(fd);
      fd = -1;
    }
  }
  freeaddrinfo(found);
  return fd;
}

// The connection to the tracker: a list in JSON is sent, one comes back.
class Tracker {
 public:
  explicit Tracker(const Options& options, int port) : options_(options), port_(port) {}

  bool connected() const { return fd_ >= 0; }
  int fd() const { return fd_; }

  void connect() {
    Deadline deadline(kTrackerMs);
    fd_ = connect_to(options_.tracker_host, options_.tracker_port, deadline);
    if (fd_ < 0) throw Lost("no tracker");
    int32_t magic = kTrackerMagic;
    send_all(fd_, &magic, sizeof magic, deadline);
    receive_all(fd_, &magic, sizeof magic, deadline);
    if (magic != kTrackerMagic) throw Lost("not a tracker");
    std::ostringstream info;
    info << "[" << kUpdateInfo << ", {\"key\": \"server:" << options_.key << "\", \"addr\": [" << address()
         << ", " << port_ << "]}]";
    ask(info.str());
  }

  void drop() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

  void offer(const std::string& match) {
    std::ostringstream text;
    text << "[" << kPut << ", \"" << options_.key << "\", [" << port_ << ", \"" << match << "\"], "
         << address() << "]";
    ask(text.str());
  }

  bool pending(const std::string& match) {
    std::string keys = ask("[" + std::to_string(kPendingKeys) + "]");
    return keys.find("\"" + match + "\"") != std::string::npos;
  }

 private:
  std::string address() const {
    return options_.advertise.empty() ? "null" : "\"" + options_.advertise + "\"";
  }

  std::string ask(const std::string& text) {
    Deadline deadline(kTrackerMs);
    std::string message = with_size(text);
    send_all(fd_, message.data(), message.size(), deadline);
    return receive_text(fd_, deadline);
  }

  const Options& options_;
  int port_, fd_ = -1;
};

int listen_on(Options& options, int* port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  if (getaddrinfo(options.host.c_str(), "0", &hints, &found)) {
    fprintf(stderr, "error: there is no address %s\n", options.host.c_str());
    exit(2);
  }
  int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), yes = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  for (*port = options.port; *port <= options.port_end; ++*port) {
    uint16_t number = htons(static_cast<uint16_t>(*port));
    if (found->ai_family == AF_INET6) {
      reinterpret_cast<sockaddr_in6*>(found->ai_addr)->sin6_port = number;
    } else {
      reinterpret_cast<sockaddr_in*>(found->ai_addr)->sin_port = number;
    }
    if (!bind(fd, found->ai_addr, found->ai_addrlen) && !listen(fd, 1024)) {
      sockaddr_storage own{};
      socklen_t size = sizeof own;
      getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size);
      *port = ntohs(own.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&own)->sin6_port
                                               : reinterpret_cast<sockaddr_in*>(&own)->sin_port);
      freeaddrinfo(found);
      return fd;
    }
  }
  fprintf(stderr, "error: no free port from %d to %d on %s\n", options.port, options.port_end,
          options.host.c_str());
  exit(1);
}

// A client that has not said yet who it is: none holds up another, and all of what it says has one time limit.
class Greeting {
 public:
  explicit Greeting(int fd) : fd_(fd), deadline_(kGreetingMs) {}
  Greeting(const Greeting&) = delete;
  ~Greeting() {
    if (fd_ >= 0) close(fd_);
  }

  int fd() const { return fd_; }
  int left_ms() const { return deadline_.left_ms(); }

  // Takes what has come: whether the client knows the key, and its session may begin.
  bool proceed(const std::string& match, const std::string& key) {
    char chunk[1024];
    // No more than the greeting: what follows is the session's.
    ssize_t got = recv(fd_, chunk, std::min(sizeof chunk, needed() - said_.size()), MSG_DONTWAIT);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) return false;
    if (got <= 0) throw Lost("a client left before it said what it wants");
    said_.append(chunk, static_cast<size_t>(got));
    if (said_.size() >= sizeof(int32_t) && number(0) != kMagic) throw Lost("not a client of TVM's RPC");
    if (said_.size() < needed()) return false;
    std::istringstream words(said_.substr(2 * sizeof(int32_t)));
    std::string word;
    words >> word;
    if (word != "client:" + match) {
      int32_t answer = kMismatch;
      send_all(fd_, &answer, sizeof answer, deadline_);
      throw Lost("a client came with another key");
    }
    while (words >> word) {
      if (word.rfind("-timeout=", 0) == 0) limit_s_ = atof(word.c_str() + 9);
    }
    int32_t answer = kMagic;
    std::string name = with_size("server:" + key);
    send_all(fd_, &answer, sizeof answer, deadline_);
    send_all(fd_, name.data(), name.size(), deadline_);
    return true;
  }

  // The connection, blocking from now on, and the time limit of its session in seconds (0: none).
  int take(double* limit_s) {
    int fd = fd_;
    fd_ = -1;
    *limit_s = limit_s_;
    return fd;
  }

 private:
  int32_t number(size_t at) const {
    int32_t value = 0;
    memcpy(&value, said_.data() + at, sizeof value);
    return value;
  }

  // Bytes of the whole greeting, as far as it is known: a magic number, the key's length, the key.
  size_t needed() const {
    size_t head = 2 * sizeof(int32_t);
    if (said_.size() < head) return head;
    auto size = static_cast<uint32_t>(number(sizeof(int32_t)));
    if (size > kLongestKey) throw Lost("nonsense was sent");
    return head + size;
  }

  int fd_;
  Deadline deadline_;
  std::string said_;
  double limit_s_ = 0;
};

void remove_folder(const std::string& path) {
  if (DIR* folder = opendir(path.c_str())) {
    while (dirent* entry = readdir(folder)) {
      std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      std::string inside = path + "/" + name;
      if (unlink(inside.c_str()) && errno == EISDIR) remove_folder(inside);
    }
    closedir(folder);
  }
  rmdir(path.c_str());
}

// Removes the folders of sessions whose server was killed: a living one holds a lock on its own.
void remove_dead_sessions(const std::string& parent) {
  DIR* folder = opendir(parent.c_str());
  if (!folder) return;
  while (dirent* entry = readdir(folder)) {
    if (strncmp(entry->d_name, kSessionFolder, strlen(kSessionFolder))) continue;
    std::string path = parent + "/" + entry->d_name;
    int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat status {};
    // One that was made this moment may not be locked yet.
    bool fresh = fd >= 0 && (fstat(fd, &status) || time(nullptr) - status.st_mtime < 2);
    if (fd >= 0 && !fresh && !flock(fd, LOCK_EX | LOCK_NB)) remove_folder(path);
    if (fd >= 0) close(fd);
  }
  closedir(folder);
}

[[noreturn]] void refuse(const std::string& what) { throw std::runtime_error(what); }

// Seconds of work that lasts as many cycles on any core: each step needs the one before it. Of a few, the fastest.
double pace() {
  double best = 1e9;
  for (int i = 0; i < 3; ++i) {
    auto before = std::chrono::steady_clock::now();
    volatile uint64_t kept = 0;
    uint64_t value = static_cast<uint64_t>(i) + 1;
    for (int step = 0; step < 100000; ++step) value = value * 6364136223846793005u + 1442695040888963407u;
    kept = value;
    (void)kept;
    std::chrono::duration<double> took = std::chrono::steady_clock::now() - before;
    best = std::min(best, took.count());
  }
  return best;
}

// Files of the system whose paths match one of the patterns (a line each), as "path<tab>first line" lines.
std::string matching(const std::string& patterns, const std::string& system) {
  std::istringstream lines(patterns);
  std::ostringstream text;
  for (std::string pattern; std::getline(lines, pattern);) {
    glob_t found{};
    if (!glob((system + "/" + pattern).c_str(), 0, nullptr, &found)) {
      for (size_t i = 0; i < found.gl_pathc; ++i) {
        std::ifstream file(found.gl_pathv[i]);
        std::string line;
        if (std::getline(file, line)) text << found.gl_pathv[i] + system.size() + 1 << '\t' << line << '\n';
      }
    }
    globfree(&found);
  }
  return text.str();
}

void register_functions(const std::string& folder, const std::string& system) {
  auto path = [folder](const std::string& name) { return folder + "/" + name.substr(name.rfind('/') + 1); };
  auto set = [](const char* name, ffi::Function function) {
    ffi::Function::SetGlobal(name, function, true);
  };
  set("tvm.rpc.server.workpath",
      ffi::Function::FromTyped([path](ffi::String name) { return ffi::String(path(std::string(name))); }));
  set("tvm.rpc.server.load_module", ffi::Function::FromTyped([path](ffi::String name) {
        return ffi::Module::LoadFromFile(path(std::string(name)));
      }));
  // TVM's own does not notice a full disk.
  set("tvm.rpc.server.upload", ffi::Function::FromTyped([path](ffi::String name, ffi::Bytes data) {
        std::string file = path(std::string(name));
        int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
        size_t done = 0;
        while (fd >= 0 && done < data.size()) {
          ssize_t wrote = write(fd, data.data() + done, data.size() - done);
          if (wrote < 0 && errno == EINTR) continue;
          if (wrote <= 0) break;
          done += static_cast<size_t>(wrote);
        }
        int why = errno;
        if (fd < 0 || done < data.size() || close(fd)) {
          unlink(file.c_str());
          refuse("the device cannot store " + file + ": " + strerror(why));
        }
      }));
  set("ofa_tvm.device.read", ffi::Function::FromTyped([](ffi::String name) {
        std::ifstream file{std::string(name)};
        std::ostringstream text;
        if (file) text << file.rdbuf();
        return ffi::String(text.str());
      }));
  set("ofa_tvm.device.arch", ffi::Function::FromTyped([]() {
        utsname names{};
        uname(&names);
        return ffi::String(names.machine);
      }));
  set("ofa_tvm.device.features", ffi::Function::FromTyped([]() { return ffi::String(features()); }));
  set("ofa_tvm.device.pace", ffi::Function::FromTyped([]() { return pace(); }));
  set("ofa_tvm.device.matching", ffi::Function::FromTyped([system](ffi::String patterns) {
        return ffi::String(matching(std::string(patterns), system));
      }));
  set("ofa_tvm.device.emulated", ffi::Function::FromTyped([]() { return counter != nullptr; }));
  if (counter) {
    set("runtime.timer.cpu", ffi::Function::FromTyped([](DLDevice) {
          auto node = ffi::make_object<InstructionTimer>();
          node->Start();
          return tvm::runtime::Timer(ffi::ObjectPtr<tvm::runtime::TimerNode>(node));
        }));
  }
}

// Libraries that make GPUs TVM's devices, where the folder beside the server has them. Drivers do not survive a
// fork, so they are loaded by the session.
void load_gpu_runtimes() {
  char own[4096];
  ssize_t size = readlink("/proc/self/exe", own, sizeof own - 1);
  if (size < 0) return;
  std::string path(own, static_cast<size_t>(size));
  std::string folder = path.substr(0, path.rfind('/')) + "/lib/";
  for (const char* kind : {"opencl", "cuda"}) {
    std::string library = folder + "libtvm_runtime_" + kind + ".so";
    if (access(library.c_str(), R_OK)) continue;
    if (!strcmp(kind, "opencl") && !dlopen("libOpenCL.so.1", RTLD_NOW | RTLD_GLOBAL)) {
      dlopen("libOpenCL.so", RTLD_NOW | RTLD_GLOBAL);  // boards' vendors leave the version out
    }
    if (!dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL)) {
      fprintf(stderr, "no %s in this session: %s\n", kind, dlerror());
    }
  }
}

// The size of TVM's pool of threads, of which a client then takes as many as its module is for; left alone, TVM
// takes half of an x86 board's CPUs for hyperthreads and no more can be had.
void allow_all_cpus() {
  cpu_set_t cpus;
  if (!sched_getaffinity(0, sizeof cpus, &cpus)) {
    setenv("TVM_NUM_THREADS", std::to_string(CPU_COUNT(&cpus)).c_str(), 0);
  }
}

[[noreturn]] void serve_session(int fd, const std::string& folder, const Options& options) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  try {
    keep_to(options.cpus, options.system);
    load_gpu_runtimes();
    if (chdir(folder.c_str())) refuse("cannot enter " + folder);
    allow_all_cpus();
    register_functions(folder, options.system);
    ffi::Function::GetGlobalRequired("rpc.ServerLoop")(fd);
  } catch (const std::exception& error) {
    fprintf(stderr, "session: %s\n", error.what());
    _exit(1);
  }
  _exit(0);
}

void serve(int fd, const Options& options, double limit_s) {
  int yes = 1, idle_s = 30;
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);  // a client that lost power frees the device
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  std::string folder = options.folder + "/" + kSessionFolder + "XXXXXX";
  if (!mkdtemp(&folder[0])) {
    fprintf(stderr, "cannot make a folder in %s: %s\n", options.folder.c_str(), strerror(errno));
    close(fd);
    return;
  }
  int lock = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock >= 0) flock(lock, LOCK_EX | LOCK_NB);
  pid_t child = fork();
  if (!child) serve_session(fd, folder, options);
  close(fd);
  if (child > 0) {
    // Blocked, not polling: what this process executes would count as the session's instructions.
    alarm(limit_s > 0 ? static_cast<unsigned>(limit_s + 1) : 0);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
      if (!ended_by) fprintf(stderr, "a session exceeded its %g s and was ended\n", limit_s);
      kill(child, SIGKILL);
    }
    alarm(0);
    if (WIFSIGNALED(status)) fprintf(stderr, "a session ended by %s\n", strsignal(WTERMSIG(status)));
  }
  remove_folder(folder);
  if (lock >= 0) close(lock);
  if (ended_by) throw Ended();
}

// Waits until a client comes who was sent by the tracker (or, without one, simply comes).
int wait_for_client(int listener, Tracker* tracker, const Options& options, double* limit_s) {
  std::string match = options.key;
  int unclaimed = 0;
  if (tracker) {
    if (!tracker->connected()) tracker->connect();
    match = random_key(options.key);
    tracker->offer(match);
  }
  std::list<Greeting> clients;
  Deadline ping(kPingMs);
  while (true) {
    std::vector<pollfd> waiting{{listener, POLLIN, 0}};
    int wait_ms = tracker ? ping.left_ms() : kPingMs;
    for (const Greeting& client : clients) {
      waiting.push_back({client.fd(), POLLIN, 0});
      wait_ms = std::min(wait_ms, client.left_ms());
    }
    if (poll(waiting.data(), waiting.size(), wait_ms) < 0 && errno != EINTR) throw Lost("poll failed");
    if (ended_by) throw Ended();
    auto at = waiting.begin() + 1;
    for (auto client = clients.begin(); client != clients.end(); ++at) {
      try {
        if (at->revents && client->proceed(match, options.key)) return client->take(limit_s);
        if (!client->left_ms()) throw Lost("a client did not say in time what it wants");
        ++client;
      } catch (const Lost& why) {
        fprintf(stderr, "%s\n", why.what());
        client = clients.erase(client);
      }
    }
    for (int fd; waiting[0].revents && (fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) {
      clients.emplace_back(fd);
      if (clients.size() > kMostClients) clients.pop_front();  // the one that kept silent longest
    }
    if (tracker && !ping.left_ms()) {
      unclaimed = tracker->pending(match) ? 0 : unclaimed + 1;
      if (unclaimed >= kUnclaimedPings) {  // given to a client that never came
        match = random_key(options.key);
        tracker->offer(match);
        unclaimed = 0;
      }
      ping = Deadline(kPingMs);
    }
  }
}

int port_of(const std::string& name, const std::string& text, int least) {
  char* end = nullptr;
  long port = strtol(text.c_str(), &end, 10);
  if (end != text.c_str() && !*end && port >= least && port <= 65535) return static_cast<int>(port);
  fprintf(stderr, "error: %s takes a port from %d to 65535, not %s\n", name.c_str(), least, text.c_str());
  exit(2);
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i];
    if (name == "--help" || i + 1 == argc) {
      fprintf(name == "--help" ? stdout : stderr,
              "usage: ofa-tvm-device [--host ADDRESS] [--port N] [--port-end N] [--tracker HOST:PORT]\n"
              "                      [--key NAME] [--advertise ADDRESS] [--folder FOLDER]\n"
              "                      [--cpus big|little|all|LIST]\n\n"
              "Serves TVM's RPC, one session at a time. It runs whatever it is sent: it listens on the\n"
              "loopback address unless --host says otherwise (0.0.0.0 for all), and only a network that\n"
              "you trust may reach it. Where cores differ it keeps to the fastest kind, unless --cpus says\n"
              "otherwise: the slowest (little), all, or by number (4-7 or 0,2).\n");
      exit(name == "--help" ? 0 : 2);
    }
    std::string value = argv[++i];
    if (name == "--host") {
      options.host = value;
    } else if (name == "--port") {
      options.port = options.port_end = port_of(name, value, 0);
    } else if (name == "--port-end") {
      options.port_end = port_of(name, value, 0);
    } else if (name == "--key") {
      options.key = value;
    } else if (name == "--advertise") {
      options.advertise = value;
    } else if (name == "--with-parent") {
      options.with_parent = value == "1";
    } else if (name == "--cpus") {
      options.cpus = value;
    } else if (name == "--system") {
      options.system = value;
    } else if (name == "--folder") {
      options.folder = value;
    } else if (name == "--tracker" && value.rfind(':') != std::string::npos) {
      options.tracker_host = value.substr(0, value.rfind(':'));
      options.tracker_port = port_of("the address behind --tracker", value.substr(value.rfind(':') + 1), 1);
    } else {
      fprintf(stderr, "error: bad option %s %s\n", name.c_str(), value.c_str());
      exit(2);
    }
  }
  return options;
}

void map_counter() {
  const char* name = getenv("OFA_TVM_COUNTER");
  if (!name) return;
  int fd = open(name, O_RDONLY | O_CLOEXEC);
  void* page = fd < 0 ? MAP_FAILED : mmap(nullptr, 8, PROT_READ, MAP_SHARED, fd, 0);
  if (page == MAP_FAILED) {
    fprintf(stderr, "error: cannot map %s: %s\n", name, strerror(errno));
    exit(1);
  }
  close(fd);
  counter = static_cast<volatile const uint64_t*>(page);
}

}  // namespace

int main(int argc, char** argv) {
  Options options = parse(argc, argv);
  map_counter();
  struct sigaction awake {};
  awake.sa_handler = [](int) {};  // an alarm ends a wait for a session
  sigaction(SIGALRM, &awake, nullptr);
  signal(SIGXFSZ, SIG_IGN);  // a full disk is reported, not died of
  struct sigaction ending {};
  ending.sa_handler = [](int number) { ended_by = number; };
  for (int number : {SIGTERM, SIGINT, SIGHUP}) {
    struct sigaction before {};
    sigaction(number, nullptr, &before);
    if (before.sa_handler != SIG_IGN) sigaction(number, &ending, nullptr);  // nohup's choice is kept
  }
  if (options.cpus != "all" && options.cpus != "big" && options.cpus != "little" && listed(options.cpus).empty()) {
    fprintf(stderr, "error: --cpus is big, little, all or numbers such as 4-7, not %s\n", options.cpus.c_str());
    return 2;
  }
  remove_dead_sessions(options.folder);
  if (options.with_parent) prctl(PR_SET_PDEATHSIG, SIGKILL);
  int port = 0, listener = listen_on(options, &port);
  Tracker connection(options, port);
  Tracker* tracker = options.tracker_port ? &connection : nullptr;
  printf("listening on %s:%d\n", options.host.c_str(), port);
  fflush(stdout);
  while (true) {
    try {
      double limit_s = 0;
      int fd = wait_for_client(listener, tracker, options, &limit_s);
      serve(fd, options, limit_s);
    } catch (const Ended&) {
      fprintf(stderr, "stopped\n");
      return 128 + ended_by;
    } catch (const Lost& why) {
      if (tracker) {  // it may restart: offer the device again as soon as it is back
        tracker->drop();
        usleep(500000);
      }
    }
  }
}
