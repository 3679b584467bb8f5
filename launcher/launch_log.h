// What `savior launch` shows a person: lines of ranks and its own, each with who says it.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace savior {

// Lines go to stdout or stderr and to a file, whole and at once. Single-threaded.
class LaunchLog {
 public:
  // A file that cannot be opened leaves the terminal alone, which is said there.
  explicit LaunchLog(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }

  // "launch | 14:02:07 `text`", to stderr.
  void Say(std::string_view text);
  // "`who` | `line`"
  void Show(std::string_view who, std::string_view line, bool error);

 private:
  const std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace savior
