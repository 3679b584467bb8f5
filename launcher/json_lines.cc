#include "launcher/json_lines.h"

#include <fmt/format.h>

#include <string>
#include <system_error>
#include <utility>

namespace savior {
namespace {

namespace fs = std::filesystem;

uintmax_t SizeOf(const fs::path& path) {
  std::error_code error;
  const uintmax_t bytes = fs::file_size(path, error);
  return error ? 0 : bytes;
}

}  // namespace

JsonLines::JsonLines(fs::path path)
    : path_(std::move(path)), file_(path_, std::ios::app), bytes_(SizeOf(path_)) {}

absl::Status JsonLines::Add(const nlohmann::ordered_json& line) {
  const std::string text = line.dump();
  file_ << text << std::endl;  // flushed
  if (file_) {
    bytes_ += text.size() + 1;
    return absl::OkStatus();
  }
  // A part of the line may be there: it is taken back, so that the next one is a line of its own.
  // Closed first, since the stream would write its rest later.
  std::error_code error;
  file_.close();
  file_.clear();
  fs::resize_file(path_, bytes_, error);
  file_.open(path_, std::ios::app);
  return absl::ResourceExhaustedError(
      fmt::format("{}: cannot be written (disk full?)", path_.string()));
}

}  // namespace savior
