// Runs programs as a person does, and looks at what they print and how they end.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

namespace savior {

struct Ended {
  int code = -1;  // exit status; -signal where a signal ended it; -1000: still running
  std::string out = {}, err = {};
};

// A child process, killed at destruction if it still runs. Single-threaded.
class ChildProcess {
 public:
  // `arguments` includes the program; output goes to files in `folder`, where it is started.
  ChildProcess(const std::vector<std::string>& arguments, const std::filesystem::path& folder)
      : out_(folder / "child.out"), err_(folder / "child.err") {
    std::vector<char*> argv;
    for (const std::string& argument : arguments) {
      argv.push_back(const_cast<char*>(argument.c_str()));
    }
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ != 0) return;
    Redirect(out_, STDOUT_FILENO);
    Redirect(err_, STDERR_FILENO);
    if (::chdir(folder.c_str()) == 0) ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  ~ChildProcess() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  void Signal(int signal) const { ::kill(pid_, signal); }

  // Waits for the end, up to `limit`.
  Ended Wait(std::chrono::seconds limit = std::chrono::seconds(120)) {
    Ended ended{.code = -1000};
    const auto deadline = std::chrono::steady_clock::now() + limit;
    int status = 0;
    while (std::chrono::steady_clock::now() < deadline) {
      const pid_t done = ::waitpid(pid_, &status, WNOHANG);
      if (done == pid_) {
        ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
        pid_ = -1;
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    ended.out = BytesOf(out_);
    ended.err = BytesOf(err_);
    return ended;
  }

 private:
  static void Redirect(const std::filesystem::path& path, int to) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ::dup2(fd, to);
  }
  static std::string BytesOf(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  const std::filesystem::path out_, err_;
  pid_t pid_ = -1;
};

// Processes whose command line contains `text`, by ascending number; not this one.
inline std::vector<pid_t> ProcessesWith(const std::string& text) {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "cmdline", std::ios::binary);
    std::string line{std::istreambuf_iterator<char>(file), {}};
    if (line.find(text) != std::string::npos && std::stoi(name) != ::getpid()) {
      found.push_back(std::stoi(name));
    }
  }
  std::ranges::sort(found);
  return found;
}

}  // namespace savior
