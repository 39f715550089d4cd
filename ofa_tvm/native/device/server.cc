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
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

#include <fstream>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>

// The wheel's tensor.h includes a header that the wheel does not have; nothing of tensor.h is needed here.
#define TVM_RUNTIME_TENSOR_H_
namespace tvm {
namespace runtime {}
}  // namespace tvm
#include <tvm/runtime/timer.h>

namespace {

namespace ffi = tvm::ffi;

constexpr int32_t kMagic = 0xFF271, kMismatch = kMagic + 2, kTrackerMagic = 0x2F271;
constexpr int kPut = 3, kUpdateInfo = 5, kPendingKeys = 7;
constexpr int kPingMs = 2000, kUnclaimedPings = 3;
constexpr uint32_t kLongestKey = 4096;

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
  int port = 9090, port_end = 9190, tracker_port = 0;
  bool with_parent = false;
};

void send_all(int fd, const void* data, size_t size) {
  auto* bytes = static_cast<const char*>(data);
  while (size) {
    ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) throw Lost("the connection broke");
    bytes += sent;
    size -= static_cast<size_t>(sent);
  }
}

void receive_all(int fd, void* data, size_t size, int limit_ms = 10000) {
  auto* bytes = static_cast<char*>(data);
  while (size) {
    pollfd waiting{fd, POLLIN, 0};
    int ready = poll(&waiting, 1, limit_ms);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) throw Lost("no answer");
    ssize_t got = recv(fd, bytes, size, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw Lost("the connection broke");
    bytes += got;
    size -= static_cast<size_t>(got);
  }
}

void send_text(int fd, const std::string& text) {
  int32_t size = static_cast<int32_t>(text.size());
  send_all(fd, &size, sizeof size);
  send_all(fd, text.data(), text.size());
}

std::string receive_text(int fd) {
  uint32_t size = 0;
  receive_all(fd, &size, sizeof size);
  if (size > (1u << 20)) throw Lost("nonsense was sent");
  std::string text(size, '\0');
  receive_all(fd, &text[0], size);
  return text;
}

std::string random_key(const std::string& key) {
  static std::random_device device;
  return key + ":" + std::to_string(device());
}

