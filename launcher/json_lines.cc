#include "launcher/json_lines.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <system_error>
#include <utility>

#include "common/files.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

uintmax_t SizeOf(const fs::path& path) {
  std::error_code error;
  const uintmax_t bytes = fs::file_size(path, error);
  return error ? 0 : bytes;
}

// Returns the size of what is left.
uintmax_t DropTornLine(const fs::path& path) {
  constexpr uintmax_t kBlock = 1 << 16;
  const uintmax_t bytes = SizeOf(path);
  uintmax_t whole = bytes;
  std::ifstream file(path, std::ios::binary);
  for (std::string block; whole > 0; whole -= block.size()) {
    block.resize(std::min(kBlock, whole));
    file.seekg(static_cast<std::streamoff>(whole - block.size()));
    // What cannot be read is left alone.
    if (!file.read(block.data(), static_cast<std::streamsize>(block.size()))) return bytes;
    if (const size_t newline = block.rfind('\n'); newline != std::string::npos) {
      whole -= block.size() - newline - 1;
      break;
    }
  }
  std::error_code error;
  if (whole != bytes) fs::resize_file(path, whole, error);
  return error ? bytes : whole;
}

}  // namespace

absl::Status DamagedLine(const fs::path& path, int64_t line) {
  return absl::DataLossError(
      fmt::format("{}: line {} is no JSON object: it is damaged; delete that line to go without it",
                  path.string(), line));
}

absl::StatusOr<std::vector<nlohmann::ordered_json>> ReadJsonLines(const fs::path& path) {
  std::vector<nlohmann::ordered_json> lines;
  std::error_code error;
  if (!fs::exists(path, error) && !error) return lines;
  SAVIOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  size_t begin = 0;
  for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    nlohmann::ordered_json line = nlohmann::ordered_json::parse(
        text.begin() + static_cast<ptrdiff_t>(begin), text.begin() + static_cast<ptrdiff_t>(end),
        nullptr, /*allow_exceptions=*/false);
    if (!line.is_object()) return DamagedLine(path, static_cast<int64_t>(lines.size()) + 1);
    lines.push_back(std::move(line));
  }
  return lines;
}

JsonLines::JsonLines(fs::path path) : path_(std::move(path)), bytes_(DropTornLine(path_)) {
  file_.open(path_, std::ios::app);
}

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
