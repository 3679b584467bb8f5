#include "launcher/child.h"

#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "common/clock.h"
#include "common/files.h"

namespace savior {
namespace {

constexpr int kNotStarted = 127;  // as shells say it

// Paths of execvp, looked up before the fork: after it only few functions are safe.
absl::StatusOr<std::string> FindProgram(const std::string& name) {
  if (name.find('/') != name.npos) return name;
  const char* path = std::getenv("PATH");
  std::string folders = path ? path : "/usr/bin:/bin";
  for (size_t begin = 0; begin <= folders.size();) {
    const size_t end = std::min(folders.find(':', begin), folders.size());
    const std::string candidate = folders.substr(begin, end - begin) + "/" + name;
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
    begin = end + 1;
  }
  return absl::FailedPreconditionError(fmt::format("{}: no such program on the PATH", name));
}

struct Pipe {
  int read = -1, write = -1;
};

absl::StatusOr<Pipe> MakePipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return SystemError(errno, "pipe");
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  return Pipe{ends[0], ends[1]};
}

std::vector<std::string> Environment(const ChildOptions& options) {
  std::vector<std::string> variables;
  const auto is_replaced = [&options](const std::string& variable) {
    return std::ranges::any_of(
               options.unset,
               [&](const std::string& start) { return variable.starts_with(start); }) ||
           std::ranges::any_of(options.set, [&](const auto& name_and_value) {
             return variable.starts_with(name_and_value.first + "=");
           });
  };
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (!is_replaced(*variable)) variables.emplace_back(*variable);
  }
  for (const auto& [name, value] : options.set) variables.push_back(absl::StrCat(name, "=", value));
  return variables;
}

// For execve, which asks for pointers to what it does not change.
std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (const std::string& text : strings) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

struct Image {
  const char* program;
  char* const* argv;
  char* const* environment;
  int nice;
  const char* nice_text;
  int death_signal;
};

// Where the system shares out processors among sessions first (autogroup), nice counts only within
// one; the session's own is set by a file.
void LowerPriority(const Image& image) {
  ::setpriority(PRIO_PROCESS, 0, ::getpriority(PRIO_PROCESS, 0) + image.nice);
  const int group = ::open("/proc/self/autogroup", O_WRONLY);
  if (group < 0) return;
  // Without it the program runs as well, only faster than it should.
  static_cast<void>(::write(group, image.nice_text, ::strlen(image.nice_text)) < 0);
  ::close(group);
}

// In the child, between fork and exec: only functions that are safe there.
[[noreturn]] void Become(const Image& image, pid_t parent, int out, int err) {
  ::setsid();
  if (image.nice > 0) LowerPriority(image);
  ::prctl(PR_SET_PDEATHSIG, image.death_signal);
  if (::getppid() != parent) ::_exit(kNotStarted);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  const int empty = ::open("/dev/null", O_RDONLY);
  ::dup2(empty, STDIN_FILENO);
  ::dup2(out, STDOUT_FILENO);
  ::dup2(err, STDERR_FILENO);
  // A lock or a socket of the parent's must not live on in the child.
  ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
  ::execve(image.program, image.argv, image.environment);
  ::_exit(kNotStarted);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Child>> Child::Start(const std::vector<std::string>& argv,
                                                    const ChildOptions& options) {
  SAVIOR_ASSIGN_OR_RETURN(const std::string program, FindProgram(argv.at(0)));
  const std::vector<char*> arguments = Pointers(argv);
  const std::vector<std::string> variables = Environment(options);
  const std::vector<char*> environment = Pointers(variables);
  const std::string nice = std::to_string(options.nice);
  const Image image = {program.c_str(), arguments.data(), environment.data(),
                       options.nice,    nice.c_str(),     options.death_signal};
  SAVIOR_ASSIGN_OR_RETURN(const Pipe out, MakePipe());
  absl::StatusOr<Pipe> err = MakePipe();
  const pid_t parent = ::getpid();
  const pid_t pid = err.ok() ? ::fork() : -1;
  if (pid == 0) Become(image, parent, out.write, err->write);
  const absl::Status failed =
      pid > 0 ? absl::OkStatus() : SystemError(errno, "starting " + program);
  ::close(out.write);
  if (err.ok()) ::close(err->write);
  if (failed.ok()) return std::unique_ptr<Child>(new Child(pid, out.read, err->read));
  ::close(out.read);
  if (err.ok()) ::close(err->read);
  return failed;
}

Child::~Child() {
  if (!Ended()) {
    Kill();
    ::waitpid(pid_, nullptr, 0);
  }
  ::close(out_);
  ::close(err_);
}

void Child::Signal(int signal) const {
  if (!code_) ::kill(pid_, signal);
}

void Child::Kill() const {
  if (!code_) ::kill(pid_, SIGKILL);  // it may not have made its session yet
  ::kill(-pid_, SIGKILL);
}

std::optional<int> Child::Ended() {
  int status = 0;
  if (!code_ && ::waitpid(pid_, &status, WNOHANG) == pid_) {
    code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  return code_;
}

bool ReadAvailable(int fd, std::string& bytes) {
  std::array<char, 16384> buffer{};
  while (true) {
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n > 0) {
      bytes.append(buffer.data(), static_cast<size_t>(n));
    } else if (n == 0) {
      return false;
    } else if (errno != EINTR) {
      return errno == EAGAIN;
    }
  }
}

std::vector<Finished> RunAll(std::span<const std::vector<std::string>> commands,
                             std::chrono::milliseconds timeout) {
  const auto deadline = SteadyClock::now() + timeout;
  std::vector<Finished> finished(commands.size());
  std::vector<std::unique_ptr<Child>> children(commands.size());
  for (size_t i = 0; i < commands.size(); ++i) {
    absl::StatusOr<std::unique_ptr<Child>> child = Child::Start(commands[i]);
    if (child.ok()) {
      children[i] = std::move(*child);
    } else {
      finished[i].err = std::string(child.status().message());
    }
  }
  bool running = true;
  while (running && SteadyClock::now() < deadline) {
    running = false;
    for (size_t i = 0; i < children.size(); ++i) {
      if (!children[i]) continue;
      const std::optional<int> code = children[i]->Ended();
      ReadAvailable(children[i]->out(), finished[i].out);  // after the end, so nothing is missed
      ReadAvailable(children[i]->err(), finished[i].err);
      finished[i].code = code;
      if (code) {
        children[i].reset();
      } else {
        running = true;
      }
    }
    if (running) ::poll(nullptr, 0, 10);
  }
  return finished;
}

}  // namespace savior