int connect_to(const std::string& host, int port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found)) return -1;
  int fd = -1;
  for (addrinfo* at = found; at && fd < 0; at = at->ai_next) {
    fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
    if (fd >= 0 && connect(fd, at->ai_addr, at->ai_addrlen)) {
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
    fd_ = connect_to(options_.tracker_host, options_.tracker_port);
    if (fd_ < 0) throw Lost("no tracker");
    int32_t magic = kTrackerMagic;
    send_all(fd_, &magic, sizeof magic);
    receive_all(fd_, &magic, sizeof magic);
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
    send_text(fd_, text);
    return receive_text(fd_);
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
  int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  for (*port = options.port; *port <= options.port_end; ++*port) {
    uint16_t number = htons(static_cast<uint16_t>(*port));
    if (found->ai_family == AF_INET6) {
      reinterpret_cast<sockaddr_in6*>(found->ai_addr)->sin6_port = number;
    } else {
      reinterpret_cast<sockaddr_in*>(found->ai_addr)->sin_port = number;
    }
    if (!bind(fd, found->ai_addr, found->ai_addrlen) && !listen(fd, 16)) {
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

// Accepts a client that knows the key; its session's time limit in seconds is the result (0: none).
int greet(int fd, const std::string& match, const std::string& key, double* limit_s) {
  int32_t magic = 0;
  receive_all(fd, &magic, sizeof magic);
  if (magic != kMagic) throw Lost("not a client of TVM's RPC");
  std::istringstream words(receive_text(fd));
  std::string word;
  words >> word;
  if (word != "client:" + match) {
    int32_t answer = kMismatch;
    send_all(fd, &answer, sizeof answer);
    throw Lost("a client came with another key");
  }
  *limit_s = 0;
  while (words >> word) {
    if (word.rfind("-timeout=", 0) == 0) *limit_s = atof(word.c_str() + 9);
  }
  int32_t answer = kMagic;
  send_all(fd, &answer, sizeof answer);
  send_text(fd, "server:" + key);
  return fd;
}

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

[[noreturn]] void refuse(const std::string& what) { throw std::runtime_error(what); }

void register_functions(const std::string& folder) {
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

[[noreturn]] void serve_session(int fd, const std::string& folder) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  try {
    load_gpu_runtimes();
    if (chdir(folder.c_str())) refuse("cannot enter " + folder);
    register_functions(folder);
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
  std::string folder = options.folder + "/ofa-tvm-session-XXXXXX";
  if (!mkdtemp(&folder[0])) {
    fprintf(stderr, "cannot make a folder in %s: %s\n", options.folder.c_str(), strerror(errno));
    close(fd);
    return;
  }
  pid_t child = fork();
  if (!child) serve_session(fd, folder);
  close(fd);
  if (child > 0) {
    // Blocked, not polling: what this process executes would count as the session's instructions.
    alarm(limit_s > 0 ? static_cast<unsigned>(limit_s + 1) : 0);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
      fprintf(stderr, "a session exceeded its %g s and was ended\n", limit_s);
      kill(child, SIGKILL);
    }
    alarm(0);
    if (WIFSIGNALED(status)) fprintf(stderr, "a session ended by %s\n", strsignal(WTERMSIG(status)));
  }
  remove_folder(folder);
}

int accept_client(int listener) {
  int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd < 0) throw Lost("no client after all");
  return fd;
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
  while (true) {
    pollfd waiting{listener, POLLIN, 0};
    int ready = poll(&waiting, 1, tracker ? kPingMs : -1);
    if (ready < 0 && errno != EINTR) throw Lost("poll failed");
    if (ready > 0) {
      int fd = accept_client(listener);
      try {
        return greet(fd, match, options.key, limit_s);
      } catch (const Lost& why) {
        fprintf(stderr, "%s\n", why.what());
        close(fd);
      }
    } else if (ready == 0 && tracker) {
      unclaimed = tracker->pending(match) ? 0 : unclaimed + 1;
      if (unclaimed >= kUnclaimedPings) {  // given to a client that never came
        match = random_key(options.key);
        tracker->offer(match);
        unclaimed = 0;
      }
    }
  }
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i];
    if (name == "--help" || i + 1 == argc) {
      fprintf(name == "--help" ? stdout : stderr,
              "usage: ofa-tvm-device [--host ADDRESS] [--port N] [--port-end N] [--tracker HOST:PORT]\n"
              "                      [--key NAME] [--advertise ADDRESS] [--folder FOLDER]\n\n"
              "Serves TVM's RPC, one session at a time. It runs whatever it is sent: it listens on the\n"
              "loopback address unless --host says otherwise (0.0.0.0 for all), and only a network that\n"
              "you trust may reach it.\n");
      exit(name == "--help" ? 0 : 2);
    }
    std::string value = argv[++i];
    if (name == "--host") {
      options.host = value;
    } else if (name == "--port") {
      options.port = options.port_end = atoi(value.c_str());
    } else if (name == "--port-end") {
      options.port_end = atoi(value.c_str());
    } else if (name == "--key") {
      options.key = value;
    } else if (name == "--advertise") {
      options.advertise = value;
    } else if (name == "--with-parent") {
      options.with_parent = value == "1";
    } else if (name == "--folder") {
      options.folder = value;
    } else if (name == "--tracker" && value.rfind(':') != std::string::npos) {
      options.tracker_host = value.substr(0, value.rfind(':'));
      options.tracker_port = atoi(value.c_str() + value.rfind(':') + 1);
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
    } catch (const Lost& why) {
      if (tracker) {  // it may restart: offer the device again as soon as it is back
        tracker->drop();
        usleep(500000);
      }
    }
  }
}
